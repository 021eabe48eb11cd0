"""Qwen3.5's gated DeltaNet under a prefix tree."""

import pytest
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

from vsgrpo.errors import ConfigError
from vsgrpo.modeling.attention import require_tree_attention, use_tree_attention


@pytest.fixture(scope="module")
def hybrid():
    """A random Qwen3.5: three layers of gated DeltaNet, one of attention."""
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.25}
    sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
    attention = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rope_parameters": rope}
    delta = {"linear_num_key_heads": 2, "linear_num_value_heads": 4} | {
        f"linear_{name}_head_dim": 16 for name in ("key", "value")
    }
    text = {**sizes, **attention, **delta, "initializer_range": 0.08}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 64}
    ids = {"image_token_id": 500, "video_token_id": 501, "vision_start_token_id": 502, "vision_end_token_id": 503}
    config = Qwen3_5Config(text_config=text, vision_config={**vision, "num_position_embeddings": 36}, **ids)
    model = Qwen3_5ForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    use_tree_attention(model)
    return model


def test_a_recurrent_layer_takes_no_tree(hybrid):
    with pytest.raises(ConfigError, match=r"linear_attention layers .* would leak into each other"):
        require_tree_attention(hybrid)
