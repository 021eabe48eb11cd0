"""Speed of the video backends on one film: 16 uniform frames of 640x480 H.264, in keyframes every 30 and every 250.

    python scripts/bench_video.py [FILE ...]

    python scripts/bench_video.py --examine 40    # as check-data does: 40 files in parallel, then again from memory

Each backend reads the same files in turn, in this process; of `--repeats` the least counts, by the clock and in CPU
seconds, which other programs on the machine hardly change. The last column is CPU relative to pyav, in the same run. A
FILE of your own replaces the films written here.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from vsgrpo.errors import DataError, SetupError
from vsgrpo.video.budget import VisionBudget
from vsgrpo.video.reader import DECODERS, examine_media, probe, read_uniform_frames
from vsgrpo.video.writer import write_video


def film(num_frames: int) -> Iterator[np.ndarray]:
    """Yield 640x480 frames of a slow walk: a window that moves over a picture with detail, and sensor noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (48, 128, 3)).astype(np.float32)
    picture = np.kron(coarse, np.ones((16, 16, 1), np.float32))
    for number in range(num_frames):
        x, y = number % 1400, (number // 2) % 280
        window = picture[y : y + 480, x % (picture.shape[1] - 640) :][:, :640]
        yield (window + rng.normal(0, 3, window.shape)).clip(0, 255).astype(np.uint8)


def fastest(use, repeats: int) -> tuple[float, float]:
    """Return the least seconds of `repeats` calls, and the least CPU seconds."""
    times = []
    for _ in range(repeats):
        start, cpu = time.perf_counter(), time.process_time()
        use()
        times.append((time.perf_counter() - start, time.process_time() - cpu))
    return min(seconds for seconds, _ in times), min(cpu for _, cpu in times)


def time_examination(num_files: int, num_frames: int, sampled: int) -> None:
    """Print the seconds that examining copies of one film takes, new and remembered, and what 1,200 would take."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_video(folder / "film.mp4", film(num_frames), fps=24)
        content = (folder / "film.mp4").read_bytes()
        media = [("video", folder / f"{number}.mp4") for number in range(num_files)]
        for number, (_, path) in enumerate(media):  # a box that readers skip makes each copy another file
            path.write_bytes(content + (12).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big"))
        for what in ("decoded", "remembered"):
            start, cpu = time.perf_counter(), sum(os.times()[:4])
            found = examine_media(media, VisionBudget(num_frames=sampled), memory=folder / "memory.json")
            seconds, cpu = time.perf_counter() - start, sum(os.times()[:4]) - cpu
            assert not any(examined.problem for examined in found.values())
            rate = f"{seconds:.1f} s ({cpu:.1f} s of CPU), {seconds * 1200 / num_files:.0f} s for 1200"
            print(f"{num_files} films of {num_frames} frames, {what}: {rate}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--frames", type=int, default=600, help="frames of the films written here")
    parser.add_argument("--sampled", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--examine", type=int, default=0, metavar="N", help="examine N copies instead")
    args = parser.parse_args()
    if args.examine:
        time_examination(args.examine, args.frames, args.sampled)
        return
    with tempfile.TemporaryDirectory() as folder:
        files = args.files
        if not files:
            files = [Path(folder) / f"keyframes_{interval}.mp4" for interval in (30, 250)]
            for file, interval in zip(files, (30, 250), strict=True):
                write_video(file, film(args.frames), fps=24, keyframe_interval=interval)
        names = f"{'header s':>9} {f'{args.sampled} frames s':>12} {'CPU s':>7} {'of pyav':>8}"
        print(f"{'file':<24} {'backend':<11} {names}")
        for file in files:
            base = None
            for backend in DECODERS:
                try:
                    header, _ = fastest(partial(probe, file, backend), args.repeats)
                    read = partial(read_uniform_frames, file, args.sampled, backend)
                    frames, cpu = fastest(read, args.repeats)
                except (DataError, SetupError) as error:
                    print(f"{file.name:<24} {backend:<11} {error.message}")
                    continue
                base = base or cpu
                print(f"{file.name:<24} {backend:<11} {header:9.3f} {frames:12.3f} {cpu:7.3f} {cpu / base:8.2f}")


if __name__ == "__main__":
    main()
