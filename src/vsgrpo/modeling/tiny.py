"""The models that are built here, small enough for a CPU: a tiny one of each family, and `small_lm`, which speaks.

A tiny model is a real one of its family: same class, chat template, special tokens and processor, random weights. Its
0.6M parameters let tests, CI and the demo run the true code path on one CPU core without downloading anything.

`small_lm` is SmolLM2-135M-Instruct as the language model of a Qwen2-VL. A Llama is a Qwen2 decoder whose q, k and v
biases are 0, and M-RoPE of text is RoPE, so the logits of a text are those of the Llama. The vision tower is random: it
must be trained before the model sees anything.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    Qwen2Tokenizer,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from vsgrpo.families import FAMILIES
from vsgrpo.families.family import Family, TinySizes
from vsgrpo.families.qwen2_vl import QWEN2_VL
from vsgrpo.families.small_lm import SMALL_LM_TOWER, gguf_file
from vsgrpo.modeling.weights import load_full, read_processor

_SPECIAL = "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start quad_end"
SPECIAL_TOKENS = tuple(
    f"<|{name}|>" for name in f"{_SPECIAL} vision_start vision_end vision_pad image_pad video_pad".split()
)
"""Special tokens of the Qwen families in the order of their ids."""

CHAT_TEMPLATE = """\
{%- for message in messages %}
{%- if loop.first and message['role'] != 'system' %}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}
{%- for part in message['content'] %}
{%- if part['type'] == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- elif part['type'] in ('image', 'image_url') %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif part['type'] == 'text' %}{{ part['text'] }}
{%- endif %}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""What the template of the Qwen families does, written anew: default system turn, parts in order, a placeholder per
image or video. Parts are told apart by `type` alone, so that null-filled keys of other kinds render nothing."""

_THOUGHT = """\
{%- if add_generation_prompt %}{{- '<think>\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{- '\\n</think>\\n\\n' }}{% endif %}{% endif %}"""
"""What the templates of Qwen3.5 add to it."""

# fmt: off
_CATEGORIES = (
    "chair", "sofa", "plant", "cabinet", "table", "bed", "desk", "lamp", "shelf", "door", "window", "curtain", "pillow",
    "sink", "toilet", "bathtub", "refrigerator", "counter", "monitor", "picture", "bookshelf", "backpack", "bin", "box",
    "stool", "nightstand", "dresser", "television", "bicycle", "shower",
)
# fmt: on
_WORDINGS = (
    "How many {a}(s) are in this room?",
    "How many {a}(s)in the room?",
    "What is the size of this room (in square meters)?",
    "If multiple rooms are shown, estimate the size of the combined space.",
    "What is the length of the longest dimension (length, width, or height) of the {a}, measured in centimeters?",
    "What is the length of the longest dimension (length,width, or height) of the {a}, measured in centimeters?",
    "What is the distance between the {a} and the {b} (in meters)?",
    "Measuring from the closest point of each object, what is the distance between the {a} and the {b} (in meters)?",
    "Which of these objects ({a}, {b}, {c}, {d}) is the closest to the {e}?",
    "If I am standing by the {a} and facing the {b}, is the {c} to the left or the right of the {b}?",
    "is the {a} to my left, right, or back? An object is to my back if I would have to turn at least 135 degrees in "
    "order to face it.",
    "is the {a} to my front-left, front-right, back-left, or back-right? The directions refer to the quadrants of a "
    "Cartesian plane (if I am standing at the origin and facing along the positive y-axis).",
    "You are a robot beginning at the {a} facing the {b}. You want to navigate to the {c}. You will perform the "
    "following actions (Note: for each [please fill in], choose either 'turn back,' 'turn left,' or 'turn right.')",
    "What will be the first-time appearance order of the following categories in the video: {a}, {b}, {c}, {d}?",
    "Please provide the short answer with one or two words or a number.",
    "Please answer the question using a single word or phrase.",
    "Answer with the option's letter from the given choices directly.",
    "These are frames of a video.",
    "Options: A. {a} B. {b} C. {c} D. {d}",
    "Please think step by step and enclose your thinking process in <think> </think> tags and then provide the short "
    "answer with one or two words or a number in <answer> </answer>.",
    "Please observe carefully and analyze what you see that helps you to solve the question in the video and enclose "
    "it in <observe> </observe> tag.",
    "system\nYou are a helpful assistant.",
    "user\nassistant\n",
    "zero one two three four five six seven eight nine ten left right front back",
)
_SPARE_TOKEN = "<repo_name>"
"""A token of SmolLM2 that no chat holds: the rows of new tokens start as copies of its row."""


def build_tiny(folder: Path, seed: int = 0, sizes: TinySizes | None = None, family: str = "qwen2_vl") -> None:
    """Write a tiny model with tokenizer, chat template and processor; `from_pretrained` loads it offline.

    The same seed gives the same weights, whatever the global random state, which is left as it was.

    Args:
        folder: created where missing.
        seed: of the weights; the tokenizer does not depend on it.
        sizes: defaults to `TinySizes()`.
        family: one of FAMILIES.
    """
    sizes, kind = sizes or TinySizes(), FAMILIES[family]
    tokenizer = build_tokenizer(sizes.vocab_size)
    tokenizer.add_tokens(list(kind.added_tokens))
    text = {**sizes.text_config(), **kind.tiny_text(sizes), "rms_norm_eps": 1e-6}
    model = _random_model(kind, _config(kind, tokenizer, text, kind.tiny_tower(sizes), rope_theta=1e6), seed)
    _save(folder, model, tokenizer, kind)


def build_tokenizer(vocab_size: int) -> Qwen2Tokenizer:
    """Train a byte-level BPE of at most `vocab_size` tokens on our own wording and add Qwen2-VL's special tokens."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    trained.train_from_iterator(_corpus(), trainer)
    bpe = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(vocab=bpe["vocab"], merges=[tuple(pair) for pair in bpe["merges"]])  # type: ignore
    tokenizer.add_tokens(list(SPECIAL_TOKENS), special_tokens=True)
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer


def _corpus() -> Iterator[str]:
    for shift in range(len(_CATEGORIES)):
        words = dict(zip("abcde", _CATEGORIES[shift:] + _CATEGORIES[:shift], strict=False))
        for wording in _WORDINGS:
            yield wording.format(**words)


def _config(
    family: Family, tokenizer: Any, text: dict[str, Any], vision: dict[str, Any], *, rope_theta: float, **values: Any
) -> Any:
    """Return a family's config for a tokenizer that has its special tokens.

    Args:
        text: sizes of the language model, by the names of `text_config`.
        vision: the whole `vision_config`.
        values: of the config itself.
    """
    half_head = text.get("head_dim", text["hidden_size"] // text["num_attention_heads"]) // 2
    half_head = int(half_head * family.rope.get("partial_rotary_factor", 1))
    time = half_head * family.rope["mrope_section"][0] // sum(family.rope["mrope_section"])
    height = (half_head - time) // 2
    sections = [time, height, half_head - time - height]
    rope = {**family.rope, "rope_type": "default", "rope_theta": rope_theta, "mrope_section": sections}
    ids = tokenizer.get_vocab()
    pad, end = ids["<|endoftext|>"], ids["<|im_end|>"]
    tokens = {"vocab_size": len(tokenizer), "bos_token_id": pad, "eos_token_id": end, "pad_token_id": pad}
    return family.model.config_class(
        text_config={**text, **tokens, "rope_parameters": rope},
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        dtype="float32",
        **values,
    )


def _random_model(family: Family, config: Any, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return family.model(config)


def _save(folder: Path, model: Any, tokenizer: Any, family: Family) -> None:
    """Write a model that was built here, with the family's processor around its tokenizer, and greedy decoding."""
    pad, end = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    model.generation_config = GenerationConfig(
        bos_token_id=pad, eos_token_id=[end, pad], pad_token_id=pad, do_sample=False
    )
    # The library writes weights on process 0 alone; here whichever process comes first builds the model for all.
    model.should_save_on_this_rank = lambda is_main_process: is_main_process
    model.save_pretrained(folder)
    images, videos = family.processors()
    template = CHAT_TEMPLATE
    if not family.default_system:
        turn, _, rest = template.partition("{%- endif %}\n")
        template = turn[: turn.index("{%- if")] + rest
    if "enable_thinking" in family.template_options:
        template += _THOUGHT
    family.processor(
        image_processor=images, tokenizer=tokenizer, video_processor=videos, chat_template=template
    ).save_pretrained(folder)


def build_small_lm(folder: Path, seed: int = 0) -> None:
    """Write `small_lm` with tokenizer, chat template and processor; `from_pretrained` loads it offline.

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
    model = _random_model(QWEN2_VL, _llama_config(llama.config, tokenizer), seed)
    _copy_weights(llama, model, tokenizer.convert_tokens_to_ids(_SPARE_TOKEN))
    _save(folder, model, tokenizer, QWEN2_VL)


def _with_vision_tokens(tokenizer: Any) -> Any:
    """Add the tokens of Qwen2-VL that SmolLM2 lacks, and split text as SmolLM2 was trained: digits, then words."""
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token = "<|im_end|>", "<|endoftext|>", None
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _llama_config(llama: Any, tokenizer: Any) -> Any:
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
    return _config(QWEN2_VL, tokenizer, text, vision, rope_theta=theta, tie_word_embeddings=True)


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
