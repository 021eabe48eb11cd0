"""What a model was trained on seeing, as vision.json has it: the vision budget, and two rules of prompts with videos.

Text goes on after a video by one of two rules (`model.text_after_video`). A video of T temporal patches, R rows and
C columns of tokens that starts at position s reaches s + t(T), s + R - 1 and s + C - 1 on the three axes, where t(T) is
T - 1 in Qwen2-VL and floor((T - 1) * seconds per patch * tokens_per_second) in Qwen2.5-VL. The text after it starts at

- published: 1 + the farthest of the three. So the weights were trained (arXiv 2409.12191 section 2.1; the code that
  Qwen2.5-VL came with, transformers pull request 35569), and so vLLM serves them;
- library: s + max(R, C), whatever the time. So transformers 5.3 to 5.23 do.

A family that marks each temporal patch of a video (`Family.video_text`) leaves the marks that the chat template puts
around the whole out or in (`prompt.vision_marks`): out in the prompts that the weights were published with
(transformers 4.57 and vLLM), in by the library (transformers 5.23).
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsgrpo.errors import ConfigError, DataError
from vsgrpo.families import adapter_base, family_of
from vsgrpo.families.prompt_record import with_own_prompt
from vsgrpo.files import read_yaml
from vsgrpo.records import read_record

VISION_FILE = "vision.json"
VISION_SCHEMA = 1
PUBLISHED, LIBRARY = "published", "library"
TEXT_RULES = (PUBLISHED, LIBRARY)
"""Values of model.text_after_video, and of prompt.vision_marks."""
BEFORE_RULES = LIBRARY
"""The rule of models and runs whose files do not name one: they were made when there was no other."""
_VIDEO_KEYS = ("num_frames", "min_pixels", "max_pixels")
_IMAGE_KEYS = ("image_min_pixels", "image_max_pixels")
"""Of an image; models saved before images were shown have none."""
_RUN_OUTPUT = re.compile(r"final|checkpoint-\d+")
_OTHER_FOLDER = "move the model out of that folder"


@dataclass(frozen=True)
class VisionRecord:
    """What a model was trained on seeing, as far as a file says."""

    budget: dict[str, int]
    """By the names of `VisionBudget`."""
    text_after_video: str
    vision_marks: str
    source: Path
    """The file that says so."""


def write_vision(folder: Path, vision: Mapping[str, int], text_after_video: str, vision_marks: str = PUBLISHED) -> None:
    """Record the vision budget and the rules that a model was trained with, for evaluation and later stages."""
    keys = (*_VIDEO_KEYS, *(key for key in _IMAGE_KEYS if key in vision))
    budget = {key: int(vision[key]) for key in keys}
    rules = {"text_after_video": text_after_video, "vision_marks": vision_marks}
    content = {"schema_version": VISION_SCHEMA, **budget, **rules}
    (folder / VISION_FILE).write_text(json.dumps(content, indent=2) + "\n")


def read_vision(folder: Path) -> VisionRecord | None:
    """Read vision.json of a model folder; None where there is none.

    Raises:
        DataError: broken file, unknown schema version or unknown rule.
    """
    path, hint = folder / VISION_FILE, "delete it to use the defaults"
    if not path.is_file():
        return None
    shape = {**dict.fromkeys(_VIDEO_KEYS, int), **{f"{key}?": int for key in _IMAGE_KEYS}}
    shape |= {"text_after_video?": str, "vision_marks?": str}
    content = read_record(path, shape, hint, schema_version=VISION_SCHEMA)
    budget = {key: content[key] for key in (*_VIDEO_KEYS, *_IMAGE_KEYS) if content.get(key) is not None}
    return VisionRecord(budget, *_known_rules(content, content, path, hint), path)


def recorded_vision(folder: Path) -> VisionRecord | None:
    """Return what vision.json of a model says; without one, config.yaml of the run whose final/ or checkpoint-N/ it is.

    Raises:
        DataError: a broken file.
    """
    found = read_vision(folder)
    if found is not None:
        return found
    path = folder.resolve().parent / "config.yaml"
    if not (_RUN_OUTPUT.fullmatch(folder.resolve().name) and folder.is_dir() and path.is_file()):
        return None
    sections = read_yaml(path, _OTHER_FOLDER)
    try:
        video, image, model = sections["video"], sections.get("image") or {}, sections.get("model") or {}
        budget = {key: int(video[key]) for key in _VIDEO_KEYS}
        budget |= {f"image_{key}": int(image[key]) for key in _VIDEO_KEYS[1:] if key in image}
        rules = _known_rules(model, sections.get("prompt") or {}, path, _OTHER_FOLDER)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: no run's config ({error})", hint=_OTHER_FOLDER) from None
    return VisionRecord(budget, *rules, path)


def find_vision(*models: str | None) -> VisionRecord | None:
    """Return the first record of models, the adapter before its base, and of bases that they name; None: none has one.

    Raises:
        DataError: a broken file.
    """
    names = [name for name in models if name is not None]
    names += [base for name in names if (base := adapter_base(Path(name))) is not None]
    return next((found for name in names if (found := recorded_vision(Path(name))) is not None), None)


def text_rule(path: str, adapter: str | None = None, given: str | None = None) -> str:
    """Return where text goes on after a video: as given, else as the model records, else as the published weights.

    Args:
        given: model.text_after_video.

    Raises:
        ConfigError: no such rule, or it is `library` for a family of which each frame is a segment of its own.
        DataError: a broken vision.json or config.yaml.
    """
    family = family_of(path)
    only = None
    if family is not None and not family.has_text_rules:
        only = f"{family.label} places each frame by itself, text goes on after it in one way only"
    return _rule("model.text_after_video", given, only) or _recorded(path, adapter, "text_after_video")


def marks_rule(path: str, adapter: str | None = None, given: str | None = None) -> str:
    """Return whether the template's marks around a video go or stay: as given, else as recorded, else as published.

    Args:
        given: prompt.vision_marks.

    Raises:
        ConfigError: no such rule, or it is `library` for a family that marks no temporal patches.
        DataError: a broken vision.json or config.yaml.
    """
    family = family_of(path)
    only = None
    if family is not None and family.video_text is None:
        only = f"{family.label} has one mark before and one behind a video, in one way only"
    return _rule("prompt.vision_marks", given, only) or _recorded(path, adapter, "vision_marks")


def _rule(key: str, given: str | None, only: str | None) -> str | None:
    """Return the rule that a key gives, or that is the family's only one, for the reason `only`; None: a record's."""
    if given not in (*TEXT_RULES, None):
        raise ConfigError(f"{key}={given}: not one of {', '.join(TEXT_RULES)}")
    if only is None:
        return given
    if given == LIBRARY:
        raise ConfigError(f"{key}={given}: {only}", hint=f"leave {key} out")
    return PUBLISHED


def _recorded(path: str, adapter: str | None, name: str) -> str:
    record = find_vision(adapter, path)
    return PUBLISHED if record is None else getattr(record, name)


def with_rules(config: Any) -> Any:
    """Return a configuration of train or eval with its rules: text_after_video, vision_marks, own prompts."""
    model, prompt = config.model, config.prompt
    model = dataclasses.replace(model, text_after_video=text_rule(model.path, model.adapter, model.text_after_video))
    marks = marks_rule(model.path, model.adapter, prompt.vision_marks)
    config = with_own_prompt(config)
    prompt = config.prompt
    return dataclasses.replace(config, model=model, prompt=dataclasses.replace(prompt, vision_marks=marks))


def other_rule(config: Any) -> str | None:
    """Return a warning where the model of a configuration was trained by another rule than the configuration says."""
    model, found = config.model, []
    if (record := find_vision(model.adapter, model.path)) is None:
        return None
    if text_rule(model.path, model.adapter) != (rule := model.text_after_video):
        found.append((f"model.text_after_video={rule}", record.text_after_video))
    if marks_rule(model.path, model.adapter) != (marks := config.prompt.vision_marks):
        found.append((f"prompt.vision_marks={marks}", record.vision_marks))
    return "; ".join(f"{key}: {record.source}: the model was trained with {own}" for key, own in found) or None


def _known_rules(model: Mapping[str, Any], prompt: Mapping[str, Any], path: Path, hint: str) -> tuple[str, str]:
    """Return text_after_video and vision_marks of a file; without them they are those of before the keys."""
    rules = {
        "text_after_video": model.get("text_after_video", BEFORE_RULES),
        "vision_marks": prompt.get("vision_marks") or PUBLISHED,
    }
    for key, rule in rules.items():
        if rule not in TEXT_RULES:
            raise DataError(f"{path}: {key}={rule}: not one of {', '.join(TEXT_RULES)}", hint)
    return str(rules["text_after_video"]), str(rules["vision_marks"])
