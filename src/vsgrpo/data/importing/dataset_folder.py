"""What an import reads and writes: its settings, the dataset folder, and the videos and images that go into it.

`new_dataset` keeps an earlier dataset until the new one is complete, however the import ends. `MediaFinder` finds the
files that rows name, also by paths of another machine, below one folder only.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any

from vsgrpo.data.importing.answer_values import Refused
from vsgrpo.data.kept_out import KEY, given_files, keeping_out
from vsgrpo.data.leak_guard import Denied, denied_in_path
from vsgrpo.data.manifest import MANIFEST_NAME, read_manifest
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.files import link_or_copy, sync, sync_names
from vsgrpo.paths import LOCK_NAME, inside, locked, path_fault, refuse_inputs_inside
from vsgrpo.records import no_such_file
from vsgrpo.rules import one_of, suggest
from vsgrpo.terminal import show

FORMATS = ("auto", "vsibench", "images")
_KEYS = ("output", "data.path", "videos", "images", "maps", "dataset", "format", "data.dev_fraction")
_KEYS += ("data.allow_val_safe", KEY)
_STAGING = ".import"
_COMPLETE = ".import.complete"
_ROW_FILES = ("train.jsonl", "dev.jsonl", "test.jsonl")
_VIDEO = ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .m2v .ts .m2ts .mts .wmv .asf .flv .3gp .ogv .vob"
_IMAGE = ".jpg .jpeg .png .webp .gif .bmp .tif .tiff"
VIDEO_SUFFIXES, IMAGE_SUFFIXES = frozenset(_VIDEO.split()), frozenset(_IMAGE.split())
_LEAVES = "a path that leaves the folder of its file ({option}=DIR says below which folder the files are)"
_OUTSIDE = "a link to a place outside the folder of its file or {option}=DIR"


@dataclass(frozen=True)
class ImportSettings:
    """Files to import, and how.

    Attributes:
        files: .json (a list), .jsonl or .parquet.
        output: the dataset folder to write.
        videos: folder of the videos: paths of another machine, absolute or with `..`, are searched below it; rows
            without a video there are left out. None: paths are relative to the file and stay in its folder; missing
            ones are reported, their rows kept.
        dataset: name for scenes that are not ScanNet's and where neither a column nor a path says.
        format: "auto" rows for training; "vsibench" the benchmark itself, for evaluation only (test.jsonl); "images"
            image questions or conversations about images.
        images: folder of the images of format=images and of frame lists, as `videos`.
        maps: file of maps of rooms (SpaceR-151k's cognitive_map.jsonl), joined to rows by the name of their video.
        dev_fraction: share of rooms held out as dev.jsonl.
        allow_val_safe: take val scans of rooms that VSI-Bench does not use.
        keep_out: row files of other benchmarks, whose rooms are denied too (`data.kept_out`).
        splits: of each file, where the user has split the rows; empty: rooms are held out by `dev_fraction`.
        is_own: the user's own rows: each that cannot be taken is a fault, and none is left out.
    """

    files: tuple[Path, ...]
    output: Path
    videos: Path | None = None
    dataset: str = "imported"
    format: str = "auto"
    images: Path | None = None
    maps: Path | None = None
    dev_fraction: float = 0.05
    allow_val_safe: bool = False
    keep_out: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    is_own: bool = False

    def __post_init__(self) -> None:
        one_of("format", self.format, FORMATS)
        if not 0 <= self.dev_fraction < 1:
            raise ConfigError(f"data.dev_fraction={self.dev_fraction}: must be in [0, 1)", "data.dev_fraction=0.05")
        for name, what, unused in (("videos", "mp4 files", "images"), ("images", "images", "vsibench")):
            folder = getattr(self, name)
            if folder is not None and not folder.is_dir():
                raise ConfigError(f"{name}={folder}: no such folder", f"give the folder of the {what}")
            if folder is not None and self.format == unused:
                raise ConfigError(f"{name}=DIR with format={unused}: has no effect", f"leave out {name}=DIR")
        if self.keep_out and self.format == "vsibench":
            raise ConfigError(f"{KEY}=ROWS with format=vsibench: has no effect", f"leave out {KEY}=ROWS")
        if self.maps is not None and self.format != "auto":
            raise ConfigError(f"maps=FILE with format={self.format}: has no effect", "leave out maps=FILE")


def parse_settings(given: Sequence[str]) -> ImportSettings:
    """Read files and key=value words of the command line.

    Raises:
        ConfigError: an unknown key, a value of the wrong type, no file or no output.
    """
    files: list[Path] = []
    values: dict[str, Any] = {}
    for word in given:
        key, equals, value = word.partition("=")
        if not equals or Path(word).is_file():
            files.append(Path(os.path.expanduser(word)))
            continue
        if key not in _KEYS:
            raise ConfigError(f"{key}: unknown key of import-data", suggest(key, _KEYS))
        values["output" if key == "data.path" else key.removeprefix("data.")] = _value(key, value)
    if "output" not in values:
        raise ConfigError("output: no value given", "add output=DIR: the dataset folder to write")
    if not files:
        raise ConfigError("import-data: no file given", "vsgrpo import-data rows.json output=DIR")
    return ImportSettings(tuple(files), **values)


def _value(key: str, value: str) -> Any:
    if key in ("dataset", "format"):
        return value
    if key == "data.dev_fraction":
        try:
            return float(value)
        except ValueError:
            raise ConfigError(f"{key}={value}: a number is needed", f"for example {key}=0.05") from None
    if key == "data.allow_val_safe":
        if value.lower() not in ("true", "false"):
            raise ConfigError(f"{key}={value}: must be true or false", f"{key}=true")
        return value.lower() == "true"
    if key == KEY:
        return given_files(value)
    return Path(os.path.expanduser(value))


@contextmanager
def new_dataset(settings: ImportSettings, overwrite: bool) -> Iterator[ImportSettings]:
    """Yield the settings with a folder inside the output to write to, and put its files in place at the end.

    A failed or killed import leaves the output as it was. One that was killed while its files were put in place is
    completed by the next. Videos and images of an earlier dataset stay where the new one has none of that name.

    Raises:
        DataError: the output holds something else, or a dataset without `overwrite`, or what is read; another process
            writes there; an input file is missing.
    """
    out = settings.output
    for file in settings.files:
        if not file.is_file():
            raise no_such_file(file)
    if out.exists() and not out.is_dir():
        raise DataError(f"output={out}: exists and is no dataset folder", "choose another output=DIR")
    if overwrite:
        folders = [("videos", settings.videos), ("images", settings.images), ("maps", settings.maps)]
        refuse_inputs_inside(out, "output", [*(("FILE", file) for file in settings.files), *folders])
    with locked(out, "output", "writing"), keeping_out(settings.keep_out):
        _check(out, overwrite)
        staging = out / _STAGING
        staging.mkdir()
        try:
            yield replace(settings, output=staging)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        sync(staging)
        os.replace(staging, out / _COMPLETE)
        sync_names(out)
        _put_in_place(out)


def _check(out: Path, overwrite: bool) -> None:
    """Clear away what a killed import left, then refuse a folder that may not be written to."""
    shutil.rmtree(out / _STAGING, ignore_errors=True)
    if (out / _COMPLETE).is_dir():
        _put_in_place(out)
        show(f"output={out}: an import that was killed while it put its files in place is complete now", sys.stderr)
    ours = (out / MANIFEST_NAME).is_file()
    if not ours and any(path.name != LOCK_NAME for path in out.iterdir()):
        raise DataError(f"output={out}: exists and is no dataset folder", "choose another output=DIR")
    if ours and not overwrite:
        raise DataError(f"output={out}: holds a dataset already", "add --overwrite, or choose another output=DIR")


def _put_in_place(out: Path) -> None:
    """Move the files of a complete import to their names, the manifest last."""
    complete = out / _COMPLETE
    found = [path.relative_to(complete) for path in sorted(complete.rglob("*")) if path.is_file()]
    if Path(MANIFEST_NAME) in found:  # else it was there already: only the folder is left to remove
        written = read_manifest(complete).files
        for name in _ROW_FILES:
            if name not in written:
                (out / name).unlink(missing_ok=True)
        for name in sorted(found, key=lambda name: name == Path(MANIFEST_NAME)):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(complete / name, out / name)
    sync_names(out)
    shutil.rmtree(complete)


@dataclass
class MediaFinder:
    """Finds the files that rows name and gives them places in a dataset folder.

    Without a root, paths are relative to the folder of the row file (or its videos/, images/) and may not leave it.
    With one, a path of another machine is searched below the root: its longest end that exists counts.

    Attributes:
        root: videos=DIR or images=DIR; None: beside the row file.
        option: what that setting is called.
        is_guarded: refuse files whose path, as given and with links followed, names a benchmark room.
        keeps_missing: rows whose file is not there are kept where there is no root.
        found: place in the dataset folder -> the file.
        num_missing, first_missing: places that have no file.
    """

    root: Path | None
    option: str
    keeps_missing: bool = True
    is_guarded: bool = True
    found: dict[str, str] = field(default_factory=dict)
    num_missing: int = 0
    first_missing: str | None = None
    _places: dict[bytes, str | None] = field(default_factory=dict)
    _taken: set[bytes] = field(default_factory=set)

    def place(self, wanted: str, source: str | None, beside: Path, identity: str, names: tuple[str, ...] = ()) -> str:
        """Return the place of a file, `wanted` or, where another file has that already, a name of its own.

        Args:
            source: the path that the row names, None where it names none.
            beside: the folder of the row file.
            identity: what makes two rows mean one file.
            names: other names that the first file with this `wanted` may have.

        Raises:
            Refused: a path that leaves its folder, a file that shows a benchmark room, or one that is not there and may
                not be missing.
        """
        key = _digest(identity)
        if key not in self._places:
            is_first = (taken := _digest(wanted)) not in self._taken
            existing = self._find(source, beside, names, is_first)
            if existing is not None and self.is_guarded:
                refuse_rooms(denied_in_path(existing))
            is_kept = existing is not None or (self.root is None and self.keeps_missing)
            if is_kept:  # else the name is free for a file that is there
                self._taken.add(taken)
            place = wanted if is_first else _renamed(wanted, key)
            if existing is not None:
                self.found[place] = str(existing)
            else:
                self.num_missing += 1
                self.first_missing = self.first_missing or place
            self._places[key] = place if is_kept else None
        if (place := self._places[key]) is None:
            what = self.option.removesuffix("s")
            missing = f"no such {what}" + (f" ({self.option}=DIR says where they lie)" if self.keeps_missing else "")
            raise Refused(missing if self.root is None else f"no such {what} in {self.root}", (source or wanted)[:120])
        return place

    def _find(self, source: str | None, beside: Path, names: tuple[str, ...], is_first: bool) -> Path | None:
        """Return the file of a path; only the first file of a place is searched under other names than its own."""
        path = (source or "").replace("\\", "/").strip()
        base = beside if self.root is None else self.root
        if path.startswith("/") and Path(path).is_relative_to(base.absolute()):
            path = str(Path(path).relative_to(base.absolute()))
        if self.root is not None:
            parts = [part for part in path.split("/") if part not in ("", ".", "..")]
            own, folders = ["/".join(parts[start:]) for start in range(len(parts))], [self.root]
        else:
            if path and path_fault(path) is not None:
                raise Refused(_LEAVES.format(option=self.option), path[:120])
            own, folders = [path, PurePosixPath(path).name] if path else [], [beside, beside / self.option]
        return self._first(folders, [*own, *names] if is_first else own[:1])

    def _first(self, folders: list[Path], names: list[str]) -> Path | None:
        """Return the first of the files that is there and inside its folder."""
        suffixes = VIDEO_SUFFIXES if self.option == "videos" else IMAGE_SUFFIXES
        outside: str | None = None
        for folder in folders:
            for name in dict.fromkeys(names):
                is_name = PurePosixPath(name).suffix.lower() in suffixes and path_fault(name) is None
                if not is_name or not (folder / name).is_file():
                    continue
                try:
                    return inside(folder, name)
                except DataError:
                    outside = outside or name
        if outside is not None:
            raise Refused(_OUTSIDE.format(option=self.option), outside[:120])
        return None

    def link(self, out: Path) -> None:
        """Give every file found its place in the dataset folder: a hard link, or a copy on another disk."""
        for place, existing in self.found.items():
            link_or_copy(Path(existing), inside(out, place))


def refuse_rooms(denied: Sequence[Denied]) -> None:
    """Refuse a row of benchmark rooms.

    Raises:
        Refused: there are some.
    """
    if denied:
        raise Refused(denied[0].reason, denied[0].named_by[:80], [item.room for item in denied])


def _digest(text: str) -> bytes:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()


def _renamed(place: str, key: bytes) -> str:
    path = PurePosixPath(place)
    return str(path.with_name(f"{path.stem}-{key.hex()}{path.suffix}"))
