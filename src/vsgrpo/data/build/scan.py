"""One scan to questions, scene json and video: the unit of work of build-data, run in a pool of worker processes."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from vsgrpo.config.build import BuildDataConfig
from vsgrpo.data.build.counterfactual import edited_rows
from vsgrpo.data.build.film import make_video
from vsgrpo.data.build.negatives import Inventory
from vsgrpo.data.frame_true import ANSWER_AT
from vsgrpo.data.room_ids import room_of
from vsgrpo.data.row import Row
from vsgrpo.data.rows import make_row, row_from_dict, row_to_dict
from vsgrpo.errors import ConfigError, DataError, RunError
from vsgrpo.rules import Section, load_question_types
from vsgrpo.scans.meta_info import write_scene_json
from vsgrpo.scans.source import Scan, ScanSource, SceneSettings
from vsgrpo.scans.walk.floor_map import CELL, map_floor
from vsgrpo.spatial.map_types import map_of
from vsgrpo.spatial.maps import map_text
from vsgrpo.spatial.question import Question
from vsgrpo.spatial.question_settings import AppearanceSettings, QuestionSettings, RouteSettings
from vsgrpo.spatial.question_types import ask, asked_types, observation
from vsgrpo.spatial.scene import FreeFloor, Scene
from vsgrpo.spatial.wrong_answers import rejected_answer

WRITE_HINT = "make room and run the same command again: finished scans are kept, no half file has a final name"
_BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class ScanJob:
    """What a worker needs to know about one scan.

    Attributes:
        root: the folder of its source's scans.
        split: label of the rows: "train" or "val_safe".
        in_report: mark the scene json for the report, which draws some of the scenes.
        part: place of its source in `BuildDataConfig.parts`.
    """

    config: BuildDataConfig
    root: Path
    out: Path
    scan_id: str
    split: str
    in_report: bool = False
    part: int = 0


@dataclass
class ScanOutcome:
    """What became of one scan.

    Attributes:
        part: place of its source in `BuildDataConfig.parts`.
        left_out: "type: rule" -> questions that a rule of the mode left out.
    """

    scan_id: str
    room: str
    status: str
    reason: str = ""
    hint: str = ""
    rows: list[Row] = field(default_factory=list)
    warnings: dict[str, int] = field(default_factory=dict)
    num_objects: int = 0
    num_shown: int | None = None
    num_frames: int = 0
    seconds: float = 0.0
    inventory: Inventory = field(default_factory=Inventory)
    pairs: list[Row] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    part: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON, rows included."""
        rows = {name: [row_to_dict(row) for row in getattr(self, name)] for name in ("rows", "pairs")}
        return {**vars(self), **rows, "inventory": vars(self.inventory)}

    @classmethod
    def from_json(cls, data: dict[str, Any], where: str) -> Self:
        """Return the outcome that `to_json` stored; `where` names the file in errors."""
        rows = {name: [row_from_dict(row, where) for row in data[name]] for name in ("rows", "pairs")}
        return cls(**{**data, **rows, "inventory": Inventory.from_json(data["inventory"])})


def build_scans(jobs: list[ScanJob], num_workers: int | None) -> Iterator[ScanOutcome]:
    """Yield outcomes as scans finish, over a pool of processes with one BLAS thread each.

    Raises:
        RunError: a worker was killed, or what was made cannot be written.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(num_workers or cores, len(jobs))
    if workers <= 1:
        yield from map(build_scan, jobs)
        return
    before = {name: os.environ[name] for name in _BLAS if name in os.environ}
    os.environ.update(dict.fromkeys(_BLAS, "1"))
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        for future in as_completed([pool.submit(build_scan, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool:
        raise RunError(
            "a build-data worker was killed (out of memory?)",
            hint="run the same command again: finished scans are kept; fewer build.num_workers need less memory",
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)  # scans under way write into a folder that may be given back
        for name in _BLAS:
            del os.environ[name]
        os.environ.update(before)


def build_scan(job: ScanJob) -> ScanOutcome:
    """Build one scan; a broken one comes back as skipped with its reason.

    Raises:
        RunError: what was made cannot be written (full disk): no fault of the scan, so the build stops.
    """
    start, source = time.monotonic(), job.config.parts[job.part].source
    try:
        outcome = _build(job)
    except DataError as error:
        room = scan_room(source, job.root, job.scan_id)
        outcome = ScanOutcome(job.scan_id, room, "skipped", reason=error.message, hint=error.hint, part=job.part)
    except OSError as error:
        what = f"{error.filename or job.out}: {error.strerror or error}"
        raise RunError(f"{what} (while building {job.scan_id})", WRITE_HINT) from None
    outcome.seconds = round(time.monotonic() - start, 3)
    return outcome


def scan_room(source: ScanSource, root: Path, scan_id: str) -> str:
    """Return the room of a scan that need not be readable."""
    return room_of(scan_id) if source.room_of is None else source.room_of(root, scan_id)


def _build(job: ScanJob) -> ScanOutcome:
    config, part = job.config, job.config.parts[job.part]
    source = part.source
    scan = source.read(part.options, job.root, job.scan_id)
    categories = "raw" if config.data.mode == "vsi100k" else "benchmark"
    scene = scan.scene(SceneSettings(**_shared(config.spatial, SceneSettings), categories=categories))
    if (scene.dataset, scene.scene_name) != (source.name, job.scan_id):
        what = f"{part.key}.name={part.options.name}: scan {job.scan_id} was read as {scene.dataset}/{scene.scene_name}"
        raise ConfigError(what, f"its Scene has dataset={source.name!r}, scene_name={job.scan_id!r}")
    video = Path("videos") / scene.dataset / f"{scene.scene_name}.mp4"
    film = make_video(config, scan, scene, job.out / video)
    scene, num_frames, seen_pixels, _ = film
    scene.extra["notes"] = [*scene.extra.get("notes", []), *scan.notes]
    if job.in_report:
        scene.extra["in_report"] = True
    asked = _question_settings(config, seen_pixels)
    if any("floor" in kind.needs for kind in asked_types(asked)):
        scene = _with_floor(scan, scene, config.route.clearance_m)
    questions, left_out = ask(scene, asked, config.run.seed)
    if config.data.map and (carried := map_of(scene, asked, config.run.seed)) is not None:
        questions = [_with_map(question, carried) for question in questions]
    rows = _rows(job, scene, questions, str(asked.distance), video)
    pairs = edited_rows(config, scan, film, rows, asked, job.out)
    write_scene_json(scene, job.out / "scenes" / scene.dataset / f"{scene.scene_name}.json")
    shown = None
    if scene.pixels is not None:
        shown = sum(sum(px >= seen_pixels for px in scene.pixels.get(o.instance_id, ())) >= 2 for o in scene.objects)
    return ScanOutcome(
        scan_id=job.scan_id,
        room=scene.room,
        status="done",
        rows=rows,
        warnings=scene.warnings,
        num_objects=len(scene.objects),
        num_shown=shown,
        num_frames=num_frames,
        inventory=Inventory.of(scene),
        pairs=pairs,
        left_out=left_out,
        part=job.part,
    )


def _with_map(question: Question, carried: dict[str, Any]) -> Question:
    """Return a question that carries the map of its room, unless that is its answer."""
    return question if question.type.answer_kind == "map" else replace(question, extra={**question.extra, **carried})


def _rows(job: ScanJob, scene: Scene, questions: list[Question], distance: str, video: Path) -> list[Row]:
    """Return one row per different question, each with its wrong answer and, where asked for, its templated thought."""
    config = job.config
    generator = {
        "version": version("vsgrpo"),
        "mode": config.data.mode,
        "distance": distance,
        "size_box": config.spatial.size_box,
        "video_source": config.video.source,
    }
    rows: dict[str, Row] = {}
    for question in questions:
        if config.video.frame_true != "answer":
            question.extra.pop(ANSWER_AT, None)
        reasoning = observation(scene, question, distance) if config.data.reasoning == "template" else None
        if reasoning is not None and "map" in question.extra:
            reasoning = f"{map_text(question.extra['map'])} {reasoning}"
        if reasoning is not None:
            question = replace(question, extra={**question.extra, "synthetic_reasoning": True})
        row = make_row(
            question,
            dataset=scene.dataset,
            split=job.split,
            scene_name=scene.scene_name,
            room=scene.room,
            video=video.as_posix(),
            generator=generator,
            rejected=rejected_answer(
                question.answer,
                question.type.answer_kind,
                question.options,
                seed=config.run.seed,
                key=f"{scene.scene_name}/{question.question_type}/{question.question}",
                tolerance=question.type.tolerance,
            ),
            reasoning=reasoning,
        )
        rows.setdefault(row.id, row)
    return list(rows.values())


def _question_settings(config: BuildDataConfig, seen_pixels: int) -> QuestionSettings:
    route = config.route
    return QuestionSettings(
        mode=config.data.mode,
        distance=config.spatial.distance,
        types=None if config.data.types is None else load_question_types("data.types", config.data.types),
        caps=config.balance.caps,
        min_count=max(config.data.min_count, 1),  # zeros are drawn when all scans are done
        pooled=config.balance.mode == "text",
        min_pixels=seen_pixels,
        unseen=config.data.unseen,
        appearance=AppearanceSettings(**_shared(config.appearance, AppearanceSettings)),
        route=RouteSettings(
            legs=(route.min_legs, route.max_legs),
            leg_range=(route.min_leg_m, route.max_leg_m),
            max_reach=route.max_reach_m,
        ),
    )


def _shared(section: Section, settings: type) -> dict[str, Any]:
    """Return the values of a section's keys that are fields of the settings, too."""
    return {item.name: getattr(section, item.name) for item in fields(settings) if hasattr(section, item.name)}


def _with_floor(scan: Scan, scene: Scene, clearance: float) -> Scene:
    """Add the map of free floor; a scan without one is noted and gets no routes."""
    mesh = scan.aligned_mesh()
    try:
        floor_map = map_floor(mesh.vertices, mesh.faces)
    except DataError as error:
        scan.notes.append(error.message)
        return scene
    height = floor_map.floor if floor_map.is_level else None
    return replace(scene, floor=FreeFloor(floor_map.origin, CELL, floor_map.room >= clearance, height))
