"""One GRPO step, `merge` and `eval` of a model of 2.2 billion random weights at its real size, on a CPU in bfloat16.

    python scripts/full_size.py FOLDER [--frames 4] [--group 4] [--keep]

Writes the model into FOLDER (4.2 GiB, with the published sizes of Qwen2-VL-2B-Instruct), films four demo rooms, and
runs the command line as a user would, each command in a process of its own. Prints seconds and peak memory of each, and
of the training run the estimate beside it. Weights are random: answers mean nothing, sizes and arithmetic are real.

Needs 16 GiB of free memory (`merge` compares both models in float32) and 14 GB of disk. The tokenizer is Qwen's own BPE
of 151,643 entries where a package that carries it is installed (`pip install --no-deps dashscope`), else the small one
of the tiny model; it says which.
"""

import argparse
import base64
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

GIB = 2**30
ENOUGH_GIB = 16
# https://huggingface.co/Qwen/Qwen2-VL-2B-Instruct/blob/main/config.json
TEXT = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "max_position_embeddings": 32768,
    "num_attention_heads": 12,
    "num_hidden_layers": 28,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    "vocab_size": 151936,
}
TOWER = {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "mlp_ratio": 4, "num_heads": 16, "patch_size": 14}
MODEL = "model"


def spread(completions: Sequence[object], **columns: object) -> list[float]:
    """Reward the k-th completion of a call with k modulo 5: random weights answer nothing that could be scored."""
    return [float(number % 5) for number in range(len(completions))]


def bpe_file() -> Path | None:
    """Return the file of Qwen's BPE ranks (tiktoken's format) in an installed package, None where there is none."""
    for package in ("dashscope",):
        spec = find_spec(package)
        for place in (spec and spec.submodule_search_locations) or ():
            file = Path(place) / "resources" / "qwen.tiktoken"
            if file.is_file():
                return file
    return None


def read_bpe(file: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return vocabulary and merges of a file of `BASE64 RANK` lines, in the letters of a byte-level BPE.

    The file ranks tokens; the merge that makes a token joins the two parts that lower ranks make of its bytes.
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = bytes_to_unicode()
    lines = (line.split() for line in file.read_bytes().splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    merges = []
    for token, rank in ranks.items():
        if len(token) > 1:
            parts = _parts(ranks, token, rank)
            if len(parts) != 2:
                raise ValueError(f"{file}: {token!r} is not made of two tokens of lower rank")
            merges.append(parts)

    def word(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    return {word(token): rank for token, rank in ranks.items()}, [(word(a), word(b)) for a, b in merges]


def _parts(ranks: dict[bytes, int], token: bytes, below: int) -> tuple[bytes, ...]:
    """Join the bytes of `token` by merges of rank lower than `below`, lowest first."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while True:
        found = [(ranks.get(a + b, below), i) for i, (a, b) in enumerate(pairwise(parts))]
        rank, at = min(found, default=(below, 0))
        if rank >= below:
            return tuple(parts)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def qwen_tokenizer(file: Path | None) -> Any:
    """Return Qwen2's tokenizer with the ranks of `file`, the tiny model's where it is None."""
    from transformers import Qwen2Tokenizer

    from vsgrpo.families.family import TinySizes
    from vsgrpo.modeling.tiny import SPECIAL_TOKENS, build_tokenizer

    if file is None:
        return build_tokenizer(TinySizes().vocab_size)
    vocab, merges = read_bpe(file)
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges)  # type: ignore[arg-type]
    tokenizer.add_tokens(list(SPECIAL_TOKENS), special_tokens=True)
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer


def build(folder: Path) -> None:
    """Write a Qwen2-VL of the published sizes with random weights in bfloat16, its processor and tokenizer."""
    import torch
    from transformers import GenerationConfig, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    from vsgrpo.families import FAMILIES
    from vsgrpo.modeling.tiny import CHAT_TEMPLATE

    tokenizer, classes = qwen_tokenizer(bpe_file()), FAMILIES["qwen2_vl"]
    ids = tokenizer.get_vocab()
    end, pad = ids["<|im_end|>"], ids["<|endoftext|>"]
    config = classes.model.config_class(
        text_config={**TEXT, "bos_token_id": pad, "eos_token_id": end, "pad_token_id": pad},
        vision_config=TOWER,
        tie_word_embeddings=True,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = classes.model(config)
    torch.set_default_dtype(torch.float32)
    model.generation_config = GenerationConfig(bos_token_id=pad, eos_token_id=[end, pad], pad_token_id=pad)
    model.save_pretrained(folder)
    videos = Qwen2VLVideoProcessor(cap_pixels_per_frame=False)
    images = Qwen2VLImageProcessor()
    classes.processor(
        image_processor=images, tokenizer=tokenizer, video_processor=videos, chat_template=CHAT_TEMPLATE
    ).save_pretrained(folder)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters; {len(tokenizer):,} tokens in the tokenizer")


def run(name: str, command: list[str]) -> tuple[float, float]:
    """Run a command to its end; return its seconds and the most memory it held (GiB), children included.

    Raises:
        SystemExit: it failed; its last lines are printed.
    """
    began = time.perf_counter()
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert done.stdout is not None
    lines = done.stdout.read().splitlines()
    _, status, usage = os.wait4(done.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code:
        raise SystemExit("\n".join([*lines[-15:], f"{name}: exit code {code}"]))
    seconds, peak = time.perf_counter() - began, usage.ru_maxrss * 1024 / GIB
    print(f"{name:10} {seconds:7.0f} s   peak {peak:5.2f} GiB", flush=True)
    return seconds, peak


def train_words(root: Path, frames: int, group: int) -> list[str]:
    """Return the overrides of the training run."""
    return [
        f"model.path={root / MODEL}",
        "model.dtype=bfloat16",
        "model.offline=true",
        "launch=cpu",
        f"data={root / 'data'}",
        f"output={root / 'run'}",
        f"video.num_frames={frames}",
        f"trainer.num_generations={group}",
        f"trainer.per_device_train_batch_size={group}",
        "trainer.gradient_accumulation_steps=1",
        "trainer.max_completion_length=8",
        "trainer.gradient_checkpointing=true",
        "trainer.max_steps=1",
        "trainer.save_steps=1",
        "trainer.save_total_limit=1",
        f"reward.names=[{Path(__file__).stem}:spread]",
    ]


def check_step(run_dir: Path) -> float:
    """Return by how much the adapter moved.

    Raises:
        SystemExit: the step has no finite loss, no gradient, or moved nothing.
    """
    from safetensors.torch import load_file

    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    step = next(line for line in lines if "grad_norm" in line)
    adapter = load_file(run_dir / "final" / "adapter_model.safetensors")
    moved = max(float(tensor.abs().max()) for name, tensor in adapter.items() if "lora_B" in name)
    if not math.isfinite(step["loss"]) or not 0 < step["grad_norm"] < math.inf or not moved:
        raise SystemExit(f"loss {step['loss']}, grad_norm {step['grad_norm']}, lora_B moved by {moved}")
    return moved


def main() -> None:
    """Build, train one step, merge, evaluate; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--keep", action="store_true", help="keep the weights that were written")
    parser.add_argument("--build", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    root: Path = options.folder
    if options.build:
        build(root / MODEL)
        return
    free = psutil.virtual_memory().available / GIB
    print(
        f"free memory {free:.1f} GiB; tokenizer: {bpe_file() or 'the tiny one: no package with qwen.tiktoken is here'}"
    )
    if free < ENOUGH_GIB:
        sys.exit(f"{ENOUGH_GIB} GiB are needed: a step would be killed for memory")
    root.mkdir(parents=True, exist_ok=True)
    if not (root / MODEL / "config.json").is_file():
        run("build", [sys.executable, __file__, str(root), "--build"])
    program = [sys.executable, "-m", "vsgrpo.cli"]
    rooms = ["source.num_scenes=4", "source.frame_size=448", "source.num_frames=8", f"output={root / 'data'}"]
    if not (root / "data").is_dir():
        run("data", [*program, "build-data", "experiment=demo_data", *rooms])
    words = train_words(root, options.frames, options.group)
    _, peak = run("train", [*program, "train", "grpo", *words, "--overwrite"])
    _compare(words, peak)
    print(f"the step moved lora_B by {check_step(root / 'run'):.3g}")
    merged = root / "merged"
    shutil.rmtree(merged, ignore_errors=True)
    run("merge", [*program, "merge", str(root / "run" / "final"), f"output={merged}", "--dtype", "bfloat16"])
    asked = ["benchmark=folder", f"benchmark.path={root / 'data' / 'train.jsonl'}", "benchmark.limit=2"]
    asked += ["model.dtype=bfloat16", "model.offline=true", "decoding.max_new_tokens=4", f"output={root / 'eval'}"]
    run("eval", [*program, "eval", f"model={merged}", *asked, "--overwrite"])
    scored = json.loads((root / "eval" / "results.json").read_text(encoding="utf-8"))
    print(f"eval: {sorted(scored)[:6]} in results.json")
    if not options.keep:
        for name in (MODEL, "merged", "run"):
            shutil.rmtree(root / name)


def _compare(words: list[str], peak: float) -> None:
    """Print the estimate of the training run beside its peak."""
    from vsgrpo.config.compose import load_config
    from vsgrpo.memory.passes import estimate_run
    from vsgrpo.training.preflight import load_rows

    config = load_config("train", ["trainer=grpo", *words])
    found = estimate_run(config, load_rows(config)[0])
    assert found is not None
    print(f"memory of the step: peak {peak:.2f} GiB, estimated {found.total / GIB:.2f} GiB ({found.largest_phase})")


if __name__ == "__main__":
    main()
