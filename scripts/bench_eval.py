"""Time a greedy evaluation of many questions about one video: ours against the plain way, in one run.

python scripts/bench_eval.py [--video-tokens 1024] [--questions 18] [--plain-questions 5]

The plain way is that of evaluation harnesses: one question after another, each with its own pass of the vision tower
and its own prompt. Ours: the tower once, all questions behind one video prefix. Compute-bound random model in fp32 (LLM
8 x 512, tower 12 x 384), questions of 12 to 28 tokens, 8 new tokens each. Seconds are process CPU seconds on one
thread; the plain way is measured on the first `--plain-questions` and scaled up to all of them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from vsgrpo.families.family import TinySizes
from vsgrpo.modeling.bundle import base_model, vision_token_ids
from vsgrpo.modeling.load import load
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.tiny import build_tiny
from vsgrpo.modeling.tree import Prompt
from vsgrpo.modeling.vision import FeatureStore
from vsgrpo.video.budget import Medium
from vsgrpo.video.loader import VideoInputs

SIZES = TinySizes(12, 384, 6, 8, 512, 8, 2, 2816, 0.02)
_TOKENS_PER_SLICE = 64  # 16 x 16 patches of 14 px, merged 2 x 2


def main() -> None:
    """Parse arguments, time both ways, print seconds, their ratio and whether the answers agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video-tokens", type=int, default=1024, help="a multiple of 64")
    parser.add_argument("--questions", type=int, default=18)
    parser.add_argument("--plain-questions", type=int, default=5, help="how many of them the plain way is timed on")
    parser.add_argument("--new-tokens", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        build_tiny(Path(folder) / "m", 0, SIZES)
        bundle = load(str(Path(folder) / "m"), tune="none", dtype="float32", offline=True)
    config = base_model(bundle.model).config
    generator = torch.Generator().manual_seed(0)
    slices = options.video_tokens // _TOKENS_PER_SLICE
    frames = torch.randint(0, 256, (2 * slices, 3, 224, 224), dtype=torch.uint8, generator=generator)
    video = VideoInputs("video", frames, Medium("video", (slices, 16, 16), slices * _TOKENS_PER_SLICE))
    start = (
        5,
        6,
        config.vision_start_token_id,
        *[config.video_token_id] * video.medium.num_tokens,
        config.vision_end_token_id,
    )
    lengths = [12 + index * 16 // max(options.questions - 1, 1) for index in range(options.questions)]
    texts = [torch.randint(10, 200, (length,), generator=generator).tolist() for length in lengths]
    prompts = [Prompt((*start, *text), ("video",)) for text in texts]
    suppress = (*vision_token_ids(bundle.model), bundle.tokenizer.eos_token_id)  # answers of equal length
    sampling = Sampling(0, 0, options.new_tokens, eos_ids=(-1,), suppress=suppress, greedy=True)
    store = FeatureStore(bundle)

    def answer(some: list[Prompt], layout: str) -> tuple[list[list[int]], float]:
        began = time.process_time()
        keys = [(str(index), 0) for index in range(len(some))]
        tokens = rollout(bundle.model, some, store.features([video]), keys, sampling, layout=layout)
        return tokens, time.process_time() - began

    answer(prompts[:1], "plain")  # warm up
    timed = [answer([prompt], "plain") for prompt in prompts[: options.plain_questions]]
    plain = sum(seconds for _, seconds in timed) * options.questions / len(timed)
    ours, tree = min((answer(prompts, "tree") for _ in range(2)), key=lambda result: result[1])
    same = [tokens[0] for tokens, _ in timed] == ours[: len(timed)]
    print(f"{options.questions} questions behind {video.medium.num_tokens} video tokens, CPU seconds")
    print(f"plain way {plain:.2f} (timed on {len(timed)}), ours {tree:.2f}, ratio {plain / tree:.1f}")
    print(f"identical answers on those {len(timed)}: {same}")


if __name__ == "__main__":
    main()
