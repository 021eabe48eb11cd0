"""How the answers of a predictions file were asked for: as keys say, or as the settings.json beside it does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vsgrpo.data.prompts import MODES, WORDINGS
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.benchmark_table import PromptSettings
from vsgrpo.evaluation.results import SETTINGS_NAME
from vsgrpo.records import read_json

_PROMPT_CHOICES = {"mode": MODES, "wording": WORDINGS, "show_options": ("true", "false")}
PROMPT_KEYS = tuple(_PROMPT_CHOICES)


def given_prompt(given: Mapping[str, str]) -> PromptSettings | None:
    """Return the prompt that the keys `prompt.*` among the given ones describe, None where there is none.

    Raises:
        ConfigError: an unknown value.
    """
    asked = {key: given[f"prompt.{key}"] for key in PROMPT_KEYS if f"prompt.{key}" in given}
    for key, value in asked.items():
        if value not in _PROMPT_CHOICES[key]:
            raise ConfigError(f"prompt.{key}={value}: unknown", hint=f"choose from: {', '.join(_PROMPT_CHOICES[key])}")
    if not asked:
        return None
    shown = asked.pop("show_options", "true") == "true"
    return PromptSettings(**asked, show_options=shown)


def recorded_prompt(path: Path) -> PromptSettings | None:
    """Return the prompt that the settings.json beside a predictions file names, None where there is none.

    Raises:
        DataError: it is there and names no prompt.
    """
    settings = path.with_name(SETTINGS_NAME)
    if not settings.is_file():
        return None
    hint = "move the predictions elsewhere"
    try:
        recorded = read_json(settings, hint)["prompt"]
        return PromptSettings(**{name: recorded[name] for name in PROMPT_KEYS})
    except (KeyError, TypeError) as error:
        raise DataError(f"{settings}: does not name the prompt ({error})", hint) from None


def _recorded_harness(path: Path) -> str:
    """Return whose prompt the settings.json beside a predictions file names; the authors' where there is none."""
    settings = path.with_name(SETTINGS_NAME)
    recorded = read_json(settings).get("benchmark") if settings.is_file() else None
    return recorded.get("harness", "official") if isinstance(recorded, dict) else "official"


def harness_of(given: Mapping[str, str], file: Path) -> str:
    """Return whose prompt and reader it is: as given, else as recorded."""
    return given.get("benchmark.harness") or _recorded_harness(file)
