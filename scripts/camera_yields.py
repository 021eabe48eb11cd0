"""Count how many questions about the camera furnished demo rooms give, beside the yields that were measured before.

python scripts/camera_yields.py            # 6 rooms filmed in 31 frames, all frames shown: 186 views, 2,790 pairs
python scripts/camera_yields.py --rooms 2 --json

Rooms are filmed once; what is counted comes from the scene files, which hold the poses.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np

from vsgrpo.config.compose import load_config
from vsgrpo.data.build.scan import ScanJob, build_scan
from vsgrpo.scans.demo.plan import scan_id_of
from vsgrpo.scans.demo.source import write_demo_labels
from vsgrpo.scans.meta_info import read_scene_json
from vsgrpo.spatial import camera, views
from vsgrpo.spatial.moments import moments_of, seen_objects
from vsgrpo.spatial.question import Asking
from vsgrpo.spatial.question_settings import QuestionSettings
from vsgrpo.spatial.question_types import QUESTION_TYPES
from vsgrpo.spatial.scene import Scene

NUM_FRAMES = 31
SEEN_PIXELS = 200
BEFORE = {
    "views": 186,
    "pairs of views": 2790,
    "camera_displacement": 2601,
    "camera_movement_direction": 1748,
    "  forward": 635,
    "  right": 416,
    "  left": 379,
    "  backward": 318,
    "camera_turn": 1910,
    "  turned left": 918,
    "  turned right": 992,
    "unique objects seen in a view": 631,
    "camera_object_distance": 629,
    "pairs >= 0.3 m apart": 829,
    "object_left_right": 572,
}
"""The same counts by a prototype that was written before this code, for the same rooms."""


def film(out: Path, num_rooms: int) -> list[Scene]:
    """Film rooms from their mesh and return their scenes as their files have them."""
    given = ["experiment=demo_data", "source.preset=furnished", "data.types=[room_size_estimation]"]
    video = ["video.source=mesh", f"video.walk_frames={NUM_FRAMES}", f"video.seen_frames={NUM_FRAMES}"]
    config = load_config("build_data", [*given, *video, f"output={out}"])
    root = out / "scans_root"
    write_demo_labels(root)
    scenes = []
    for index in range(num_rooms):
        name = scan_id_of(0, index)
        outcome = build_scan(ScanJob(config, root, out, name, "train"))
        if outcome.status != "done":
            raise SystemExit(f"{name}: {outcome.reason}")
        scenes.append(read_scene_json(out / "scenes" / "demo" / f"{name}.json"))
    return scenes


def count(scene: Scene) -> Counter[str]:
    """Count the questions that one scene gives without any cap."""
    settings = QuestionSettings(mode="vsibench", min_pixels=SEEN_PIXELS)
    moments = moments_of(scene)
    pairs = list(combinations(moments, 2))
    found = Counter({"views": len(moments), "pairs of views": len(pairs)})
    for first, second in pairs:
        metres = np.linalg.norm(second.center - first.center)
        found["camera_displacement"] += camera.DISTANCE_M[0] <= metres <= camera.DISTANCE_M[1]
        word, side = camera.movement_direction(first, second), camera.turn_side(camera.turn_degrees(first, second))
        found.update([name for name in (word and f"  {word}", side and f"  turned {side}") if name])
        found["camera_movement_direction"] += word is not None
        found["camera_turn"] += side is not None
    for moment in moments:
        ask = Asking(QUESTION_TYPES["camera_nearest"], scene, settings, np.random.default_rng(0))
        objects = seen_objects(ask, moment)
        metres = [views.box_distance(moment.center, item.box) for item in objects]
        found["unique objects seen in a view"] += len(objects)
        found["camera_object_distance"] += sum(camera.DISTANCE_M[0] <= d <= camera.DISTANCE_M[1] for d in metres)
        found["pairs >= 0.3 m apart"] += sum(abs(a - b) >= views.MIN_GAP_M for a, b in combinations(metres, 2))
        sides = [views.side_of(moment, one, two) for one, two in combinations(objects, 2)]
        found["object_left_right"] += sum(side is not None for side in sides)
        found["pairs of objects in a view"] += len(sides)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        total = sum((count(scene) for scene in film(Path(folder), args.rooms)), Counter())
    if args.json:
        print(json.dumps(dict(total)))
        return
    print(f"{'':<32} {'here':>6} {'before':>7} {'ratio':>6}")
    for name in dict.fromkeys((*BEFORE, *sorted(total))):
        before = BEFORE.get(name, 0) * args.rooms / 6
        ratio = f"{total[name] / before:6.2f}" if before else ""
        print(f"{name:<32} {total[name]:>6} {before or '':>7} {ratio}")


if __name__ == "__main__":
    main()
