"""Rows of benchmarks of images in the form of their files, made by us (see harness_rows.py)."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

Doc = dict[str, Any]
WORDS = ["chair", "table", "bed", "sofa", "lamp"]


def lettered(number: int, mark: str = ". ") -> list[str]:
    return [f"{letter}{mark}{word}" for letter, word in zip("ABCDE", WORDS[:number], strict=False)]


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    return stream.getvalue()


def _numbered(rows: Sequence[Doc], key: str = "id") -> list[Doc]:
    return [{key: number, **row} for number, row in enumerate(rows)]


def _mathvista() -> list[Doc]:
    questions: Sequence[tuple[str, str, str, list[str] | None, float | None]] = (
        ("multi_choice", "text", "chair", ["chair", "table", "bed"], None),
        ("multi_choice", "text", "3", ["12.5", "3", "4", "0"], None),
        ("free_form", "integer", "3", None, None),
        ("free_form", "float", "12.5", None, 1.0),
        ("free_form", "float", "0.50", None, 2.0),
        ("free_form", "list", "[3, 4]", None, None),
        ("free_form", "text", "A", None, None),
    )
    return [
        {
            "pid": str(number),
            "question": "Which?",
            "query": "Hint: none.\nQuestion: Which?",
            "image": f"images/{number}.png",
            "choices": choices,
            "unit": None,
            "precision": precision,
            "answer": answer,
            "question_type": kind,
            "answer_type": answer_type,
            "metadata": {"task": "figure question answering", "skills": ["arithmetic reasoning"]},
        }
        for number, (kind, answer_type, answer, choices, precision) in enumerate(questions, start=1)
    ]


def _mmsi() -> list[Doc]:
    kinds = ("Motion (Cam.)", "Positional Relationship (Cam.\u2013Obj.)", "MSR", "Attribute (Meas.)")
    return _numbered(
        [
            {
                "images": [picture()] * 2,
                "question_type": kind,
                "question": "Which is it?\nOptions: A: chair, B: table, C: bed, D: sofa",
                "answer": letter,
                "thought": "",
            }
            for kind, letter in zip(kinds, "ABCD", strict=True)
        ]
    )


def _mindcube() -> list[Doc]:
    rows = []
    for name, letter, number in (("among_g1_q0", "D", 4), ("aroundnew_g2_q1", "B", 2), ("rotation_g3_q0", "A", 3)):
        rows.append(
            {
                "id": name,
                "category": [],
                "type": "2_frame",
                "meta_info": [],
                "question": f"Which is it? {' '.join(lettered(number))}",
                "images": [f"other_all_image/{name}/1.png", f"other_all_image/{name}/2.png"],
                "gt_answer": letter,
                "input_prompt": f"Look at <image> <image>. Which is it? {' '.join(lettered(number))}",
            }
        )
    return rows


def _viewspatial() -> list[Doc]:
    kinds = (
        *("Camera perspective - Relative Direction", "Camera perspective - Object View Orientation"),
        *("Person perspective - Relative Direction", "Person perspective - Object View Orientation"),
    )
    return [
        {
            "question_type": kind,
            "image_path": [f"ViewSpatial-Bench/scannetv2_val/scene0011_00/original_images/{number}.jpg"],
            "question": "Where is it?",
            "answer": f"{letter}. {word}",
            "choices": "\n".join(lettered(4)),
        }
        for number, (kind, letter, word) in enumerate(zip(kinds, "ABCD", WORDS, strict=False))
    ]


def _blink() -> list[Doc]:
    rows = []
    for task, letter, number in (("Counting", "(A)", 4), ("Counting", "(D)", 4), ("Jigsaw", "(B)", 2)):
        rows.append(
            {
                "idx": f"val_{task}_{len(rows)}",
                "sub_task": task,
                "question": "Which is it?",
                "image_1": {"bytes": picture(), "path": None},
                **dict.fromkeys(("image_2", "image_3", "image_4")),
                "choices": WORDS[:number],
                "answer": letter,
                "prompt": "Which is it?\nSelect from the following choices.\n(A) chair\n(B) table",
                "explanation": "",
            }
        )
    return rows


def _threedsr() -> list[Doc]:
    rows = []
    for qid, category, number, letter in (
        ("AAAA0001", "height_higher", 2, "A"),
        ("AAAA0001-1", "height_higher", 2, "B"),
        ("AAAA0001-flip", "height_higher", 2, "B"),
        ("AAAA0001-flip-1", "height_higher", 2, "A"),
        ("BBBB0002", "orientation_viewpoint", 4, "C"),
    ):
        options = dict(zip("ABCD", [*WORDS[:number], "", "", ""], strict=False))
        image = base64.b64encode(picture()).decode()
        more = {"category": category, "image": image, "image_source": "MS-COCO", "image_url": "-"}
        rows.append(
            {"index": str(len(rows)), "qid": qid, "question": "Which is it?", **options, "answer": letter, **more}
        )
    return rows


def _embspatial() -> list[Doc]:
    rows = []
    for source, relation, place in (("mp3d", "close", 2), ("scannet", "under", 1), ("ai2thor", "far", 0)):
        rows.append(
            {
                "data_source": source,
                "scene_id": f"{source}_{place}",
                "question_id": f"{source}_{place}",
                "question": "Which is it?",
                "relation": relation,
                "image": base64.b64encode(picture()).decode(),
                "answer_options": WORDS[:4],
                "answer": place,
                "objects": [],
            }
        )
    return rows


IMAGE_ROWS: dict[str, list[Doc]] = {
    "mathvista": _mathvista(),
    "mmsi": _mmsi(),
    "mindcube": _mindcube(),
    "viewspatial": _viewspatial(),
    "blink": _blink(),
    "threedsr": _threedsr(),
    "embspatial": _embspatial(),
}
