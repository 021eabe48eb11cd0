"""Row files of benchmarks of images, each in the form that it is downloaded in, with made-up questions and pictures."""

import base64
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(level: int = 0, suffix: str = "PNG") -> bytes:
    """Return a small picture of one grey level."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 48), (level, level, level)).save(stream, suffix)
    return stream.getvalue()


def put_picture(path: Path, level: int = 0) -> None:
    """Write a small picture, jpeg or png by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(level, "PNG" if path.suffix == ".png" else "JPEG"))


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


MMSI = [
    {
        "id": 0,
        "images": [picture(10), picture(20)],
        "question_type": "Motion (Cam.)",
        "question": "Which way does the camera turn?\nOptions: A: left, B: right, C: up, D: down",
        "answer": "B",
        "thought": "The wall moves.",
    },
    {
        "id": 1,
        "images": [picture(30), picture(40), picture(50)],
        "question_type": "Positional Relationship (Cam.\u2013Obj.)",
        "question": "Where is the lamp?\nOptions: A: front, near, B: left C: back, D: right",
        "answer": "A",
        "thought": "It is seen.",
    },
    {
        "id": 2,
        "images": [picture(60), picture(70)],
        "question_type": "MSR",
        "question": "How many rooms are there? A is one, B is two.",
        "answer": "D",
        "thought": "",
    },
]


def write_mmsi(folder: Path, rows: list[dict] | None = None) -> Path:
    """Write MMSI_Bench.parquet: pictures as bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(MMSI if rows is None else rows), folder / "MMSI_Bench.parquet")
    return folder / "MMSI_Bench.parquet"


MINDCUBE = [
    {
        "id": "among_group001_q0_3_2",
        "category": ["P-O", "meanwhile"],
        "type": "3_frame",
        "meta_info": [],
        "question": "From view 1, what is behind the chair? A. Blue lamp B. Door C. Sofa D. Table",
        "images": ["other_all_image/among/g1/front.jpg", "other_all_image/among/g1/left.jpg"],
        "gt_answer": "D",
    },
    {
        "id": "aroundnew_tv_q1",
        "category": [],
        "type": "2_frame",
        "meta_info": [],
        "question": "Is the sofa left of the TV? A. Yes B. No",
        "images": ["other_all_image/around/g2/front.jpg", "other_all_image/around/g2/back.jpg"],
        "gt_answer": "B",
    },
    {
        "id": "rotation_g3_q0",
        "category": [],
        "type": "2_frame",
        "meta_info": [],
        "question": "What is to my left after the turn?",
        "images": ["other_all_image/rotation/g3/1.png", "other_all_image/rotation/g3/2.png"],
        "gt_answer": "A",
    },
]


def write_mindcube(folder: Path, rows: list[dict] | None = None) -> Path:
    """Write data/raw/MindCube_tinybench.jsonl and the images below data/."""
    rows = MINDCUBE if rows is None else rows
    for path in {path for row in rows for path in row.get("images") or ()}:
        put_picture(folder / "data" / path, 90)
    return write_jsonl(folder / "data" / "raw" / "MindCube_tinybench.jsonl", rows)


_VIEW = "ViewSpatial-Bench/scannetv2_val/scene0011_00/original_images"
VIEWSPATIAL = [
    {
        "question_type": "Camera perspective - Relative Direction",
        "image_path": [f"{_VIEW}/280.jpg"],
        "question": "Where is the counter, seen from the refrigerator?",
        "answer": "A. right",
        "choices": "A. right\nB. front-up\nC. back-left\nD. front",
    },
    {
        "question_type": "Person perspective - Scene Simulation Relative Direction",
        "image_path": [f"{_VIEW}/20.jpg", f"{_VIEW}/200.jpg", f"{_VIEW}/240.jpg"],
        "question": "If you stand at the television facing the counter, where is the sink?",
        "answer": "D. back-right",
        "choices": "A. front\nB. back-left\nC. right\nD. back-right",
    },
    {
        "question_type": "Person perspective - Object View Orientation",
        "image_path": ["ViewSpatial-Bench/val2017/000000000285.jpg"],
        "question": "As the bear, which way do you look?",
        "answer": "B. back",
        "choices": "A. front\nB. back",
    },
]


def write_viewspatial(folder: Path, rows: list[dict] | None = None) -> Path:
    """Write ViewSpatial-Bench.json and the images beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = VIEWSPATIAL if rows is None else rows
    for path in {path for row in rows for path in row.get("image_path") or ()}:
        put_picture(folder / path, 120)
    (folder / "ViewSpatial-Bench.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return folder / "ViewSpatial-Bench.json"


def blink_row(task: str, number: int, num_images: int = 1, answer: str = "(A)", **more) -> dict:
    """Return a row of BLINK's form."""
    row = {
        "idx": f"val_{task}_{number}",
        "sub_task": task,
        "question": "How many floats are blue?",
        **{f"image_{k}": None for k in (1, 2, 3, 4)},
        "choices": ["0", "3", "2", "1"],
        "answer": answer,
        "prompt": "How many floats are blue?\nSelect from the following choices.\n(A) 0\n(B) 3\n(C) 2\n(D) 1",
        "explanation": "",
    }
    shown = {f"image_{k}": {"bytes": picture(20 * k), "path": None} for k in range(1, num_images + 1)}
    return {**row, **shown, **more}


BLINK = [
    blink_row("Counting", 1, answer="(D)"),
    blink_row("Counting", 2, answer="(A)"),
    blink_row(
        "Jigsaw", 1, 3, "(B)", choices=["the second image", "the third image"], prompt="Which fits?\n(A) 2\n(B) 3"
    ),
]


def write_blink(folder: Path, rows: list[dict] | None = None) -> Path:
    """Write TASK/val-00000-of-00001.parquet for each task; return the folder."""
    rows = BLINK if rows is None else rows
    for task in {row["sub_task"] for row in rows}:
        (folder / task).mkdir(parents=True, exist_ok=True)
        own = [row for row in rows if row["sub_task"] == task]
        pq.write_table(pa.Table.from_pylist(own), folder / task / "val-00000-of-00001.parquet")
    return folder


def threedsr_rows(qid: str, category: str, options: list[str], truth: int, is_flipped: bool = False) -> list[dict]:
    """Return the rows of one question: one for each order of its options, which turn by one place a row."""
    rows = []
    for turn in range(len(options)):
        shown = [*options[turn:], *options[:turn]]
        name = f"{qid}{'-flip' if is_flipped else ''}{f'-{turn}' if turn else ''}"
        texts = dict(zip("ABCD", [*shown, "", ""], strict=False))
        rows.append(
            {
                "index": "0",
                "qid": name,
                "question": "Which object is higher?" + (" Mirrored." if is_flipped else ""),
                **texts,
                "answer": "ABCD"[shown.index(options[truth])],
                "category": category,
                "image": base64.b64encode(picture(100 + turn, "JPEG")).decode(),
                "image_source": "MS-COCO",
                "image_url": "-",
            }
        )
    return rows


THREEDSR = [
    *threedsr_rows("VIN6MS3J", "height_higher", ["glove", "red hat"], 1),
    *threedsr_rows("VIN6MS3J", "height_higher", ["glove", "red hat"], 1, is_flipped=True),
    *threedsr_rows("AAAA0001", "orientation_viewpoint", ["front", "left", "back", "right"], 2),
]


def write_threedsr(folder: Path, rows: list[dict] | None = None) -> Path:
    """Write 3dsrbench_v1_vlmevalkit_circular.tsv: pictures as base64 text."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = THREEDSR if rows is None else rows
    path = folder / "3dsrbench_v1_vlmevalkit_circular.tsv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys(), delimiter="\t")
        writer.writeheader()
        writer.writerows({**row, "index": str(place)} for place, row in enumerate(rows))
    return path


EMBSPATIAL = [
    {
        "data_source": "mp3d",
        "scene_id": "MadeUpScene",
        "question_id": "mp3d_1",
        "question": "Which object is the nearest?",
        "relation": "close",
        "image": base64.b64encode(picture(130, "JPEG")).decode(),
        "answer_options": ["kettle", "ladder", "piano", "stool"],
        "answer": 2,
        "objects": [],
    },
    {
        "data_source": "scannet",
        "scene_id": "scene0011_00",
        "question_id": "scannet_3",
        "question": "How are kettle and shelf placed?",
        "relation": "under",
        "image": base64.b64encode(picture(140, "JPEG")).decode(),
        "answer_options": ["The kettle is above.", "The kettle is beneath.", "They touch.", "It is blocked."],
        "answer": 1,
        "objects": [],
    },
]


def write_embspatial(folder: Path, rows: list[dict] | None = None) -> Path:
    """Write embspatial_bench.json: pictures as base64 text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "embspatial_bench.json").write_text(json.dumps(EMBSPATIAL if rows is None else rows))
    return folder / "embspatial_bench.json"


WRITERS: dict[str, Callable[[Path], Path]] = {
    "mmsi": write_mmsi,
    "mindcube": write_mindcube,
    "viewspatial": write_viewspatial,
    "blink": write_blink,
    "threedsr": write_threedsr,
    "embspatial": write_embspatial,
}
"""Benchmark -> what writes its row file and pictures into a folder and returns `benchmark.path`."""
