"""Speed of the video backends on one film: 16 uniform frames of 640x480 H.264, in keyframes every 30 and every 250.

    python scripts/bench_video.py [FILE ...]

Each backend reads the same files in turn, in this process, the fastest of `--repeats` counts. The last column is the
time relative to pyav, in the same run. A FILE of your own replaces the films written here.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vsgrpo.errors import DataError, SetupError
from vsgrpo.video.decoders import DECODERS
from vsgrpo.video.reader import probe, read_uniform_frames
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


def fastest(use, repeats: int) -> float:
    """Return the least seconds of `repeats` calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        use()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--frames", type=int, default=600, help="frames of the films written here")
    parser.add_argument("--sampled", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = args.files
        if not files:
            files = [Path(folder) / f"keyframes_{interval}.mp4" for interval in (30, 250)]
            for file, interval in zip(files, (30, 250), strict=True):
                write_video(file, film(args.frames), fps=24, keyframe_interval=interval)
        print(f"{'file':<24} {'backend':<11} {'header s':>9} {f'{args.sampled} frames s':>12} {'of pyav':>8}")
        for file in files:
            base = None
            for backend in DECODERS:
                try:
                    header = fastest(lambda f=file, b=backend: probe(f, b), args.repeats)
                    frames = fastest(lambda f=file, b=backend: read_uniform_frames(f, args.sampled, b), args.repeats)
                except (DataError, SetupError) as error:
                    print(f"{file.name:<24} {backend:<11} {error.message}")
                    continue
                base = base or frames
                print(f"{file.name:<24} {backend:<11} {header:9.3f} {frames:12.3f} {frames / base:8.2f}")


if __name__ == "__main__":
    main()
