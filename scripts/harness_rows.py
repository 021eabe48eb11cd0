"""Rows of each benchmark in the form of its file, made by us: the questions of scripts/check_scorers.py."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness_image_rows import IMAGE_ROWS, WORDS, Doc, lettered, picture


def _room_questions(questions: Sequence[tuple[str, str, list[str] | None]]) -> list[Doc]:
    """Return rows of VSI-Bench's form of (question type, truth, options)."""
    return [
        {
            "id": number,
            "dataset": "scannet",
            "scene_name": f"scene{number:04d}_00",
            "question_type": kind,
            "question": f"What of the {kind}?",
            "ground_truth": truth,
            "options": options,
        }
        for number, (kind, truth, options) in enumerate(questions)
    ]


def _vsibench() -> list[Doc]:
    questions: Sequence[tuple[str, str, list[str] | None]] = (
        ("object_counting", "4", None),
        ("object_abs_distance", "12.5", None),
        ("object_size_estimation", "3", None),
        ("room_size_estimation", "100.0", None),
        ("object_rel_distance", "B", lettered(4)),
        ("object_rel_direction_easy", "A", lettered(2)),
        ("object_rel_direction_medium", "C", lettered(3)),
        ("object_rel_direction_hard", "D", lettered(4)),
        ("route_planning", "C", lettered(4)),
        ("obj_appearance_order", "A", lettered(4)),
    )
    return _room_questions(questions)


def _revsi() -> list[Doc]:
    questions: Sequence[tuple[str, str, list[str] | None]] = (
        ("object_counting_single", "4", None),
        ("object_counting_multiple", "3", None),
        ("object_abs_distance", "12.5", None),
        ("object_size_estimation", "0.5", None),
        ("room_size_estimation_single", "100.0", None),
        ("room_size_estimation_multiple", "4", None),
        *((f"object_rel_direction_{way}_easy", "A", lettered(2)) for way in ("forward", "backward")),
        *((f"object_rel_direction_{way}_hard", "D", lettered(4)) for way in ("forward", "backward")),
        ("object_rel_distance_closest", "B", lettered(4)),
        ("object_rel_distance_farthest", "C", lettered(4)),
        ("route_planning", "C", lettered(4)),
    )
    return [
        {
            "num_frames": 16,
            "scene_id": f"scene{number:04d}_00",
            "question": f"What of the {kind}?",
            "question_type": kind,
            "options": options,
            "ground_truth": truth,
        }
        for number, (kind, truth, options) in enumerate(questions)
    ]


def _site() -> list[Doc]:
    rows = []
    for number, letter, category in ((3, "B", "counting & existence"), (4, "D", "movement prediction & navigation")):
        rows.append(
            {
                "question": "Which is it? ",
                "options": WORDS[:number],
                "answer": letter,
                "visual": [f"images/{number}.png"],
                "category": category,
                "dataset": "Made",
            }
        )
    rows.append({**rows[0], "question": "Is <image> like <image>?", "visual": ["images/1.png", "images/2.png"]})
    return rows


def _spar() -> list[Doc]:
    questions = (
        *(("depth_prediction_oc", "4"), ("distance_prediction_oo_mv", "12.5"), ("depth_prediction_oo_mv", "3")),
        *(("position_matching", "B"), ("camera_motion_infer", "A"), ("obj_spatial_relation_oo", "D")),
        *(("spatial_imagination_oc_mv", "C"), ("view_change_infer", "move_right:1,rotate_left:2")),
        ("view_change_infer", "move_forward:0.5,rotate_right:30,move_up:0"),
    )
    return [
        {
            "id": str(number),
            "image": [{"bytes": picture(), "path": "a.png"}],
            "question": f"What of the {task}?",
            "answer": answer,
            "task": task,
            "format_type": "fill",
            "img_type": "single_view",
            "source": "scannet",
        }
        for number, (task, answer) in enumerate(questions)
    ]


def _osi() -> list[Doc]:
    questions = (
        *(("absolute_distance", "4"), ("trajectory_length", "12.5"), ("trajectory_length", "0")),
        *(("absolute_speed", "0"), ("absolute_speed", "3"), ("absolute_displacement", "0")),
        *(("object_3d_localization", "4"), ("depth_aware_counting", "3"), ("relative_direction_angular", "12.5")),
        *(("relative_distance", "B"), ("relative_direction_categorical", "D"), ("trajectory_description", "A")),
    )
    rows = []
    for category, answer in questions:
        options = lettered(4) if answer in "ABCD" else None
        kind = "numerical" if options is None else "mcq"
        rows.append(
            {
                "video": f"{len(rows):04d}",
                "question": f"What of the {category}?",
                "options": options,
                "answer": answer,
                "category": category,
                "question_type": kind,
                "video_length": 12.5,
            }
        )
    return rows


def _sti() -> list[Doc]:
    return [
        {
            "Video": f"scene{number:04d}_00.mp4",
            "ID": number,
            "Source": "ScanNet",
            "Task": task,
            "Question": "How wide is the desk?",
            "time_start": 0.5,
            "time_end": 12.0,
            "Candidates": dict(zip("ABCDE", WORDS, strict=True)),
            "Answer": letter,
        }
        for number, (task, letter) in enumerate((("Dimensional Measurement", "C"), ("Pose Estimation", "E")))
    ]


def _spbench() -> list[Doc]:
    questions: Sequence[tuple[str, str, list[str] | None]] = (
        *(("object_counting", "4", None), ("object_abs_distance", "12.5", None)),
        *(("object_size_estimation", "3", None), ("object_rel_distance", "B", lettered(4))),
        ("object_rel_direction", "A", lettered(2)),
    )
    return [{**row, "images": ["200.jpg"]} for row in _room_questions(questions)]


def _recall() -> list[Doc]:
    return [
        {
            "question": "In which order?",
            "options": lettered(4),
            "answer": letter,
            "video_path": f"{n}.mp4",
            "type": "10mins",
        }
        for n, letter in enumerate("ABCD")
    ]


def _counts() -> list[Doc]:
    asked = {"question": "How many chairs?", "answers": None, "split": "10mins"}
    return [{**asked, "answer": answer, "video_path": f"{n}.mp4"} for n, answer in enumerate((4, 3, 12, 0))]


def _streaming() -> list[Doc]:
    asked = {"question": "How many chairs?", "answer": None, "split": "10mins_streaming"}
    return [{**asked, "answers": answers, "video_path": f"{n}.mp4"} for n, answers in enumerate(([3], [3, 4], [0, 12]))]


def _mmsi_video() -> list[Doc]:
    rows = []
    for number, (letter, kind) in enumerate(
        (("A", "Planning"), ("C", "Prediction"), ("F", "(Motion Understanding) Camera Motion"))
    ):
        image = {"ref_images": ["a.png"], "user_prompt": "<video> Is it <image>?"} if number else {}
        rows.append(
            {
                "id": number,
                "type": kind,
                "video_list": [{"path": "a.mp4", "start": 0.0, "end": 2.0, "base_fps": 2}],
                "frames_list": [[f"a/{frame}.jpg" for frame in range(4)]],
                "ref_images": [],
                "system_prompt": "You see videos.",
                "task_prompt": "Answer. ",
                "user_prompt": "<video> Which is it? A. chair B. table",
                "format_prompt": " Give the letter.",
                "ground_truth": letter,
                **image,
            }
        )
    return rows


def _video_mme() -> list[Doc]:
    asked = {
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Humanity & History",
        "task_type": "OCR Problems",
    }
    return [
        {
            **asked,
            "video_id": f"{number:03d}",
            "question_id": f"{number:03d}-1",
            "videoID": f"v{number}",
            "url": "-",
            "question": "Which is it?",
            "options": lettered(4),
            "answer": letter,
        }
        for number, letter in enumerate("ABCD")
    ]


ROWS: dict[str, list[Doc]] = {
    **IMAGE_ROWS,
    "vsibench": _vsibench(),
    "revsi": _revsi(),
    "site": _site(),
    "spar": _spar(),
    "osi": _osi(),
    "sti": _sti(),
    "spbench": _spbench(),
    "vsi_super_recall": _recall(),
    "vsi_super_count": _counts(),
    "vsi_super_streaming": _streaming(),
    "mmsi_video": _mmsi_video(),
    "video_mme": _video_mme(),
}
_NAMES = {
    **dict.fromkeys(("viewspatial", "embspatial"), "rows.json"),
    **dict.fromkeys(("mmsi", "blink", "osi", "spar"), "val-00000-of-00001.parquet"),
    "threedsr": "rows.tsv",
    "site": "image_test.jsonl",
    "mindcube": "data/raw/MindCube_tinybench.jsonl",
}
"""Name of a benchmark's row file; rows.jsonl where none is given."""


def write_rows(benchmark: str, folder: Path) -> Path:
    """Write the rows of a benchmark as its file and return it."""
    rows, file = ROWS[benchmark], folder / _NAMES.get(benchmark, "rows.jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif file.suffix == ".tsv":
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0].keys(), delimiter="\t")
            writer.writeheader()
            writer.writerows(rows)
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
