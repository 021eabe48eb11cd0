"""Formats of data sets: VSI-Bench, VLM-3R, the six files of VSI-100k. Their text is their own, not a prompt mode's."""

from __future__ import annotations

from typing import Any

from vsgrpo.data.exporting.record import Exported, ExportFormat, LeftOut, file_name, one_file
from vsgrpo.data.prompts import question_text
from vsgrpo.data.row import Row, number_of
from vsgrpo.paths import safe_name
from vsgrpo.spatial.question_types import QUESTION_TYPES

_VLM3R_NAMES = {"scannet": "scannet", "scannetpp": "ScanNetpp", "arkitscenes": "ARkitScenes"}


def _vsibench(item: Exported) -> dict[str, Any]:
    row = item.row
    kind = QUESTION_TYPES.get(row.question_type)
    if kind is None or not ("vsibench" in kind.modes or kind.held_out):
        raise LeftOut(f"VSI-Bench has no questions of type {row.question_type}")
    if row.answer_kind == "number" and number_of(row.ground_truth, row.question_type) == 0:
        raise LeftOut("a count of 0, by which VSI-Bench's scorer divides")
    return {
        **item.columns,
        "question": row.question,
        "ground_truth": row.ground_truth,
        "video_path": item.video,
    }


def _vlm3r_place(row: Row, split: str) -> str:
    name = _VLM3R_NAMES.get(row.dataset, safe_name(row.dataset))
    return f"{name}/videos/{split}/{file_name(row.media[0]['path'])}"


def _vlm3r(item: Exported) -> dict[str, Any]:
    row = item.row
    said = row.ground_truth if row.answer_kind == "choice" else row.answer
    text = question_text(row, "vanilla", "eval", show_options=True)
    return {
        **item.columns,
        "data_source": _VLM3R_NAMES.get(row.dataset, row.dataset),
        "video": item.video,
        "conversations": [{"from": "human", "value": f"<image>\n{text}"}, {"from": "gpt", "value": said}],
    }


def _vsi100k(item: Exported) -> dict[str, Any]:
    row = item.row
    kind = QUESTION_TYPES.get(row.question_type)
    if kind is None or "vsi100k" not in kind.modes:
        raise LeftOut(f"VSI-100k has no questions of type {row.question_type}")
    columns = {name: value for name, value in item.columns.items() if name != "scene_name"}
    return {"scene": row.scene_name, "question": row.question, **columns}


VSIBENCH = ExportFormat(
    _vsibench,
    one_file("jsonl"),
    "VSI-Bench (thinking-in-space)",
    "rows have the benchmark's columns; videos are at video_path below this folder",
    has_prompt=False,
)
VLM3R = ExportFormat(
    _vlm3r,
    one_file("json"),
    "VLM-3R",
    "its data_path is the .json, its folder of videos is this folder; <image> stands for the video",
    has_prompt=False,
    place_of=_vlm3r_place,
)
VSI100K = ExportFormat(
    _vsi100k,
    lambda row, split: f"{row.question_type}.json",
    "VSI-100k (six files, one for each question type)",
    "one file for each question type; rows name the scene, no video (the release has none)",
    has_prompt=False,
    place_of=None,
)
