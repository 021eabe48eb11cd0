"""vsgrpo: raw ScanNet scans to spatial questions, GRPO on Qwen2-VL, VSI-Bench scores.

The functions below are what the command line runs, for notebooks; each imports what it needs when it is called:

    import vsgrpo

    scenes = vsgrpo.load_scenes("data/scannet", limit=10)
    questions = [q for scene in scenes for q in vsgrpo.make_questions(scene, mode="vsibench")]
    final = vsgrpo.train("grpo", "experiment=vsgrpo_2b_v", data="data/vsi100k", output="runs/x")
    report = vsgrpo.evaluate(final, "data/vsibench", output="runs/x/eval")
    print(report.table())
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

__all__ = ["evaluate", "load_scenes", "make_questions", "score", "train"]

if TYPE_CHECKING:
    from vsgrpo.evaluation.benchmark import Report
    from vsgrpo.spatial.question import Question
    from vsgrpo.spatial.scene import Scene


def load_scenes(
    path: Path | str, *, scans: Sequence[str] | None = None, limit: int | None = None, **settings: Any
) -> list[Scene]:
    """Return scenes: objects with boxes in metres (z up) and the room's size.

    Args:
        path: a ScanNet root (the folder that holds `scans/`), a dataset folder of `vsgrpo build-data` (its
            `scenes/`), or one of VSI-Bench's `*_meta_info.json` files.
        scans: names of the scenes wanted; None for all.
        limit: the first so many.
        settings: of `vsgrpo.scans.source.SceneSettings` (box, size_box, ...); for a ScanNet root only.

    Raises:
        DataError: nothing readable there, or a scan that cannot be read.
    """
    from vsgrpo.errors import ConfigError
    from vsgrpo.scans.annotation import read_labels
    from vsgrpo.scans.meta_info import read_meta_info, read_scene_json
    from vsgrpo.scans.scannet import list_scans, read_scan
    from vsgrpo.scans.source import SceneSettings

    path = Path(path)
    if settings and (path.is_file() or (path / "scenes").is_dir()):
        raise ConfigError(f"load_scenes({', '.join(settings)}): for ScanNet roots", hint="leave these out")
    if path.is_file():
        scenes = read_meta_info(path)
        names = _chosen(scans, [scene.scene_name for scene in scenes], path)
        return [scene for scene in scenes if scene.scene_name in names][:limit]
    if (path / "scenes").is_dir():
        files = {file.stem: file for file in sorted((path / "scenes").glob("*/*.json"))}
        return [read_scene_json(files[name]) for name in _chosen(scans, list(files), path)[:limit]]
    names = _chosen(scans, list_scans(path), path)[:limit]
    labels, options = read_labels(path), SceneSettings(**settings)
    return [read_scan(path, name, labels).scene(options) for name in names]


def make_questions(scene: Scene, *, mode: str = "vsi100k", seed: int = 42, **settings: Any) -> list[Question]:
    """Return the questions of a scene with exact answers, the same for the same seed.

    Args:
        mode: "vsi100k" (the paper's wording, types and formulas) or "vsibench" (the benchmark's).
        settings: of `vsgrpo.spatial.question.QuestionSettings`, such as types=("room_size_estimation",).

    Raises:
        ValueError: a setting out of range.
    """
    from vsgrpo.spatial.question import QuestionSettings
    from vsgrpo.spatial.question_types import make_questions as make

    return make(scene, QuestionSettings(mode=mode, **settings), seed)


def score(answers: Sequence[Mapping[str, Any]], scorer: str = "official") -> dict[str, float]:
    """Return VSI-Bench scores (0..1) by task and `overall`.

    Args:
        answers: one mapping per answer with question_type, prediction, ground_truth (a letter, or number text) and,
            for choice types with the lenient scorer, options.
        scorer: "official", "lmms" or "lenient".

    Raises:
        ConfigError: no answers, an unknown scorer, or an answer that lacks a key.
    """
    from vsgrpo.errors import ConfigError
    from vsgrpo.spatial.answers import SCORERS
    from vsgrpo.spatial.scoring import aggregate
    from vsgrpo.spatial.scoring import score as score_one

    if scorer not in SCORERS:
        raise ConfigError(f"scorer={scorer}: no such scorer", hint=f"one of {', '.join(SCORERS)}")
    if not answers:
        raise ConfigError("score: no answers given", hint="give a list of mappings")
    by_type: dict[str, list[float]] = {}
    for number, item in enumerate(answers):
        missing = [name for name in ("question_type", "prediction", "ground_truth") if name not in item]
        if missing:
            raise ConfigError(f"score: answer {number} lacks {', '.join(missing)}", hint="see help(vsgrpo.score)")
        kind, options = item["question_type"], item.get("options")
        value = score_one(scorer, kind, str(item["prediction"]), str(item["ground_truth"]), options)
        by_type.setdefault(kind, []).append(value)
    return aggregate(by_type)


def evaluate(model: Path | str, benchmark: Path | str, *overrides: str, output: Path | str, **options: Any) -> Report:
    """Score a model on VSI-Bench or on a dataset folder, as `vsgrpo eval`; goes on where an earlier call stopped.

    With the override "benchmark=mathvista" or "benchmark=folder" on questions about images.

    Args:
        overrides: KEY=VALUE of `configs/eval.yaml`, such as "benchmark.limit=100".
        options: skip_missing, allow_leak, overwrite, allow_changed (see `vsgrpo eval --help`).

    Returns:
        The report: `.table()` for people, `.to_json()` for programs.

    Raises:
        VsgrpoError: anything that the user can fix, with a hint.
    """
    from vsgrpo.config.compose import load_config
    from vsgrpo.errors import RunError
    from vsgrpo.evaluation.run import run_eval

    given = [f"model.path={model}", f"benchmark.path={benchmark}", f"output={output}", *overrides]
    report = run_eval(load_config("eval", given), **options)
    if report is None:
        raise RunError("evaluate: this process is not the first of its launcher", hint="read results.json instead")
    return report


def train(
    method: str,
    *overrides: str,
    data: Path | str,
    output: Path | str,
    resume: bool = False,
    overwrite: bool = False,
    allow_changed: bool = False,
) -> Path:
    """Train a model, as `vsgrpo train`; return the folder of the trained model.

    Args:
        method: "grpo", "sft" or "dpo".
        overrides: KEY=VALUE of `configs/train.yaml`, such as "experiment=vsgrpo_2b_v" or "model.path=runs/sft/final".
        allow_changed: resume although rows, videos or weights changed since the start.

    Raises:
        VsgrpoError: anything that the user can fix, with a hint; RunError if training failed or was stopped.
    """
    from vsgrpo.config.compose import load_config
    from vsgrpo.errors import RunError
    from vsgrpo.launch.start import launch_training

    given = [f"trainer={method}", *overrides, f"data={data}", f"output={output}"]
    code = launch_training(
        load_config("train", given), given, resume=resume, overwrite=overwrite, allow_changed=allow_changed
    )
    if code:
        raise RunError(f"{output}: training ended with exit code {code}", hint="run.json says why; resume=True goes on")
    return Path(output) / "final"


def _chosen(wanted: Sequence[str] | None, names: list[str], path: Path) -> list[str]:
    from vsgrpo.errors import DataError

    for name in wanted or ():
        if name not in names:
            raise DataError(f"{path}: no scene {name}", hint=f"there are {len(names)}, such as {', '.join(names[:3])}")
    return names if wanted is None else list(wanted)
