"""Measure what a scan of ARKitScenes costs: CPU seconds from its files to a scene, and to pixels per object.

python scripts/bench_arkitscenes.py               # 250k vertices, 20 objects, 64 pictures of 256x192
python scripts/bench_arkitscenes.py --scans 3 --vertices 1000000
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

# Before numpy: spinning BLAS threads would be counted as work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from arkitscenes_scene import write_full_scene
from vsgrpo.scans.arkitscenes import read_scan
from vsgrpo.scans.source import SceneSettings, VisibilitySettings

STAGES = ("read files", "boxes and area", "pixels of pictures")


def time_scan(root: Path, video: str) -> list[float]:
    """Read one scan and count what its video shows; return CPU seconds per stage."""
    clock = [time.process_time()]
    scan = read_scan(root, video)
    clock.append(time.process_time())
    scene = scan.scene(SceneSettings(categories="benchmark"))
    clock.append(time.process_time())
    with scan.recording() as recording:
        settings = VisibilitySettings(num_frames=16, fps=10, stride_s=0.25, budgets=(8, 16, 32, 64))
        footage = recording.watch([item.instance_id for item in scene.objects], settings)
    if isinstance(footage, str):
        raise SystemExit(footage)
    clock.append(time.process_time())
    return np.diff(clock).tolist()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=3)
    parser.add_argument("--vertices", type=int, default=250_000)
    parser.add_argument("--objects", type=int, default=20)
    args = parser.parse_args()
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.scans + 1):
            video = f"{40000000 + number}"
            write_full_scene(Path(folder), video, args.vertices, args.objects)
            seconds.append(time_scan(Path(folder), video))
    for name, values in zip(STAGES, zip(*seconds[1:], strict=True), strict=True):  # the first scan loads libraries
        print(f"{name:20} {statistics.median(values):8.3f} CPU s")
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
