"""What an export reads and writes, as words of the command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vsgrpo.data.exporting.formats import FORMATS
from vsgrpo.data.exporting.record import ExportFormat
from vsgrpo.data.kept_out import KEY, given_files
from vsgrpo.data.prompts import MODES
from vsgrpo.errors import ConfigError
from vsgrpo.rules import one_of, suggest
from vsgrpo.terminal import counted

_SPLITS = ("train", "dev")
_MEDIA = ("link", "none")
_KEYS = {
    "output": "output",
    "method": "method",
    "prompt": "mode",
    "prompt.mode": "mode",
    "prompt.show_options": "show_options",
    "data.split": "split",
    "data.allow_val_safe": "allow_val_safe",
    KEY: "keep_out",
    "frames": "frames",
    "media": "media",
    "run.seed": "seed",
}
"""Key of the command line -> field; where `train` has the same setting, under its name."""
_USE = "vsgrpo export-data DATASET FORMAT output=DIR"


@dataclass(frozen=True)
class ExportSettings:
    """Rows to export, and how.

    Attributes:
        dataset: a dataset folder, or what else `data=` may name.
        format: a name of `FORMATS`.
        output: the folder to write.
        method: sft, grpo or dpo, where the format has several; None: the format's first.
        mode, show_options: of the prompt, as `train` has them.
        split: the row file.
        frames: this many uniform frames of each video, as pictures, instead of the video (formats with frame lists).
        media: "link" gives videos a place in the export (hard links), "none" writes rows alone.
        allow_val_safe: take val scans of rooms that VSI-Bench does not use.
        keep_out: row files of other benchmarks, whose rooms are denied too (`data.kept_out`).
        seed: of the wrong answers of preference pairs.
    """

    dataset: str
    format: str
    output: Path
    method: str | None = None
    mode: str = "vanilla"
    show_options: bool = False
    split: str = "train"
    frames: int | None = None
    media: str = "link"
    allow_val_safe: bool = False
    keep_out: tuple[str, ...] = ()
    seed: int = 42

    def __post_init__(self) -> None:
        one_of("FORMAT", self.format, tuple(FORMATS))
        one_of("prompt.mode", self.mode, MODES)
        one_of("data.split", self.split, _SPLITS)
        one_of("media", self.media, _MEDIA)
        chosen = FORMATS[self.format]
        if self.method is not None and self.method not in chosen.methods:
            what = f"rows of {self.format} are for {' and '.join(chosen.methods)}" if chosen.methods else "it has none"
            others = [name for name, item in FORMATS.items() if self.method in item.methods]
            hint = f"leave it out, or take one of: {', '.join(others)}" if others else "method=sft, grpo or dpo"
            raise ConfigError(f"method={self.method}: {what}", hint)
        if self.frames is not None and not chosen.frame_lists:
            which = ", ".join(name for name, item in FORMATS.items() if item.frame_lists)
            raise ConfigError(f"frames={self.frames}: {self.format} has no frame lists", f"leave it out, or: {which}")
        if self.frames is not None and (self.frames < 2 or self.frames % 2):
            raise ConfigError(f"frames={self.frames}: loaders show pairs of frames", "an even number: frames=32")
        if self.frames is not None and self.media == "none":
            raise ConfigError("frames=N with media=none: pictures are what a frame list names", "leave out media=none")
        if self.reads_prompt is False and (self.mode != "vanilla" or self.show_options):
            what = "prompt.mode" if self.mode != "vanilla" else "prompt.show_options"
            raise ConfigError(f"{what}: has no effect, {self.format} has a sentence of its own", f"leave out {what}")

    @property
    def chosen(self) -> ExportFormat:
        """The record of the format."""
        return FORMATS[self.format]

    @property
    def for_method(self) -> str | None:
        """The method that rows are written for, None for formats of data sets."""
        return self.method or next(iter(self.chosen.methods), None)

    @property
    def reads_prompt(self) -> bool:
        """Whether the format's text is that of a prompt mode."""
        return self.chosen.has_prompt

    def recorded(self) -> dict[str, Any]:
        """Return the settings for the manifest: names of folders, no paths of this machine."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "output"}
        names = {"dataset": Path(self.dataset).name, "keep_out": [Path(value).name for value in self.keep_out]}
        return {**values, **names, "method": self.for_method}


def parse_settings(given: Sequence[str]) -> ExportSettings:
    """Read data set, format and key=value words of the command line.

    Raises:
        ConfigError: an unknown key or format, a value of the wrong type, or one of the three is missing.
    """
    places: list[str] = []
    values: dict[str, Any] = {}
    for word in given:
        key, equals, value = word.partition("=")
        if not equals or Path(word).exists():
            places.append(os.path.expanduser(word))
        elif key not in _KEYS:
            raise ConfigError(f"{key}: unknown key of export-data", suggest(key, tuple(_KEYS)))
        else:
            values[_KEYS[key]] = _value(key, value)
    if len(places) != 2:
        hint = f"{_USE}; formats: {', '.join(FORMATS)}"
        raise ConfigError(
            f"export-data: {counted(len(places), 'name')} given, a data set and a format are needed", hint
        )
    if "output" not in values:
        raise ConfigError("output: no value given", "add output=DIR: the folder to write")
    stem = Path(places[0]).stem
    if "split" not in values and Path(places[0]).is_file() and stem in _SPLITS:
        values["split"] = stem
    return ExportSettings(places[0], places[1], **values)


def _value(key: str, value: str) -> Any:
    if key == "output":
        if not value:
            raise ConfigError("output: no value given", "add output=DIR: the folder to write")
        return Path(os.path.expanduser(value))
    if key == KEY:
        return given_files(value)
    if key in ("frames", "run.seed"):
        if not value.isdecimal():
            raise ConfigError(f"{key}={value}: a whole number is needed", f"for example {key}=32")
        return int(value)
    if key in ("prompt.show_options", "data.allow_val_safe"):
        if value.lower() not in ("true", "false"):
            raise ConfigError(f"{key}={value}: must be true or false", f"{key}=true")
        return value.lower() == "true"
    return value
