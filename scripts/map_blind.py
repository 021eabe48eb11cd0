"""Score maps that need no eyes, by the strict and the published score, on boxes of your own.

python scripts/map_blind.py --boxes DIR     # DIR: *_meta_info*.json as VSI-Bench publishes them
python scripts/map_blind.py --rooms 60      # or that many furnished rooms of the demo
... --json

Maps of all objects of a room; boxes tell no pose, so y is the y of the scan. Boxes of the benchmark are for this
measurement only: rows made of them are never training data.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench_audit import scenes_of
from vsgrpo.spatial.map_questions import MIN_OBJECTS, map_frame
from vsgrpo.spatial.maps import Cells, centred, mirrored, published_score, scattered, shifted, strict_score, turned
from vsgrpo.spatial.scene import Scene

Strategy = Callable[[Cells, np.random.Generator], Cells]
STRATEGIES: dict[str, Strategy] = {
    "the true map": lambda truth, rng: truth,
    "all objects in the centre, right counts": lambda truth, rng: centred(truth),
    "one point of each category in the centre": lambda truth, rng: centred(truth, one_each=True),
    "right counts anywhere at random": scattered,
    "true map turned by 90 degrees": lambda truth, rng: turned(truth, 1),
    "true map turned by 180 degrees": lambda truth, rng: turned(truth, 2),
    "true map mirrored": lambda truth, rng: mirrored(truth),
    "true map one cell off": lambda truth, rng: shifted(truth),
}


def true_map(scene: Scene) -> Cells | None:
    """Return the map of all sound objects of a scene, None of fewer than 3 objects."""
    objects = [item for item in scene.objects if item.is_sound]
    frame = map_frame(scene, np.array([0.0, 1.0]))
    if frame is None or len(objects) < MIN_OBJECTS:
        return None
    names = sorted({item.category for item in objects})
    return {name: tuple(frame.cell(o.box.centroid) for o in objects if o.category == name) for name in names}


def blind_scores(maps: list[Cells]) -> dict[str, dict[str, float]]:
    """Return strategy -> mean strict and published score over maps."""
    table = {}
    for name, strategy in STRATEGIES.items():
        rng = np.random.default_rng(0)
        said = [strategy(truth, rng) for truth in maps]
        pairs = list(zip(said, maps, strict=True))
        table[name] = {
            "strict": float(np.mean([strict_score(*pair) for pair in pairs])),
            "published": float(np.mean([published_score(*pair) for pair in pairs])),
        }
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=Path)
    parser.add_argument("--rooms", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    maps = [found for scene in scenes_of(given.boxes, given.rooms) if (found := true_map(scene)) is not None]
    table = blind_scores(maps)
    if given.json:
        print(json.dumps({"maps": len(maps), "scores": table}))
        return
    print(f"{len(maps)} maps{'':38} strict  published")
    for name, line in table.items():
        print(f"{name:44} {line['strict']:7.3f}  {line['published']:9.3f}")


if __name__ == "__main__":
    main()
