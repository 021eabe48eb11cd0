"""What a user of the docs has at hand, at demo size: ScanNet, VSI-Bench, Vision-R1's files, own rows; small commands.

As a program (`python tests/lab.py train grpo ...`) it is `vsgrpo` with the values that make its commands small.
"""

import io
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from demo_rooms import write_rooms
from evaluation_rows import write_vsibench
from vsgrpo.cli import run
from vsgrpo.data.rows import read_rows, write_rows

SCANS = ("scene0191_00", "scene0140_00", "scene0264_00")
"""Of ScanNet's train split; no room of them is in VSI-Bench."""
GROUP = ["trainer.num_generations=4", "trainer.per_device_train_batch_size=8", "trainer.max_completion_length=4"]
STEPS = ["trainer.max_steps=2", "trainer.save_steps=2", "trainer.logging_steps=1", "video.num_frames=4"]
ONE_CPU = ["model.path=tiny", "model.dtype=float32", "trainer.bf16=false", "launch=cpu", "launch.num_processes=1"]
ONE_CPU += ["trainer.gradient_accumulation_steps=1", "trainer.gradient_checkpointing=false"]
STAGES = "trainer.stages=[{max_completion_length: 6, num_generations: 8, max_steps: 1}, "
STAGES += "{max_completion_length: 12, num_generations: 4, max_steps: 1}]"
SMALLER = {
    "build-data": ["build.num_workers=1"],
    "train": [*STEPS, *ONE_CPU],
    "train sft": ["trainer.per_device_train_batch_size=4"],
    "train dpo": ["trainer.per_device_train_batch_size=2"],
    "train grpo": GROUP,
    "eval": ["decoding.batch_size=8", "decoding.max_new_tokens=4", "video.num_frames=4"],
}
"""By how a command begins; the rest of each command is as it was given."""


def smaller(words):
    """Return a command's words with those that make it small, before its flags; a plan (--dry-run) stays as it is."""
    more = [] if "--dry-run" in words else [w for name, add in SMALLER.items() if begins(words, name) for w in add]
    if any(word.startswith("model.path=") for word in words):
        more = [word for word in more if not word.startswith("model.path=")]
    if {"experiment=vision_r1_rl", "experiment=vision_r1_vsi"} & {*words}:
        more.append(STAGES)
    at = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
    return [*words[:at], *more, *words[at:]]


def begins(words, name):
    return words[: len(name.split())] == name.split()


def write_scannet(root):
    """Write demo rooms as three complete ScanNet scans, with a .sens each and the label table."""
    for name, scan in zip(write_rooms(root, len(SCANS), "furnished", seed=3), SCANS, strict=True):
        folder = root / "scans" / scan
        (root / "scans" / name).rename(folder)
        for file in list(folder.iterdir()):
            if file.suffix == ".json":
                file.write_text(file.read_text().replace(name, scan))
            file.rename(folder / file.name.replace(name, scan))


def write_lab(folder):
    """Write data/scannet and data/vsibench, as the docs speak of them."""
    write_scannet(Path(folder) / "data" / "scannet")
    write_vsibench(Path(folder) / "data" / "vsibench", num_scenes=2)


def build_vsi100k(folder):
    """Build data/vsi100k from the lab's scans, as the docs do before they train."""
    given = [f"source.root={folder / 'data' / 'scannet'}", "video.source=mesh", f"output={folder / 'data' / 'vsi100k'}"]
    assert run(smaller(["build-data", "source=scannet", *given])) == 0


def write_thoughts(folder):
    """Write data/vsi_cot: the rows of data/vsi100k with a thought each, as build-cot leaves them."""
    source, target = folder / "data" / "vsi100k", folder / "data" / "vsi_cot"
    target.mkdir()
    shutil.copytree(source / "videos", target / "videos", copy_function=os.link)
    rows = read_rows(source / "train.jsonl")
    write_rows(target / "train.jsonl", [replace(row, reasoning="I look around. Wait, I see it.") for row in rows])


def write_vision_r1(folder):
    """Write the files of docs/vision_r1.md: RL questions, cold-start conversations, testmini, own questions."""
    stream = io.BytesIO()
    Image.new("RGB", (56, 56), (200, 30, 30)).save(stream, "PNG")
    picture = {"bytes": stream.getvalue(), "path": None}
    said = "<think>I look. Wait, two.</think><answer>2</answer>"
    asked = [{"from": "human", "value": "<image>How many?"}, {"from": "gpt", "value": said}]
    (folder / "COLD_FOLDER").mkdir()
    (folder / "COLD_FOLDER" / "a.png").write_bytes(stream.getvalue())
    for name in ("cold_llava", "cold_mulberry"):
        talks = [{"id": f"{name}{i}", "image": "a.png", "conversations": asked} for i in range(4)]
        (folder / f"{name}.json").write_text(json.dumps(talks))
    asks = [{"problem": f"<image>What is {i} + 1?", "answer": f"{i + 1}", "images": [picture]} for i in range(8)]
    pq.write_table(pa.Table.from_pylist(asks), folder / "vision_r1_rl.parquet")
    shared = {"question": "How many?", "unit": None, "precision": None, "query": "Hint: ... How many?"}
    shared |= {"choices": None, "question_type": "free_form", "answer_type": "integer", "decoded_image": picture}
    shared["metadata"] = {"task": "geometry problem solving", "skills": ["geometry reasoning"], "source": "Geometry3K"}
    mini = [{**shared, "pid": f"{i}", "image": f"images/{i}.jpg", "answer": f"{i}"} for i in range(3)]
    pq.write_table(pa.Table.from_pylist(mini), folder / "testmini.parquet")
    own = {"question": "How many?", "answer": "2", "image": "COLD_FOLDER/a.png"}
    (folder / "own.jsonl").write_text(json.dumps(own) + "\n")


if __name__ == "__main__":
    sys.exit(run(smaller(sys.argv[1:])))
