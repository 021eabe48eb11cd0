"""The trust report of predictions files that some program made, one per arm: `vsgrpo score ... trust=DIR`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsgrpo.errors import ConfigError
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench
from vsgrpo.evaluation.score_file import ScoreReport
from vsgrpo.evaluation.scores import read_first
from vsgrpo.evaluation.trust.report import ARMS, trust_content, trust_lines, write_trust
from vsgrpo.evaluation.trust.training import WAY_OUT, TrainingRows, training_rows
from vsgrpo.terminal import counted

_EXAMPLE = "vsgrpo score FILE blind=FILE shuffled=FILE trust=DIR video.num_frames=16 benchmark.path=ROWS"
CONTROLS = tuple(name for name in ARMS if name)
TRUST_KEYS = ("trust", "trust.train", "video.num_frames", *CONTROLS)


@dataclass(frozen=True)
class TrustFiles:
    """A trust report that was written."""

    content: dict[str, Any]
    page: Path

    def to_json(self) -> dict[str, Any]:
        """Return the content of trust.json."""
        return self.content

    def table(self) -> str:
        """Return what is printed: lamps, gaps, blind drops, and where the page is."""
        return "\n".join([*trust_lines(self.content), f"trust report: {self.page}"])


def take_trust_words(given: dict[str, str]) -> dict[str, str]:
    """Take the words of a trust report out of those given and return them; {} where none is asked for.

    Raises:
        ConfigError: no arm beside the vision one, or no number of frames.
    """
    if "trust" not in given:
        return {}
    words = {key: given.pop(key) for key in TRUST_KEYS if key in given}
    if not any(name in words for name in CONTROLS):
        raise ConfigError(f"trust={words['trust']}: no arm to compare with: {', '.join(CONTROLS)}", hint=_EXAMPLE)
    frames = words.get("video.num_frames", "")
    if not frames.isdecimal() or not int(frames):
        what = f"video.num_frames={frames}: trust needs the number of frames that the model was shown"
        raise ConfigError(what, hint=_EXAMPLE)
    for key, value in words.items():
        if not value:
            raise ConfigError(f"{key}=: no value given", hint=_EXAMPLE)
    return words


def write_trust_of_files(
    words: Mapping[str, str],
    arms: Mapping[str, str],
    score: Callable[[str], ScoreReport],
    rows_path: Path | None,
    options: ReadOptions,
    model: Mapping[str, str],
) -> TrustFiles:
    """Score the files of all arms and write the report into the folder that trust= names.

    The scorer is the official one, or VLMEvalKit's where its prompt was asked (`options.harness`).

    Args:
        words: see `take_trust_words`.
        arms: control ("" for the vision arm) -> file.
        score: from a control to the scores of its file.
        rows_path: benchmark file or folder.

    Raises:
        ConfigError: no rows.
        DataError: as `score_file`, `trust_content` and `training_rows`.
    """
    if rows_path is None:
        raise ConfigError(f"trust={words['trust']}: no benchmark.path given", hint=_EXAMPLE)
    scored = {name: score(name) for name in arms}
    benchmark = VsiBench.read(rows_path, options)
    rows, scorer = benchmark.rows, benchmark.quoted("official")
    train = TrainingRows((), "", f"no model.path given; {WAY_OUT}")
    if model or "trust.train" in words:
        train = training_rows(model.get("path", ""), model.get("adapter"), words.get("trust.train"))
    folder = Path(words["trust"])
    folder.mkdir(parents=True, exist_ok=True)
    content = trust_content(
        rows,
        {name: report.scores.by_row[scorer] for name, report in scored.items()},
        train,
        int(words["video.num_frames"]),
        {
            "title": f"{scored[''].scores.num_answered} of {counted(len(rows), 'row')} in {rows_path.name}",
            "model": model.get("adapter") or model.get("path") or arms[""],
            "scorer": scorer,
        },
        {
            name: read_first(scorer, rows, {item.id: item.texts for item in report.items}, report.prompt)
            for name, report in scored.items()
        },
        benchmark.file.parent,
    )
    return TrustFiles(content, write_trust(folder, content))
