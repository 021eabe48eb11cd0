"""A scene in words: its annotated objects with places and sizes, for a reasoner that sees no video.

The same facts that the questions were made from, so no captioner's error comes between question and answer. Lengths
in metres, rounded to centimetres; the frame is the scan's own (z up).
"""

from __future__ import annotations

from vsgrpo.errors import DataError
from vsgrpo.paths import inside
from vsgrpo.scans.meta_info import read_scene_json
from vsgrpo.spatial.question_types import QUESTION_TYPES
from vsgrpo.spatial.scene import Scene, SceneObject
from vsgrpo.vision_r1.questions import Item

_HEAD = (
    "A room, measured. Coordinates are in metres, x and y along the floor and z up, seen from above with x to the "
    "right and y to the top. Each object: the centre of its box, the extent of the box from its lowest to its highest "
    "corner, its longest edge."
)


def scene_text(scene: Scene) -> str:
    """Return the description of a scene: floor area, counts, one line per object, first frame where it was seen."""
    lines = [_HEAD]
    if scene.room_size is not None:
        lines.append(f"Floor area: {scene.room_size:.1f} square metres.")
    counts = sorted(scene.object_counts.items())
    lines.append("Number of objects: " + ", ".join(f"{category} {number}" for category, number in counts) + ".")
    lines += [_object_line(item, scene) for item in sorted(scene.objects, key=lambda o: (o.category, o.instance_id))]
    return "\n".join(lines)


def item_text(item: Item) -> str:
    """Return the description for a row of ours, from `scenes/<dataset>/<scene>.json` beside its row file.

    Raises:
        DataError: no such file, or the question asks for what the annotation does not hold.
    """
    row = item.row
    scene = read_scene_json(inside(item.base / "scenes", f"{row.dataset}/{row.scene_name}.json"))
    kind = QUESTION_TYPES.get(row.question_type)
    if kind is not None and "footage" in kind.needs and scene.pixels is None:
        raise DataError(
            f"row {row.key}: the scene does not tell when an object is first seen", "use cot.bridge=caption"
        )
    return scene_text(scene)


def _object_line(item: SceneObject, scene: Scene) -> str:
    center, low, high = item.box.centroid, item.box.min, item.box.max
    extent = ", ".join(f"{axis} {low[i]:.2f} to {high[i]:.2f}" for i, axis in enumerate("xyz"))
    line = f"- {item.category}: centre ({center[0]:.2f}, {center[1]:.2f}, {center[2]:.2f}); {extent}; "
    line += f"longest edge {100 * item.size_box.axes_lengths.max():.0f} cm"
    seen = None if scene.pixels is None else scene.pixels.get(item.instance_id)
    first = next((number for number, pixels in enumerate(seen or ()) if pixels), None)
    return line if first is None else f"{line}; first seen in frame {first + 1}"
