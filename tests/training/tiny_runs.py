"""A dataset folder of a few coloured videos, and runs of the tiny model on it."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vsgrpo.data.row import Row
from vsgrpo.data.rows import write_rows
from vsgrpo.video.writer import write_video

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

SMALL = (
    "model=tiny",
    "video.num_frames=4",
    "video.timeout_s=null",
    "video.backend=pyav",
    "trainer.max_steps=2",
    "trainer.save_steps=1",
    "trainer.save_total_limit=null",
)
"""Overrides that make a run take seconds."""


def make_rows(scene: int) -> list[Row]:
    """Return a count question and a room question about one video."""
    shared: dict[str, Any] = {
        "schema_version": 1,
        "dataset": "demo",
        "split": "train",
        "scene_name": f"demo{scene:06d}_00",
        "room": f"demo{scene:06d}",
        "options": None,
        "answer_kind": "number",
        "media": ({"kind": "video", "path": f"videos/{scene}.mp4"},),
        "rejected": None,
        "reasoning": None,
        "objects": (),
        "generator": {},
        "extra": {},
    }
    count, area = str(1 + scene % 4), f"{10 + scene}.5"
    return [
        Row(
            id=f"count{scene}",
            question_type="object_counting",
            question="How many chair(s) are in this room?",
            ground_truth=count,
            answer=count,
            unit=None,
            **shared,
        ),
        Row(
            id=f"area{scene}",
            question_type="room_size_estimation",
            question="What is the size of this room (in square meters)?",
            ground_truth=area,
            answer=area,
            unit="m2",
            **shared,
        ),
    ]


def write_dataset(folder: Path, num_scenes: int = 6) -> Path:
    """Write rows and videos of `num_scenes` scenes; every video has other colours."""
    folder.mkdir(parents=True, exist_ok=True)
    for scene in range(num_scenes):
        rng = np.random.default_rng(scene)
        blocks = rng.integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
        frames = np.repeat(np.repeat(blocks, 14, axis=1), 14, axis=2)
        (folder / "videos").mkdir(exist_ok=True)
        write_video(folder / "videos" / f"{scene}.mp4", list(frames), fps=1)
    write_rows(folder / "train.jsonl", [row for scene in range(num_scenes) for row in make_rows(scene)])
    return folder


def write_boxed_dataset(folder: Path, num_scenes: int = 6, *, boxed: int = 6) -> Path:
    """Write `write_dataset` as build-data lays it out, with a scene of one chair beside the first `boxed` videos."""
    from vsgrpo.scans.meta_info import write_scene_json
    from vsgrpo.spatial.scene import Box, Scene, SceneObject

    write_dataset(folder, num_scenes)
    (folder / "videos" / "demo").mkdir()
    rows = []
    for scene in range(num_scenes):
        (folder / "videos" / f"{scene}.mp4").rename(folder / "videos" / "demo" / f"{scene}.mp4")
        media = ({"kind": "video", "path": f"videos/demo/{scene}.mp4"},)
        rows += [replace(row, media=media) for row in make_rows(scene)]
        box = Box(np.array([scene, 1.0, 0.5]), np.array([0.5, 0.5, 1.0]), np.eye(3))
        chair = SceneObject(1, "chair", box, box)
        name, room = rows[-1].scene_name, rows[-1].room
        if scene < boxed:
            path = folder / "scenes" / "demo" / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_scene_json(Scene("demo", name, room, (chair,), 12.0, np.zeros(3), {"chair": 1}), path)
    write_rows(folder / "train.jsonl", rows)
    return folder


SPREAD = "reward.names=[spread_reward:spread]"
LORA = ("model.tune=lora", "model.freeze_vision=true", "model.merge_on_save=false")


def make_parts(config: Any) -> Any:
    """Return the RunParts of a config, as the worker makes them."""
    from vsgrpo.training import worker
    from vsgrpo.training.base import RunParts
    from vsgrpo.training.preflight import load_rows
    from vsgrpo.training.rows import make_loader, training_table
    from vsgrpo.training.run_folder import RunFolder

    folder = RunFolder(Path(config.run.dir), lambda path: None)
    dataset = training_table(config, load_rows(config)[0])
    return RunParts(config, worker.make_model(config), dataset, make_loader(config), folder)


def make_trainer(config: Any) -> Any:
    """Return the trainer of a config's first stage, before its training begins."""
    from vsgrpo.training.progress import Stage
    from vsgrpo.training.stages import build_trainer, reference_model

    parts = make_parts(config)
    stage = Stage(parts.folder, 0, 1, 0, config.trainer.name)
    return build_trainer(parts, stage, reference=reference_model(config, parts.bundle))
