"""The leak guard of every scoring command: was the model trained on the rooms that it is scored on?"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsgrpo.data.leak_guard import Links, name_some, worst
from vsgrpo.data.lineage import lineage_of
from vsgrpo.data.manifest import TrainingManifest, rooms_of, same_videos
from vsgrpo.data.room_ids import dataset_of_path, room_label, rooms_in
from vsgrpo.data.row import Row
from vsgrpo.errors import DataError, VsgrpoError
from vsgrpo.evaluation.predictions import MediaOf
from vsgrpo.families import find_model
from vsgrpo.families.hub_models import local_model
from vsgrpo.records import read_record
from vsgrpo.tables import denied_rooms, scannet_room_splits
from vsgrpo.terminal import counted, show
from vsgrpo.video.place import files_of

ALLOW = "its score would mean nothing; --allow-leak scores it all the same and says so in the results"
DrawnFrom = Callable[[Row], Mapping[str, str] | None]
"""`Benchmark.drawn_from`."""
Cover = frozenset[tuple[str, str]]
"""(Data set, split) pairs that rows are drawn from, split "": all of the data set."""
_TOLD_APART = frozenset({"scannet", "scannetpp", "arkitscenes", "demo"})
"""Data sets whose rooms are known to be of no other one."""


@dataclass(frozen=True)
class Leak:
    """Verdict of the leak guard on a model and the rows it is evaluated on.

    Attributes:
        verdict: clean | unknown | leak.
        rooms: the leaked rooms.
        num_trained: evaluated rooms that the model was trained on.
        num_rooms: evaluated rooms.
        videos: evaluated videos whose very bytes were trained on, whatever they were called there.
        reason: the verdict in words, where it is not clean, or rests on what is published of rows without a room.
        num_unnamed: rows of a benchmark that name no room, so that none can be looked for.
        drawn_from: data sets and splits ("scannet val") that these rows show rooms of, as far as it is published.
    """

    verdict: str
    rooms: tuple[str, ...]
    num_trained: int
    num_rooms: int
    videos: tuple[str, ...] = ()
    reason: str = ""
    num_unnamed: int = 0
    drawn_from: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what results.json says about it."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "rooms": list(self.rooms),
            "videos": list(self.videos),
            "trained_rooms": self.num_trained,
            "evaluated_rooms": self.num_rooms,
            "rows_without_room": self.num_unnamed,
            "drawn_from": list(self.drawn_from),
        }

    def notes(self) -> list[str]:
        """Return what a reader of the score must know."""
        lines = [f"leak check: {self.reason or self.verdict}"] if self.reason or self.verdict != "clean" else []
        if self.num_trained:
            lines.append(f"{self.num_trained} of {counted(self.num_rooms, 'room was', 'rooms were')} trained on")
        if self.videos:
            videos = counted(len(self.videos), "video was", "videos were")
            lines.append(f"{videos} trained on under another name: {name_some(self.videos)}")
        return lines


def check_lineage(path: str, adapter: str | None = None, *, allow_leak: bool = False) -> list[TrainingManifest]:
    """Return the manifests of a model and its adapter; say on stderr where they cannot tell what it was trained on.

    The first thing that every scoring command does: no row, video or weight is read before.

    Raises:
        DataError: a benchmark room is in the lineage, without `allow_leak`; or a broken training_manifest.json.
    """
    manifests = {name: lineage_of(name) for name in (path, adapter) if name}
    for name, manifest in manifests.items():
        key = "model.path" if name == path else "model.adapter"
        verdict = manifest.verdict()
        if verdict == "leak" and not allow_leak:
            raise DataError(f"{key}={name}: {manifest.reason()}", ALLOW)
        if verdict != "clean" and int(os.environ.get("RANK", "0")) == 0:
            show(f"leak check of {name}: {manifest.reason()}", sys.stderr)
    return list(manifests.values())


def check_recorded(file: Path, model: Mapping[str, str], *, allow_leak: bool = False) -> list[str]:
    """Check the model that made a predictions file before the file is scored; return what to note about it.

    Args:
        file: the predictions; settings.json and results.json beside it name the model that `vsgrpo eval` asked, an
            lmms-eval *_results.json the one that it asked.
        model: {"path", "adapter"} as given by the user, {} to believe those files.

    Raises:
        DataError: a benchmark room is in the model's lineage, or results.json says so, without `allow_leak`; there can
            be no such model.
    """
    if "path" in model:
        find_model(model["path"], model.get("adapter"), any_family=True)
    found = _recorded_model(file, model)
    leak = _read_object(file.with_name("results.json")).get("leak")
    if isinstance(leak, dict) and leak.get("verdict") == "leak":
        reason = leak.get("reason") or f"trained on {counted(len(leak.get('rooms', ())), 'benchmark room')}"
        if not allow_leak:
            raise DataError(f"{file.with_name('results.json')}: the model was {reason}", ALLOW)
        return [f"leak check: {reason}"]
    if not isinstance(path := found.get("path"), str):
        return ["leak check: unknown: nothing beside the file names the model; model.path=DIR checks it"]
    adapter, notes = found.get("adapter"), []
    if model:  # by a name that the user gave, which may be one of the hub, or of no hub at all
        try:
            path = local_model(path, f"model.path={path}", records=True)
        except VsgrpoError as error:
            notes.append(f"leak check: {error.message}")
    manifests = check_lineage(path, adapter if isinstance(adapter, str) else None, allow_leak=allow_leak)
    return notes + [f"leak check: {m.verdict()}: {m.reason()}" for m in manifests if m.verdict() != "clean"]


def check_scored(
    file: Path,
    model: Mapping[str, str],
    rows: Sequence[Row],
    official: bool,
    drawn_from: DrawnFrom,
    *,
    allow_leak: bool = False,
) -> list[str]:
    """Compare the rooms that rows name with the lineage of the model that answered them; return what to note.

    Args:
        file, model: as `check_recorded`, which comes first.
        official, drawn_from: as `compare_rows`.

    Raises:
        DataError: a room of them was trained on, without `allow_leak`.
    """
    found = _recorded_model(file, model)
    names = [name for name in (found.get("path"), found.get("adapter")) if isinstance(name, str)]
    if not names:
        return []
    manifests, nothing = [lineage_of(name) for name in names], lambda row: ()
    leak = compare_rows(manifests, rows, nothing, official, drawn_from, allow_leak=allow_leak, name=names[0])
    return leak.notes() if leak.reason or leak.verdict != "clean" else []


def _recorded_model(file: Path, model: Mapping[str, str]) -> Mapping[str, Any]:
    """Return {"path", "adapter"} as given, else as the files beside the predictions name the model, else {}."""
    recorded = _read_object(file.with_name("settings.json")).get("model")
    return model or (recorded if isinstance(recorded, dict) else _asked_by_lmms(file.parent))


def _asked_by_lmms(folder: Path) -> dict[str, Any]:
    """Return {"path"} of the model that lmms-eval's *_results.json in the folder names; {} without, or of several."""
    paths = set()
    for path in folder.glob("*_results.json"):
        try:
            config = _read_object(path).get("config")
        except DataError:  # a file of that name may be anything
            continue
        words = config.get("model_args") if isinstance(config, dict) else None
        pairs = words.items() if isinstance(words, dict) else (w.partition("=")[::2] for w in str(words).split(","))
        paths |= {str(value) for key, value in pairs if key.strip() == "pretrained"}
    return {"path": paths.pop()} if len(paths) == 1 else {}


def _read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, {} where there is no file.

    Raises:
        DataError: it is there and holds no object: what it says of the model must not be passed over.
    """
    hint = "write it again, or score a copy of the predictions in another folder with model.path=DIR"
    return read_record(path, {}, hint) if path.is_file() else {}


def split_model_words(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return {"path", "adapter"} as far as model=, model.path= and model.adapter= are among the words, and the rest."""
    keys = {"model": "path", "model.path": "path", "model.adapter": "adapter"}
    given = [word for word in words if word.partition("=")[0] in keys and not Path(word).is_file()]
    model = {keys[key]: os.path.expanduser(value) for key, _, value in (word.partition("=") for word in given)}
    return model, [word for word in words if word not in given]


def compare_rows(
    manifests: Sequence[TrainingManifest],
    rows: Iterable[Row],
    media_of: MediaOf,
    official: bool = False,
    drawn_from: DrawnFrom = lambda row: None,
    *,
    allow_leak: bool = False,
    name: str = "",
) -> Leak:
    """Compare rooms and videos of the rows to score with a model's lineage.

    Verdict "leak": a benchmark room is in the lineage; or a room or the bytes of a video scored now, where the rows are
    a benchmark's (in its own form, or of its rooms). Rooms of our own dataset folders that were trained on are no leak
    of a benchmark: they are counted and shown. Verdict "unknown": rows of a benchmark name no room (it does not publish
    them), and the model was trained on rooms that they may show: on any, or where it is published which data sets and
    official splits the rows are drawn from, on rooms of these.

    Args:
        manifests: `check_lineage`.
        media_of: what a row shows.
        official: the rows are in the benchmark's own form.
        drawn_from: what a row shows that names no room, `Benchmark.drawn_from`.
        name: of the model, for messages.

    Raises:
        DataError: a leak without `allow_leak`.
    """
    found = _compared(manifests, rows, media_of, official, drawn_from)
    leaked, fresh = found.leaked, found.fresh
    copies = same_videos(manifests, fresh)
    videos = tuple(str(path) for path in copies)
    is_leak = bool(leaked) or any(fresh[path] for path in copies)
    verdict = "leak" if is_leak else worst(manifest.verdict() for manifest in manifests)
    reasons = [manifest.reason() for manifest in manifests if manifest.verdict() != "clean"]
    if found.trained and verdict != "leak":
        in_question, said = _about_unnamed(found)
        verdict = "unknown" if in_question else verdict
        reasons += said
    reason = "; ".join(reasons)
    if leaked:
        reason = f"trained on {counted(len(leaked), 'benchmark room')}, such as {min(leaked)}"
    elif is_leak:
        path, known = next((path, known) for path, known in copies.items() if fresh[path])
        reason = f"trained on {counted(len(copies), 'benchmark video')}, such as {path}, there called {known}"
    if verdict == "leak" and not allow_leak:
        raise DataError(f"model.path={name}: {reason}", ALLOW)
    evaluated, trained = found.evaluated, found.trained
    counts = len(evaluated & trained), len(evaluated)
    drawn = tuple(dict.fromkeys(name for cover in found.unnamed if cover is not None for name in _names(cover)))
    return Leak(verdict, tuple(sorted(leaked)), *counts, videos, reason, found.unnamed.total(), drawn)


@dataclass(frozen=True)
class _Compared:
    """Rooms of a lineage and of the rows to score.

    Attributes:
        trained, evaluated: (dataset, room) of the lineage and of the rows.
        leaked: names of a benchmark's rooms that were trained on.
        fresh: videos of rooms that were not trained on -> they are a benchmark's.
        unnamed: rows of a benchmark that name no room, by what they are drawn from; None: not known.
    """

    trained: set[tuple[str, str]]
    evaluated: set[tuple[str, str]]
    leaked: set[str]
    fresh: dict[Path, bool]
    unnamed: Counter[Cover | None]


def _compared(
    manifests: Sequence[TrainingManifest],
    rows: Iterable[Row],
    media_of: MediaOf,
    official: bool,
    drawn_from: DrawnFrom,
) -> _Compared:
    """Look for the rooms of a lineage in rows to score.

    A scene whose data set is not told by the form of its id (3RScan, MultiScan) counts as trained on under any name of
    a data set.
    """
    trained = {room for manifest in manifests for room in manifest.known_rooms()}
    names = {name for _, name in trained}
    leaked = {room for manifest in manifests for room in manifest.leaked_rooms()}
    evaluated: set[tuple[str, str]] = set()
    fresh: dict[Path, bool] = {}
    unnamed: Counter[Cover | None] = Counter()
    for row in rows:
        paths = [path for kind, path in files_of(media_of(row)) if kind == "video"]
        links = [text for path in paths for text in Links(path.parent).of(path.name)]
        rooms = rooms_of(row, *links)
        is_benchmark = official or not rooms.isdisjoint(denied_rooms())
        if official and rooms == {(row.dataset, row.room)}:
            if row.room == row.id:
                cover = drawn_from(row)
                unnamed[None if cover is None else frozenset(cover.items())] += 1
            trained |= rooms if row.room in names else set()
        evaluated |= rooms
        if rooms & trained:
            leaked |= {room_label(*room) for room in rooms & trained} if is_benchmark else set()
        else:
            fresh |= {path: is_benchmark or fresh.get(path, False) for path in paths}
    return _Compared(trained, evaluated, leaked, fresh, unnamed)


def _about_unnamed(found: _Compared) -> tuple[bool, list[str]]:
    """Return whether rows that name no room may show one that was trained on, and a sentence on each kind of them."""
    in_question, said = False, []
    for cover, number in found.unnamed.items():
        rooms = found.trained if cover is None else {room for room in found.trained if _may_show(room, dict(cover))}
        in_question |= bool(rooms)
        if cover is None:
            said.append(
                f"{counted(number, 'row names', 'rows name')} no room: the benchmark does not publish what is shown"
            )
            continue
        told = (
            f"{counted(number, 'row names', 'rows name')} no room: as far as published, such rows show rooms of "
            f"{name_some(_names(cover))}"
        )
        first = min((room_label(*room) for room in rooms), default="")
        among = f"; {counted(len(rooms), 'room')} trained on may be among them, such as {first}"
        said.append(told + (among if rooms else ", of which none was trained on"))
    return in_question, said


def _names(cover: Cover) -> list[str]:
    return [f"{dataset} {split}".strip() for dataset, split in sorted(cover)]


def _may_show(room: tuple[str, str], drawn_from: Mapping[str, str]) -> bool:
    """Return whether a room that was trained on may be of these data sets and splits."""
    dataset, name = room
    if dataset not in _TOLD_APART:  # rows of another project: the rooms that their names tell are in the lineage too
        return not rooms_in(name, dataset=dataset_of_path(dataset))
    split = drawn_from.get(dataset)
    return split == "" or (split is not None and scannet_room_splits().get(name, split) == split)
