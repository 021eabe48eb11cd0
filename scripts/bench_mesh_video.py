"""Measure what a walk through a mesh costs: CPU seconds per stage, peak memory, objects shown.

python scripts/bench_mesh_video.py                          # a demo room cut to 150k faces
python scripts/bench_mesh_video.py ROOT/scans/scene0000_00  # a ScanNet scan, the label tsv in ROOT
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import resource
import sys
import time
from pathlib import Path

# Before numpy: spinning BLAS threads would be counted as work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from vsgrpo.errors import VsgrpoError
from vsgrpo.scans.annotation import read_labels
from vsgrpo.scans.demo.plan import room_truth
from vsgrpo.scans.demo.source import room_mesh
from vsgrpo.scans.scannet import read_scan
from vsgrpo.scans.source import Mesh
from vsgrpo.scans.walk.mesh_video import WalkSettings, render_walk

STRUCTURE = ("wall", "floor", "ceiling")
STAGES = {
    "check mesh": ("_checked",),
    "floor map": ("map_floor",),
    "candidate views": ("look",),
    "choose views": ("choose_views",),
    "order, half-way views": ("film_order",),
    "draw frames": ("draw", "render_walk"),
    "shade frames": ("shade",),
    "fill holes": ("fill", "render_walk"),
}
"""Stage -> (function, its caller where several call it)."""


def load_scan(folder: Path) -> tuple:
    """Return aligned vertices, colors, faces and instance ids of a ScanNet folder."""
    root = folder.resolve().parents[1]
    scan = read_scan(root, folder.name, read_labels(root))
    mesh = scan.aligned_mesh()
    ids = scan.instance_of_vertex()
    for instance in scan.instances:
        if instance.label in STRUCTURE:
            ids[instance.vertex_indices] = -1
    return mesh.vertices, mesh.colors, mesh.faces, ids


def make_room(num_faces: int) -> tuple:
    """Return a furnished demo room whose longest edges are halved until it has `num_faces` faces."""
    mesh = room_mesh(room_truth(seed=0, index=0, preset="furnished"))
    ids = np.full(len(mesh.vertices), -1)
    for number, (label, vertices) in enumerate(mesh.instances):
        if label not in STRUCTURE:
            ids[vertices] = number
    vertices, colors, faces = mesh.vertices, mesh.colors, mesh.faces
    while len(faces) < num_faces:
        vertices, colors, ids, faces = _halve(vertices, colors, ids, faces, num_faces - len(faces))
    return vertices, colors, faces, ids


def _halve(vertices, colors, ids, faces, most):
    """Cut the `most` faces with the longest edges (at most half of all) in two at the middle of that edge."""
    edges = np.stack([np.linalg.norm(vertices[faces[:, k]] - vertices[faces[:, k - 2]], axis=1) for k in range(3)])
    chosen = np.argsort(-edges.max(0), kind="stable")[: min(most, (len(faces) + 1) // 2)]
    turn = (edges[:, chosen].argmax(0)[:, None] + np.arange(3)) % 3
    a, b, c = np.take_along_axis(faces[chosen], turn, axis=1).T
    middle = np.arange(len(chosen)) + len(vertices)
    vertices = np.concatenate([vertices, (vertices[a] + vertices[b]) / 2])
    colors = np.concatenate([colors, ((colors[a].astype(int) + colors[b]) // 2).astype(np.uint8)])
    ids = np.concatenate([ids, ids[a]])
    kept = np.delete(faces, chosen, axis=0)
    faces = np.concatenate([kept, np.stack([a, middle, c], axis=1), np.stack([middle, b, c], axis=1)])
    return vertices, colors, ids, faces


def stage_seconds(profile: cProfile.Profile) -> dict[str, float]:
    """Return CPU seconds per stage."""
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    seconds = {}
    for stage, (name, *caller) in STAGES.items():
        total = 0.0
        for (path, _, function), (_, _, _, cumulative, callers) in stats.items():
            if function == name and "scans" in path:
                by = [row[3] for (_, _, who), row in callers.items() if who in caller]
                total += sum(by) if caller else cumulative
        seconds[stage] = round(total, 3)
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", nargs="?", type=Path, help="a ScanNet scan folder; default: a demo room")
    parser.add_argument("--faces", type=int, default=150_000, help="faces of the demo room")
    parser.add_argument("--frames", type=int, default=31)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args()
    try:
        *arrays, ids = load_scan(args.scan) if args.scan else make_room(args.faces)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        profile = cProfile.Profile(time.process_time)
        start = time.process_time()
        settings = WalkSettings(num_frames=args.frames)
        walk = profile.runcall(render_walk, Mesh(*arrays), ids, settings)
    except VsgrpoError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    result = {
        "num_faces": len(arrays[2]),
        "num_frames": len(walk.frames),
        "cpu_seconds": round(time.process_time() - start, 3),
        "stages": stage_seconds(profile),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "peak_mb_before": round(before, 1),
        "objects": len(walk.pixels),
        "objects_shown": sum(sum(px >= settings.scaled_min_pixels for px in row) >= 2 for row in walk.pixels.values()),
        "notes": list(walk.notes),
    }
    if args.json:
        print(json.dumps(result))
        return 0
    for stage, seconds in result["stages"].items():
        print(f"{stage:24} {seconds:7.3f} CPU s")
    print(f"{'all':24} {result['cpu_seconds']:7.3f} CPU s for {len(walk.frames)} frames of {result['num_faces']} faces")
    print(f"peak memory {result['peak_mb']} MB (before the walk {result['peak_mb_before']} MB)")
    print(f"{result['objects_shown']} of {result['objects']} objects shown")
    return 0


if __name__ == "__main__":
    sys.exit(main())
