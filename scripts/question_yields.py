"""Count what each type of question finds to ask, on boxes of your own.

python scripts/question_yields.py --boxes DIR                       # DIR: *_meta_info*.json as VSI-Bench publishes them
python scripts/question_yields.py --rooms 60 --types object_volume  # or that many furnished rooms of the demo
... --json

All clear questions of a type are made, not the mode's number a scene. Boxes of the benchmark are for this count only:
rows made of them are never training data.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path
from typing import Any

from bench_audit import scenes_of
from vsgrpo.spatial.object_relations import MIN_EDGE_RATIO, MIN_VOLUME_RATIO, longest_edge, volume_m3
from vsgrpo.spatial.object_types import TYPES
from vsgrpo.spatial.question_settings import QuestionSettings
from vsgrpo.spatial.question_types import make_questions, types_named
from vsgrpo.spatial.scene import Scene

_ALL = 10**6


def yields_of(scenes: list[Scene], types: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return type -> questions, scenes that have any, and the most frequent answer with its share."""
    found = {}
    for name in types:
        settings = QuestionSettings(mode="vsibench", types=(name,), caps={name: _ALL})
        per_scene = [[q.answer for q in make_questions(scene, settings, seed=0)] for scene in scenes]
        answers = [answer for own in per_scene for answer in own]
        top = max(set(answers), key=lambda text: (answers.count(text), text)) if answers else ""
        share = answers.count(top) / len(answers) if answers else 0.0
        found[name] = {"questions": len(answers), "scenes": sum(map(bool, per_scene)), "top": top, "share": share}
    return found


def pairs_of(scenes: list[Scene]) -> dict[str, int]:
    """Return pairs of unique objects, those of clear edges, those of clear edges and volumes that order them apart."""
    pairs = [pair for scene in scenes for pair in combinations([o for o in scene.unique_objects() if o.is_sound], 2)]
    clear, apart = 0, 0
    for pair in pairs:
        edges, volumes = [longest_edge(item) for item in pair], [volume_m3(item.size_box) for item in pair]
        is_clear = max(edges) >= MIN_EDGE_RATIO * min(edges)
        clear += is_clear
        is_clear &= max(volumes) >= MIN_VOLUME_RATIO * min(volumes)
        apart += is_clear and (edges[0] > edges[1]) != (volumes[0] > volumes[1])
    return {"pairs": len(pairs), "with clear edges": clear, "with clear volumes too that are ordered otherwise": apart}


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=Path)
    parser.add_argument("--rooms", type=int, default=60)
    parser.add_argument("--types", default=",".join(kind.name for kind in TYPES), help="names of types or families")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    scenes = scenes_of(given.boxes, given.rooms)
    found = {"scenes": len(scenes), "unique objects": sum(len(scene.unique_objects()) for scene in scenes)}
    found |= pairs_of(scenes)
    types = yields_of(scenes, types_named(given.types.split(",")))
    if given.json:
        print(json.dumps({**found, "types": types}))
        return
    print(", ".join(f"{number} {name}" for name, number in found.items()))
    for name, line in types.items():
        print(
            f"{name:32}{line['questions']:8}  {line['scenes']:4} scenes  {line['top']:>12}  {100 * line['share']:.0f} %"
        )


if __name__ == "__main__":
    main()
