"""Time the second pass of build-cot: answers from the cache, every filter, rows written.

    python scripts/bench_build_cot.py --rows 10000

Questions, chains (3,000 characters) and cache are made up here; every tenth answer needs math-verify. Prints wall and
CPU seconds of this process and its peak memory before and after the pass: with other work on the machine read the CPU.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import tempfile
import time
from functools import partial
from pathlib import Path

from PIL import Image

from vsgrpo.config.compose import load_config
from vsgrpo.vision_r1.bridge import Request, at_once, request_key, walk
from vsgrpo.vision_r1.build import CotSummary, write_filtered
from vsgrpo.vision_r1.chat import AnswerCache, Reply
from vsgrpo.vision_r1.questions import Item, find_source

WORDS = "the angle side we see that it is equal to so of length and compute circle radius area from line wait let check"


def _answer(number: int) -> str:
    return f"{number}\\sqrt{{3}}" if number % 10 == 0 else str(number)


def _chain(number: int, rng: random.Random) -> str:
    words = WORDS.split()
    said = [f"{' '.join(rng.choices(words, k=12)).capitalize()} {rng.randint(0, 99)}." for _ in range(45)]
    answer = f"\\sqrt{{3}} \\cdot {number}" if number % 10 == 0 else str(number)
    return f"<think>{' '.join(said)} So the answer is {answer}.</think><answer>{answer}</answer>"


def _write_questions(folder: Path, num_rows: int) -> None:
    folder.mkdir()
    picture = io.BytesIO()
    Image.new("RGB", (320, 240)).save(picture, "PNG")
    (folder / "a.png").write_bytes(picture.getvalue())
    with (folder / "train.jsonl").open("w") as stream:
        for i in range(1, num_rows + 1):
            row = {"id": f"q{i}", "problem": f"<image>What is number {i}?", "answer": _answer(i), "images": ["a.png"]}
            stream.write(json.dumps(row) + "\n")


def main() -> None:
    """Make the cache, run the pass, print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    num_rows = parser.parse_args().rows
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        data, out = Path(name) / "sums", Path(name) / "out"
        _write_questions(data, num_rows)
        out.mkdir()
        config = load_config("build_cot", [f"data={data}", f"output={out}", "pseudo.model=a", "reason.model=b"])
        source = find_source(data, "train", "auto", None, False)
        with AnswerCache(out / ".cot") as cache:

            async def answer(number: int, item: Item, request: Request) -> Reply:
                text = _chain(number, rng) if request.step == "reason" else f"words on {number} " * 40
                reply = Reply(text, None, "stop", 10, 20)
                cache.put(request_key(item, request, config), request.step, reply)
                return reply

            for number, item in enumerate(source.items(), start=1):
                at_once(walk(item, "caption", partial(answer, number, item)))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            wall, cpu = time.perf_counter(), time.process_time()
            summary = CotSummary(out / "train.jsonl", config)
            write_filtered(source.items(), cache, summary)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{summary.rows} rows, {summary.kept} kept: {wall:.1f} s wall, {cpu:.1f} s CPU")
    print(f"peak memory {before // 1024} MiB before, {after // 1024} MiB after")


if __name__ == "__main__":
    main()
