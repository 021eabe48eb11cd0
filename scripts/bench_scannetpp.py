"""Measure a ScanNet++ scan of real size: CPU seconds from its files to rows, memory, a walk; one thread.

python scripts/bench_scannetpp.py                 # 1,000,000 vertices, 60 objects; 5 scans
python scripts/bench_scannetpp.py --walk          # and a walk of 31 frames filmed from the thinned mesh
"""

from __future__ import annotations

import argparse
import json
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

from scannetpp_scene import write_full_scene
from vsgrpo.config.compose import load_config
from vsgrpo.data.build.scan import ScanJob, build_scan


def measure(num_scans: int, num_vertices: int, num_objects: int, walk: bool) -> dict:
    """Build rows of generated scans as build-data does, in both modes; the first scan loads libraries."""
    ways = {f"rows, {mode}": [f"data.mode={mode}", "video.source=none"] for mode in ("vsi100k", "vsibench")}
    if walk:
        ways["with a walk of 31 frames"] = ["data.mode=vsi100k", "video.source=mesh"]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        for number in range(num_scans + 1):
            scan_id = f"{number:010x}"
            write_full_scene(root, scan_id, num_vertices, num_objects)
            for name, way in ways.items():
                out = Path(folder) / f"out{number}-{len(seconds[name])}-{list(ways).index(name)}"
                config = load_config("build_data", ["source=scannetpp", f"source.root={root}", f"output={out}", *way])
                start = time.process_time()
                pid = os.fork()
                if pid == 0:  # a process of its own: its peak is that of one scan
                    outcome = build_scan(ScanJob(config, root, out, scan_id, "train"))
                    os._exit(outcome.status != "done")
                _, status, usage = os.wait4(pid, 0)
                if status:
                    raise SystemExit(f"{scan_id}, {name}: failed")
                if number:
                    seconds[name].append(usage.ru_utime + usage.ru_stime + time.process_time() - start)
                    peaks[name] = max(peaks.get(name, 0.0), usage.ru_maxrss / 1024)
    return {
        "vertices": num_vertices,
        "objects": num_objects,
        "scans": num_scans,
        "cpu_seconds_median": {name: round(statistics.median(values), 2) for name, values in seconds.items()},
        "peak_mb": {name: round(peak) for name, peak in peaks.items()},
        "bench_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=5)
    parser.add_argument("--vertices", type=int, default=1_000_000)
    parser.add_argument("--objects", type=int, default=60)
    parser.add_argument("--walk", action="store_true", help="film a walk, too")
    args = parser.parse_args()
    print(json.dumps(measure(args.scans, args.vertices, args.objects, args.walk), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
