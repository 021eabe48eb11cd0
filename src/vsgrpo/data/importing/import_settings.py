"""Settings of `vsgrpo import-data FILE... key=value...`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsgrpo.errors import ConfigError

FORMATS = ("auto", "vsibench", "images")


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
        dev_fraction: share of rooms held out as dev.jsonl.
        allow_val_safe: take ScanNet val scans of rooms that VSI-Bench does not use.
    """

    files: tuple[Path, ...]
    output: Path
    videos: Path | None = None
    dataset: str = "imported"
    format: str = "auto"
    images: Path | None = None
    dev_fraction: float = 0.05
    allow_val_safe: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ConfigError(f"format={self.format}: not one of the choices", f"choose from: {', '.join(FORMATS)}")
        if not 0 <= self.dev_fraction < 1:
            raise ConfigError(f"data.dev_fraction={self.dev_fraction}: must be in [0, 1)", "data.dev_fraction=0.05")
        if self.videos is not None and not self.videos.is_dir():
            raise ConfigError(f"videos={self.videos}: no such folder", "give the folder of the mp4 files")
        if self.images is not None and not self.images.is_dir():
            raise ConfigError(f"images={self.images}: no such folder", "give the folder of the images")
        for name, format in (("videos", "images"), ("images", "vsibench")):
            if getattr(self, name) is not None and self.format == format:
                raise ConfigError(f"{name}=DIR with format={format}: has no effect", f"leave out {name}=DIR")


_KEYS = {
    "output": "output",
    "data.path": "output",
    "videos": "videos",
    "images": "images",
    "dataset": "dataset",
    "format": "format",
    "data.dev_fraction": "dev_fraction",
    "data.allow_val_safe": "allow_val_safe",
}


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
            close = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else "choose from: " + ", ".join(_KEYS)
            raise ConfigError(f"{key}: unknown key of import-data", hint)
        values[_KEYS[key]] = _value(key, value)
    if "output" not in values:
        raise ConfigError("output: no value given", "add output=DIR: the dataset folder to write")
    if not files:
        raise ConfigError("import-data: no file given", "vsgrpo import-data rows.json output=DIR")
    return ImportSettings(tuple(files), **values)


def _value(key: str, value: str) -> Any:
    if key in ("output", "data.path", "videos", "images"):
        return Path(os.path.expanduser(value))
    if key == "data.dev_fraction":
        try:
            return float(value)
        except ValueError:
            raise ConfigError(f"{key}={value}: a number is needed", f"for example {key}=0.05") from None
    if key == "data.allow_val_safe":
        if value.lower() not in ("true", "false"):
            raise ConfigError(f"{key}={value}: must be true or false", f"{key}=true")
        return value.lower() == "true"
    return value
