"""The pinned upstream series, and the private parts of it that the project overrides or calls.

Signatures are read from source text, so nothing heavy is imported.
"""

import ast
import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import pytest

from vsgrpo.errors import SetupError
from vsgrpo.modeling import load


@dataclass(frozen=True)
class Upstream:
    """One upstream function whose name and parameters this project relies on."""

    module: str
    name: str
    """`function` or `Class.method`."""
    parameters: tuple[str, ...]
    """All parameter names in order, `self` included, `*args`/`**kwargs` with their stars."""
    reason: str


_TRL = "trl.trainer.grpo_trainer"
_QWEN2_VL = "transformers.models.qwen2_vl.modeling_qwen2_vl"
_QWEN2_5_VL = "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl"
_QWEN3_VL = "transformers.models.qwen3_vl.modeling_qwen3_vl"
_QWEN3_5 = "transformers.models.qwen3_5.modeling_qwen3_5"
_DELTA_RULE = ("initial_state", "output_final_state", "use_qk_l2norm_in_kernel", "**kwargs")
_FORWARD_HEAD = (
    *("self", "input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds", "labels"),
    *("use_cache", "pixel_values", "pixel_values_videos", "image_grid_thw", "video_grid_thw", "mm_token_type_ids"),
)
UPSTREAM = (
    Upstream(_TRL, "GRPOTrainer._set_signature_columns_if_needed", ("self",), "keeps our row columns"),
    Upstream(_TRL, "GRPOTrainer._prepare_inputs", ("self", "generation_batch"), "keyed order of groups"),
    Upstream(_TRL, "GRPOTrainer._tokenize_prompts", ("self", "prompts"), "video token ids come from us"),
    Upstream(
        _TRL,
        "GRPOTrainer._generate_single_turn",
        ("self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images"),
        "keyed sampling",
    ),
    Upstream(_TRL, "GRPOTrainer._generate_and_score_completions", ("self", "inputs"), "per-row video features"),
    Upstream(_TRL, "GRPOTrainer._compute_loss", ("self", "model", "inputs"), "per-row video features"),
    Upstream(_TRL, "GRPOTrainer._get_train_sampler", ("self", "dataset"), "order of groups"),
    Upstream(
        _QWEN2_VL,
        "Qwen2VLModel.get_rope_index",
        ("self", "input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "attention_mask", "**kwargs"),
        "M-RoPE positions of prompts (inputs.py)",
    ),
    Upstream(
        _QWEN2_5_VL,
        "Qwen2_5_VLModel.get_rope_index",
        (
            *("self", "input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts"),
            *("attention_mask", "**kwargs"),
        ),
        "M-RoPE positions of prompts in seconds of video (inputs.py)",
    ),
    Upstream(
        _QWEN2_VL,
        "Qwen2VLForConditionalGeneration.forward",
        (*_FORWARD_HEAD, "logits_to_keep", "mm_encoder_outputs", "**kwargs"),
        "features by mm_encoder_outputs, lm_head on chosen positions by logits_to_keep (logps.py, rollout.py)",
    ),
    Upstream(
        _QWEN2_5_VL,
        "Qwen2_5_VLForConditionalGeneration.forward",
        (*_FORWARD_HEAD, "second_per_grid_ts", "logits_to_keep", "mm_encoder_outputs", "**kwargs"),
        "features by mm_encoder_outputs, lm_head on chosen positions by logits_to_keep (logps.py, rollout.py)",
    ),
    Upstream(
        _QWEN3_VL,
        "Qwen3VLModel.get_rope_index",
        ("self", "input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "attention_mask", "**kwargs"),
        "M-RoPE positions of prompts, each temporal patch a video (bundle.py)",
    ),
    Upstream(
        _QWEN3_VL,
        "Qwen3VLForConditionalGeneration.forward",
        (*(name for name in _FORWARD_HEAD if name != "use_cache"), "logits_to_keep", "mm_encoder_outputs", "**kwargs"),
        "features of all levels by mm_encoder_outputs (qwen3_vl.py)",
    ),
    Upstream(
        _QWEN3_VL,
        "Qwen3VLTextModel._deepstack_process",
        ("self", "hidden_states", "visual_pos_masks", "visual_embeds"),
        "levels are added at placeholders in row-major order (bundle.py, `PromptBatch._gather`)",
    ),
    Upstream(
        _QWEN3_VL,
        "Qwen3VLVisionAttention.forward",
        ("self", "hidden_states", "cu_seqlens", "position_embeddings", "max_seqlen", "**kwargs"),
        "batched attention of the vision tower (vision.py)",
    ),
    Upstream(
        "transformers.models.qwen3_vl.processing_qwen3_vl",
        "Qwen3VLProcessor.replace_video_token",
        ("self", "video_inputs", "video_idx", "**kwargs"),
        "the text of a video (families/qwen3_vl.py)",
    ),
    Upstream(
        "transformers.models.qwen3_vl.processing_qwen3_vl",
        "Qwen3VLProcessor._calculate_timestamps",
        ("self", "indices", "video_fps", "merge_size"),
        "times of temporal patches (video/budget.py)",
    ),
    Upstream(
        "transformers.modeling_utils",
        "slice_logits_to_keep",
        ("hidden_states", "logits_to_keep"),
        "2-D boolean and integer logits_to_keep",
    ),
    Upstream(
        _QWEN2_VL,
        "VisionAttention.forward",
        ("self", "hidden_states", "cu_seqlens", "position_embeddings", "max_seqlen", "**kwargs"),
        "batched attention of the vision tower (vision.py)",
    ),
    Upstream(
        _QWEN2_5_VL,
        "Qwen2_5_VLVisionAttention.forward",
        ("self", "hidden_states", "cu_seqlens", "position_embeddings", "max_seqlen", "**kwargs"),
        "batched attention of the vision tower, in windows too (vision.py)",
    ),
    Upstream(
        "transformers.utils.generic",
        "get_max_seqlen",
        ("cu_seqlens", "config", "kwargs", "kwarg_name"),
        "the length of the longest window (vision.py)",
    ),
    Upstream(
        "transformers.utils.generic",
        "is_flash_attention_requested",
        ("config", "requested_attention_implementation", "version"),
        "a registered name that contains `flash` gets all slices in one call (vision.py)",
    ),
    Upstream(
        _QWEN3_5,
        "Qwen3_5GatedDeltaNet.forward",
        ("self", "hidden_states", "cache_params", "attention_mask", "**kwargs"),
        "rewritten for trees; without one it is called (delta_net.py)",
    ),
    Upstream(
        _QWEN3_5,
        "torch_chunk_gated_delta_rule",
        ("query", "key", "value", "g", "beta", "chunk_size", *_DELTA_RULE),
        "reads a level of a tree from the states above it (delta_net.py)",
    ),
    Upstream(
        _QWEN3_5,
        "torch_recurrent_gated_delta_rule",
        ("query", "key", "value", "g", "beta", *_DELTA_RULE),
        "draws a token (delta_net.py)",
    ),
    Upstream(
        _QWEN3_5,
        "causal_conv1d_fn",
        ("hidden_states", "weight", "bias", "activation", "**kwargs"),
        "the convolution before the delta rule (delta_net.py)",
    ),
    Upstream(
        "transformers.cache_utils", "DynamicLayer.batch_select_indices", ("self", "indices"), "rows leave the cache"
    ),
)


def upstream_parameters(entry: Upstream) -> tuple[str, ...] | None:
    """Read the parameter names of an upstream function from its source text, without importing it.

    Returns:
        the names in order, or None where the module or the function does not exist.
    """
    package, _, rest = entry.module.partition(".")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent.joinpath(*rest.split(".")).with_suffix(".py")
    if not path.is_file():
        return None
    body: list[ast.stmt] = _parsed(path).body
    for part in entry.name.split("."):
        found = [node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == part]
        if not found:
            return None
        node = found[-1]
        body = node.body
    return _parameter_names(node.args) if isinstance(node, ast.FunctionDef) else None


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _parameter_names(arguments: ast.arguments) -> tuple[str, ...]:
    names = [argument.arg for argument in arguments.posonlyargs + arguments.args]
    if arguments.vararg:
        names.append("*" + arguments.vararg.arg)
    names += [argument.arg for argument in arguments.kwonlyargs]
    if arguments.kwarg:
        names.append("**" + arguments.kwarg.arg)
    return tuple(names)


def test_installed_packages_are_of_the_pinned_series():
    assert load.check_versions().keys() == {"trl", "transformers"}


def test_another_series_is_refused_with_the_command_that_mends_it(monkeypatch):
    monkeypatch.setattr(load, "PINNED_SERIES", {"transformers": "4.57"})
    with pytest.raises(SetupError, match=r"transformers=5\.\S+: vsgrpo overrides .* 4\.57\.\* only") as caught:
        load.check_versions()
    assert caught.value.hint == "pip install 'transformers==4.57.*'"


def test_a_missing_package_is_refused(monkeypatch):
    monkeypatch.setattr(load, "PINNED_SERIES", {"no-such-package": "1.0"})
    with pytest.raises(SetupError, match="no-such-package is not installed"):
        load.check_versions()


def test_every_upstream_function_we_rely_on_still_has_its_parameters():
    assert [
        f"{entry.module}.{entry.name}: expected {entry.parameters}, found {found} ({entry.reason})"
        for entry in UPSTREAM
        if (found := upstream_parameters(entry)) != entry.parameters
    ] == []


def test_a_vanished_upstream_function_is_reported():
    gone = Upstream("transformers.modeling_utils", "no_such_function", ("self",), "test")
    assert upstream_parameters(gone) is None
    assert upstream_parameters(Upstream("no_such_module", "f", (), "test")) is None
