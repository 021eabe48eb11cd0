"""report.html of a dataset folder: what is in it, for the eye. One file, no network, light and dark.

Counts, answer histograms, best constants, skipped scans with reasons; for a few scenes the floor plan with its objects,
three frames of the video and questions with the objects they speak of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from vsgrpo.data.build.page_svg import histogram_svg, make_plan, map_svg, question_svg, symbol_svg, tiles
from vsgrpo.data.build.summary import BuildSummary
from vsgrpo.data.row import LETTERS, Row
from vsgrpo.errors import DataError
from vsgrpo.files import write_atomic
from vsgrpo.scans.meta_info import read_scene_json
from vsgrpo.spatial.question import UNITS
from vsgrpo.video.examine import still_urls

REPORT_NAME = "report.html"
_FRAME_WIDTH = 320
_QUESTIONS_PER_SCENE = 9


def write_report(out: Path, rows: Mapping[str, Sequence[Row]], summary: BuildSummary) -> Path:
    """Write report.html beside the row files and return its path."""
    from jinja2 import Environment, select_autoescape

    everything = [row for part in rows.values() for row in part]
    template = (files("vsgrpo.data.build") / "templates" / "report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=select_autoescape(default=True, default_for_string=True), trim_blocks=True)
    lines = {name: {line.question_type: line for line in part} for name, part in summary.answers.items()}
    types = sorted({row.question_type for row in everything})
    text = environment.from_string(template).render(
        title=out.name,
        version=version("vsgrpo"),
        generator=everything[0].generator if everything else {},
        tiles=_tiles(rows, summary),
        types=[_type_view(name, lines, everything) for name in types],
        summary=summary,
        scenes=_scene_views(out, everything),
        letters=LETTERS,
    )
    write_atomic(out / REPORT_NAME, text)
    return out / REPORT_NAME


def _tiles(rows: Mapping[str, Sequence[Row]], summary: BuildSummary) -> list[tuple[str, str]]:
    values: dict[str, int | str] = {"scans": summary.done, "skipped": len(summary.skipped)}
    values["rooms"] = len({row.room for part in rows.values() for row in part})
    values |= {f"{name} questions": len(part) for name, part in rows.items()}
    values["objects"] = summary.num_objects
    if summary.num_shown is not None:
        values["seen in the video"] = f"{100 * summary.num_shown / max(summary.num_objects, 1):.0f} %"
    return tiles(values)


def _type_view(name: str, lines: Mapping[str, Mapping[str, Any]], rows: Sequence[Row]) -> dict[str, Any]:
    own = [row for row in rows if row.question_type == name]
    line = lines["train"].get(name) or lines["dev"][name]
    counts = {split: part[name].count if name in part else 0 for split, part in lines.items()}
    return {"name": name, "line": line, "counts": counts, "histogram": _safe(histogram_svg(own))}


def _scene_views(out: Path, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return what to show of the scenes whose json is marked for the report."""
    by_scene: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_scene.setdefault((row.dataset, row.scene_name), []).append(row)
    views = []
    for (dataset, name), own in by_scene.items():
        path = out / "scenes" / dataset / f"{name}.json"
        if not path.is_file() or b'"in_report"' not in path.read_bytes():
            continue
        scene = read_scene_json(path)
        plan = make_plan(scene, f"plan{len(views)}")
        picture, unnamed = map_svg(plan, scene)
        views.append(
            {
                "name": name,
                "split": own[0].split,
                "room_size": scene.room_size,
                "num_objects": len(scene.objects),
                "num_questions": len(own),
                "symbol": _safe(symbol_svg(plan)),
                "map": _safe(picture),
                "unnamed": unnamed,
                "frames": _frames(own[0].video_path(out)),
                "questions": [
                    {"row": row, "unit": UNITS.get(row.unit or "", ""), "map": _safe(question_svg(plan, row))}
                    for row in _sample(own)
                ],
                "notes": scene.extra.get("notes", []),
            }
        )
    return views


def _sample(rows: Sequence[Row]) -> list[Row]:
    """Return some questions of a scene, the types in turn, those about objects first."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.question_type, []).append(row)
    chosen: list[Row] = []
    while groups and len(chosen) < _QUESTIONS_PER_SCENE:
        for name in list(groups):
            chosen.append(groups[name].pop(len(groups[name]) // 2))
            if not groups[name]:
                del groups[name]
    kept = chosen[:_QUESTIONS_PER_SCENE]
    return sorted(kept, key=lambda row: row.question_type)


def _frames(path: Path) -> list[str]:
    """Return three frames as data URIs; none where there is no readable video."""
    if not path.is_file():
        return []
    try:
        return still_urls(path, width=_FRAME_WIDTH)
    except DataError:
        return []


def _safe(text: str) -> Any:
    """Mark SVG of our own, whose texts are escaped already, as ready for the page."""
    from markupsafe import Markup

    return Markup(text)
