"""check-data: would a run with these settings train on these rows and videos to the end? Names all that is wrong.

Rows are read by the code of a run, media by its loader: same backend, same sampled frames (`examine_media`).
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import Any

from vsgrpo.config.train import TrainConfig
from vsgrpo.data.frame_true import check_fields, truth_lines
from vsgrpo.data.importing.own_records import OWN_ROW, OwnRowFaults
from vsgrpo.data.kept_out import keeping_out, kept_line
from vsgrpo.data.leak_guard import Judgement, name_some
from vsgrpo.data.manifest import MANIFEST_NAME, changed_files, read_manifest
from vsgrpo.data.mix import expect_mix, mix_lines
from vsgrpo.data.own_rows import dataset_folder, is_complete
from vsgrpo.data.pairs import pair_of
from vsgrpo.data.prompts import check_trainable
from vsgrpo.data.row import Row
from vsgrpo.data.row_scan import AnswerLine, RowScan, answer_table, scan_rows
from vsgrpo.errors import DataError
from vsgrpo.families import FAMILIES, budget_of, family_of, find_model
from vsgrpo.families.hub_models import with_hub_models
from vsgrpo.files import user_cache
from vsgrpo.paths import inside
from vsgrpo.terminal import Progress, counted
from vsgrpo.video.image import image_size
from vsgrpo.video.index import VideoHeader
from vsgrpo.video.reader import examine_media, probe

_SHOWN = 20
_NAMES = ("train", "dev", "test", "train_pairs", "dev_pairs")


@dataclass(frozen=True)
class CheckReport:
    """Findings of check-data.

    Attributes:
        files: good rows per row file.
        answers: per row file, one line per question type.
        verdict: leak verdict over all rows but those of a test file: clean, unknown or leak.
        num_videos: videos that can be read; frames of the shortest and longest.
        num_images: images that can be read.
        frame_true: per row file, type -> share of the rows that is true at each budget of frames.
        problems: one per rule that is broken, with file, lines or video; empty: all is well.
        notes: worth knowing, no fault.
    """

    files: dict[str, int]
    answers: dict[str, list[AnswerLine]]
    verdict: str
    num_videos: int
    num_images: int
    frames: tuple[int, int]
    frame_true: dict[str, dict[str, dict[str, Any]]]
    problems: list[str]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return asdict(self)

    def table(self) -> str:
        """Return counts, verdict, problems and notes."""
        lines: list[str] = []
        for name, answers in self.answers.items():
            lines += [f"{name}: {counted(self.files[name], 'row')}", *answer_table(answers, name=Path(name).stem)[:-1]]
            lines += truth_lines(self.frame_true[name])
        lines.append(f"videos: {self.num_videos} readable, {self.frames[0]} to {self.frames[1]} frames")
        if self.num_images:
            lines.append(f"images: {self.num_images} readable")
        lines.append(f"leak check: {self.verdict}")
        lines += [f"problem: {problem}" for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"... and {counted(len(self.problems) - _SHOWN, 'more problem')} (--json lists them all)")
        lines += [f"note: {note}" for note in self.notes]
        lines.append("all is well" if not self.problems else counted(len(self.problems), "problem"))
        return "\n".join(lines)

    def raise_if_bad(self) -> None:
        """Raise DataError if there is a problem."""
        if self.problems:
            raise DataError(
                f"{counted(len(self.problems), 'problem')}, the first: {self.problems[0]}", "they are listed above"
            )


def check_data(path: Path, config: TrainConfig, *, headers: bool = False, limit: int | None = None) -> CheckReport:
    """Check a row file, or the row files of a folder, and the media they name, as a run of `config` would read them.

    Args:
        headers: look at the headers of media only: quick, and blind for frames that cannot be decoded.
        limit: open only so many videos and images (all are looked for).

    Raises:
        DataError: there is no row file, or no such model.
        SetupError: the backend is not installed, or the hub, whose model is not here, cannot be asked.
    """
    find_model(config.model.path, config.model.adapter)
    with keeping_out(config.data.keep_out):
        return _check_data(path, with_hub_models(config, records=True), headers, limit)


def _check_data(path: Path, config: TrainConfig, headers: bool, limit: int | None) -> CheckReport:
    if not (path.is_file() and path.suffix == ".jsonl" and is_complete(path)):
        try:
            path = dataset_folder(str(path), config.data.split, key="", allow_val_safe=config.data.allow_val_safe)
        except OwnRowFaults as error:
            return CheckReport({}, {}, "not made", 0, 0, (0, 0), {}, error.problems, [f"a row is {OWN_ROW}"])
    files = [*_row_files(path), *_mixed_files(config)]
    needs = partial(_check_row, config=config)
    others = {*_NAMES} - {config.data.split}  # they are not trained on
    scans = {
        file: scan_rows(file, check_frames if file.stem in others else needs, judge=file.stem != "test")
        for file in files
    }
    judged = Judgement()
    for scan in scans.values():
        judged.join(scan.judged)
    problems = [fault.text(file) for file, scan in scans.items() for fault in scan.faults.values()]
    problems += [
        f"{file}: holds no rows"
        for file, scan in scans.items()
        if not scan.num_rows and not scan.faults and file.stem != "dev"
    ]
    problems += _leak_problems(scans) + _shared_rooms(scans)
    if judged.num_val and not config.data.allow_val_safe:
        problems.append(
            f"{counted(judged.num_val, 'row')} of val scans: training on them needs data.allow_val_safe=true"
        )
    good, bad = _media(scans, config, headers, limit)
    problems += bad
    frames = [header.num_frames for (kind, _), header in good.items() if kind == "video"]
    unknown = judged.unknown_text()
    notes = kept_line(config.data.keep_out)
    notes += [] if unknown is None else [f"leak check: unknown: {unknown}"]
    if untimed := [path for (kind, path), header in good.items() if kind == "video" and header.fps <= 0]:
        timed = " and ".join(family.label for family in FAMILIES.values() if family.needs_timing)
        notes.append(
            f"{counted(len(untimed), 'video states', 'videos state')} no frame rate, such as {untimed[0]}: "
            f"{timed} refuses such rows"
        )
    notes += [note for file, scan in scans.items() if (note := _lost(file, scan, config)) is not None]
    notes += _changed_rows(files[0].parent) + _drawn(files[0], scans, config)
    names = {file: file.name if file.parent == files[0].parent else str(file) for file in files}
    return CheckReport(
        files={names[file]: scan.num_rows for file, scan in scans.items()},
        answers={names[file]: scan.tally.lines() for file, scan in scans.items()},
        verdict=judged.verdict,
        num_videos=len(frames),
        num_images=len(good) - len(frames),
        frames=(min(frames, default=0), max(frames, default=0)),
        frame_true={names[file]: scan.truth.table() for file, scan in scans.items()},
        problems=problems,
        notes=notes,
    )


def _mixed_files(config: TrainConfig) -> list[Path]:
    """Return the row files of data.mix, rows of one's own completed."""
    data, found = config.data, []
    for number, item in enumerate(data.mix or []):
        key = f"data.mix[{number}].path="
        folder = dataset_folder(str(item["path"]), data.split, key=key, allow_val_safe=data.allow_val_safe)
        found.append(folder / f"{data.split}.jsonl")
    if lost := [file for file in found if not file.is_file()]:
        raise DataError(f"{lost[0]}: no such file", "data.split says which row file of each folder is read")
    return found


def _drawn(own: Path, scans: dict[Path, RowScan], config: TrainConfig) -> list[str]:
    """Return the table of what a run draws from the folders of data.mix, counted by rows without a fault."""
    if not config.data.mix:
        return []
    types = config.data.kept_types
    main = next((file for file in (own.with_name(f"{config.data.split}.jsonl"),) if file in scans), own)
    mixed = {str(item["path"]): file for item, file in zip(config.data.mix, _mixed_files(config), strict=True)}
    sources = replace(
        config.data, path=next((p for p, file in mixed.items() if file == main), str(own.parent))
    ).sources()
    sizes = []
    for source in sources:
        counts = scans[mixed.get(source.path, main)].tally.counts()
        sizes.append(sum(number for kind, number in counts.items() if types is None or kind in types))
    return [f"mix: {line}" for line in mix_lines(expect_mix(sizes, sources, config.data.limit))]


def _changed_rows(folder: Path) -> list[str]:
    if not (folder / MANIFEST_NAME).is_file():
        return []
    manifest = read_manifest(folder)
    names = [name for name in manifest.files if name.endswith(".jsonl")]
    return [f"{folder / name} was changed after it was built" for name in changed_files(folder, manifest, names)]


def _check_row(row: Row, config: TrainConfig) -> None:
    check_frames(row)
    check_trainable(row, config)


def check_frames(row: Row) -> None:
    """Raise RowError where a row says in another form than build-data at which frames it is true, or its pair."""
    if row.extra:
        check_fields(row, f"row {row.key}")
        pair_of(row)


def _lost(file: Path, scan: RowScan, config: TrainConfig) -> str | None:
    """Say how many rows a run leaves out because its frames do not show their answers; None where none says."""
    truth = scan.truth
    if truth.unknown.total() == truth.rows.total():
        return None
    frames = budget_of(config.model.path, config.vision()).sampled_frames
    lost = truth.lost_at(frames)
    by_type = f" ({', '.join(f'{kind} {number}' for kind, number in lost.items())})" if lost else ""
    what = (
        f"a run with video.num_frames={frames} leaves out {sum(lost.values())} of "
        f"{counted(truth.rows.total(), 'row')}{by_type}"
    )
    keeps = "data.frame_true=off keeps " + ("those that name no frames" if truth.named else "them")
    return f"{file.name}: {what}: not true for these frames; {keeps}"


def _row_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = [path / f"{name}.jsonl" for name in _NAMES if (path / f"{name}.jsonl").is_file()]
    if not files:
        hint = "give a row file or a dataset folder with train.jsonl; import-data reads other formats"
        raise DataError(f"{path}: no row file", hint)
    return files


def _leak_problems(scans: dict[Path, RowScan]) -> list[str]:
    return [
        f"{file}: {counted(found.num_leaks, 'row shows', 'rows show')} rooms of {found.first_leak[1].benchmark} "
        f"({name_some(sorted(found.leaked_scenes))}): `train` refuses such rows; "
        f"rooms: {name_some(sorted(found.leaked_rooms))}"
        for file, found in ((file, scan.judged) for file, scan in scans.items())
        if found.first_leak is not None
    ]


def _shared_rooms(scans: dict[Path, RowScan]) -> list[str]:
    return [
        f"{first} and {second} share {counted(len(both), 'room')} (e.g. {min(both)[1]})"
        for first, second in combinations(scans, 2)
        if first.stem.removesuffix("_pairs") != second.stem.removesuffix("_pairs")
        if (both := scans[first].rooms & scans[second].rooms)
    ]


def _media(
    scans: dict[Path, RowScan], config: TrainConfig, headers: bool, limit: int | None
) -> tuple[dict[tuple[str, Path], VideoHeader], list[str]]:
    """Return the headers of readable videos and images, and problems."""
    problems: list[str] = []
    shown: dict[tuple[str, Path], str] = {}
    for file, scan in scans.items():
        for (kind, name), key in scan.media.items():
            try:
                shown.setdefault((kind, inside(file.parent, name)), key)
            except DataError as error:
                problems.append(f"{error.message} (row {key})")
    problems += [f"{path}: no such {kind} (row {key})" for (kind, path), key in shown.items() if not path.is_file()]
    there = [place for place in shown if place[1].is_file()][:limit]
    progress = Progress("videos and images", len(there))
    if headers:
        found = {}
        for place in there:
            found[place] = _header(*place, config.video.backend)
            progress.advance()
    else:
        family = family_of(config.model.path)
        examined = examine_media(
            there,
            budget_of(config.model.path, config.vision()),
            backend=config.video.backend,
            timeout_s=config.video.timeout_s,
            timed_for=None if family is None else family.timed_label,
            memory=_memory(next(iter(scans)).parent),
            on_done=progress.advance,
        )
        found = {
            place: result.header or (f"{result.problem} ({result.hint})" if result.hint else result.problem)
            for place, result in examined.items()
        }
    problems += [
        f"{result}" if result.startswith(str(place[1])) else f"{place[1]}: {result}"
        for place, result in found.items()
        if isinstance(result, str)
    ]
    return {place: header for place, header in found.items() if isinstance(header, VideoHeader)}, problems


def _memory(folder: Path) -> Path | None:
    """Return the user's file that remembers what was found good in a folder, None where there is no place for it."""
    if (cache := user_cache()) is None:
        return None
    home = cache / "checked_media"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    name = blake2b(str(folder.resolve()).encode(errors="surrogateescape"), digest_size=8).hexdigest()
    return home / f"{name}.json" if os.access(home, os.W_OK) else None


def _header(kind: str, path: Path, backend: str) -> VideoHeader | str:
    try:
        return probe(path, backend=backend) if kind == "video" else VideoHeader(1, 0.0, *image_size(path))
    except DataError as error:
        return f"{error.message} ({error.hint})" if error.hint else error.message
