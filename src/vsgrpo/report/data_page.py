"""report.html of a dataset folder that build-data made.

Counts, answer histograms, best constants, skipped scans with reasons; for a few scenes the floor plan with its objects,
three frames of the video and questions with the objects they are about, and the frames that they name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vsgrpo.data.frame_true import named_frames
from vsgrpo.data.manifest import Manifest, read_manifest
from vsgrpo.data.row import Row
from vsgrpo.data.rows import row_from_dict
from vsgrpo.files import write_atomic
from vsgrpo.records import read_jsonl
from vsgrpo.report.audit_view import audit_view
from vsgrpo.report.floor_plan import make_plan, map_svg, question_svg, symbol_svg
from vsgrpo.report.page import TEMPLATES, histogram_svg, render
from vsgrpo.report.pair_views import pair_views
from vsgrpo.report.shown_media import pictures
from vsgrpo.scans.meta_info import read_scene_json
from vsgrpo.spatial.maps import read_map
from vsgrpo.spatial.moments import FRAMES_SHOWN

REPORT_NAME = "report.html"
SPLITS = ("train", "dev")
_FRAME_WIDTH = 320
_QUESTIONS_PER_SCENE = 9


def write_data_page(folder: Path) -> list[str]:
    """Write report.html beside the row files; return why frames of videos are missing on it."""
    manifest = read_manifest(folder)
    records = [record for name in SPLITS for _, record in read_jsonl(folder / f"{name}.jsonl")]
    scenes = _scene_views(folder, records, has_videos=manifest.counts["video_source"] != "none")
    pairs = pair_views(folder, SPLITS)
    page = render(
        TEMPLATES / "data.html",
        title=folder.name,
        generator=records[0]["generator"] if records else {},
        tiles=_tiles(manifest),
        audit=audit_view(manifest.counts),
        types=_type_views(manifest.counts["answers"], records),
        truth=_truth_view(manifest.counts.get("frame_true", {})),
        skipped={name: scan["reason"] for name, scan in manifest.scans.items() if scan["status"] == "skipped"},
        counts=manifest.counts,
        sources=manifest.counts.get("sources", []),
        notes=manifest.notes,
        scenes=scenes,
        pairs=pairs,
    )
    write_atomic(folder / REPORT_NAME, page)
    return [problem for view in (*scenes, *pairs) for problem in view["problems"]]


def _tiles(manifest: Manifest) -> list[tuple[str, str]]:
    """Return (name, text) of the numbers at the top of the page."""
    done = [scan for scan in manifest.scans.values() if scan["status"] == "done"]
    objects = sum(scan["num_objects"] for scan in done)
    shown = [scan["num_shown"] for scan in done if scan["num_shown"] is not None]
    values = {"scans": len(done), "skipped": len(manifest.scans) - len(done)}
    values["rooms"] = len({room for rooms in manifest.rooms.values() for room in rooms})
    values |= {f"{name} questions": sum(manifest.counts["questions"][name].values()) for name in SPLITS}
    values["objects"] = objects
    seen = [("seen in the video", f"{100 * sum(shown) / max(objects, 1):.0f} %")] if shown else []
    return [*((name, f"{value:,}") for name, value in values.items()), *seen]


def _truth_view(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the budgets and, per type, the rows of train (else dev) each makes true; None where none was judged."""
    table = tables.get("train") or tables.get("dev", {})
    budgets = {budget for entry in table.values() for budget in entry["true_at"]}
    return {"budgets": sorted(budgets, key=int), "types": table} if budgets else None


def _type_views(
    tables: Mapping[str, Sequence[Mapping[str, Any]]], records: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return what to show of each question type: rows per split, answers of train (else of dev)."""
    lines = {split: {line["question_type"]: line for line in table} for split, table in tables.items()}
    by_type: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_type.setdefault(record["question_type"], []).append(record)
    return [
        {
            "name": name,
            "line": lines["train"].get(name) or lines["dev"][name],
            "counts": {split: table[name]["count"] if name in table else 0 for split, table in lines.items()},
            "histogram": _histogram(own),
        }
        for name, own in sorted(by_type.items())
    ]


def _histogram(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the answers of one type as bars; of maps the number of their points."""
    kind, answers = records[0]["answer_kind"], [record["answer"] for record in records]
    if kind == "map":
        answers = [str(sum(map(len, (read_map(text) or {}).values()))) for text in answers]
    return histogram_svg(answers, kind in ("number", "map"))


def _scene_views(folder: Path, records: Sequence[dict[str, Any]], has_videos: bool) -> list[dict[str, Any]]:
    """Return what to show of the scenes whose json is marked for the report."""
    by_scene: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        by_scene.setdefault((record["dataset"], record["scene_name"]), []).append(record)
    views = []
    for (dataset, name), found in by_scene.items():
        path = folder / "scenes" / dataset / f"{name}.json"
        if not path.is_file() or b'"in_report"' not in path.read_bytes():
            continue
        own = [row_from_dict(record, f"{folder}: {record['id']}") for record in found]
        scene = read_scene_json(path)
        plan = make_plan(scene, f"plan{len(views)}")
        picture, unnamed = map_svg(plan, scene)
        media = [("video", own[0].video_path(folder))] if has_videos else []
        frames, problems = pictures(media, {}, width=_FRAME_WIDTH)
        asked = _sample(own)
        named = _named_frames(asked, media if frames else [])
        views.append(
            {
                "name": name,
                "split": own[0].split,
                "room_size": scene.room_size,
                "num_objects": len(scene.objects),
                "num_questions": len(own),
                "symbol": symbol_svg(plan),
                "map": picture,
                "unnamed": unnamed,
                "frames": frames,
                "problems": problems,
                "questions": [
                    {"row": row, "map": question_svg(plan, row), "frames": named.get(row.id, [])} for row in asked
                ],
                "notes": scene.extra.get("notes", []),
            }
        )
    return views


def _named_frames(rows: Sequence[Row], media: Sequence[tuple[str, Path]]) -> dict[str, list[str]]:
    """Return id -> the frames that a row of one video names as data URLs, in its order; the video is read once."""
    named = {row.id: numbers for row in rows if media and (numbers := named_frames(row))}
    shown = {row.extra[FRAMES_SHOWN] for row in rows if row.id in named}
    urls = {count: pictures(media, {}, num_frames=count, width=_FRAME_WIDTH)[0] for count in shown}
    return {row.id: [urls[row.extra[FRAMES_SHOWN]][n - 1] for n in named[row.id]] for row in rows if row.id in named}


def _sample(rows: Sequence[Row]) -> list[Row]:
    """Return some questions of a scene, the types in turn."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.question_type, []).append(row)
    chosen: list[Row] = []
    while groups and len(chosen) < _QUESTIONS_PER_SCENE:
        for name in list(groups):
            chosen.append(groups[name].pop(len(groups[name]) // 2))
            if not groups[name]:
                del groups[name]
    return sorted(chosen[:_QUESTIONS_PER_SCENE], key=lambda row: row.question_type)
