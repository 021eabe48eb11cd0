"""JSON and YAML that an earlier command wrote: read whole and of the kinds of values its readers take, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vsgrpo.errors import DataError

NUMBER = (int, float)
MAYBE_NUMBER = (int, float, type(None))
MAYBE_TEXT = (str, type(None))
RUN_STATUS = {
    "status?": str,
    "checkpoints?": {int: {"stage": int, "step": int}},
    "dev_scores?": {int: NUMBER},
    "best?": {"checkpoint": int, "dev_score": NUMBER},
    "changed_inputs?": [{"step": int, "inputs": [str]}],
}
"""run.json, as far as it is read again."""
_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


def read_record(path: Path, shape: Any, hint: str) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        shape: `check_shape`.

    Raises:
        DataError: it cannot be read, or a value is of another kind.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", hint) from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise DataError(f"{path}: not JSON ({reason})", hint) from None
    check_shape(data, shape, str(path), hint)
    return data


def check_shape(value: Any, shape: Any, where: str, hint: str, key: str = "") -> None:
    """Refuse content whose values are not of the kinds that its reader takes.

    Args:
        shape: a type or several; [shape] for a list; {"name": shape} for an object, "name?" where it may be absent or
            null; {str: shape} for any names, {int: shape} for names that are whole numbers.
        where: the file, with the line where it has several records.

    Raises:
        DataError: names file, dotted key, value and the kind that it should be.
    """
    if isinstance(shape, dict):
        _check_kind(value, dict, where, hint, key)
        for name, inner in shape.items():
            if isinstance(name, type):
                for other, item in value.items():
                    if name is int and not (other.isascii() and other.isdigit()):
                        raise DataError(f"{where}: {_dotted(key, other)}: must be a whole number", hint)
                    check_shape(item, inner, where, hint, _dotted(key, other))
            elif value.get(name.removesuffix("?")) is not None:
                check_shape(value[name.removesuffix("?")], inner, where, hint, _dotted(key, name.removesuffix("?")))
            elif not name.endswith("?") and not (name in value and isinstance(None, inner)):
                raise DataError(f"{where}: {_dotted(key, name)}: is missing", hint)
    elif isinstance(shape, list):
        _check_kind(value, list, where, hint, key)
        for number, item in enumerate(value):
            check_shape(item, shape[0], where, hint, _dotted(key, str(number)))
    else:
        _check_kind(value, shape, where, hint, key)


def _check_kind(value: Any, kinds: Any, where: str, hint: str, key: str) -> None:
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    fits = isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)
    if fits and not (type(value) is int and float in kinds and abs(value) > 1e300):  # no float holds it
        return
    wanted = " or ".join(dict.fromkeys(_NAMES[kind] for kind in kinds if kind is not type(None)))
    shown = f"{key}={str(value)[:60]!r}" if key else f"{str(value)[:60]!r}"
    raise DataError(f"{where}: {shown}: must be {wanted}", hint)


def _dotted(key: str, name: str) -> str:
    return f"{key}.{name[:60]}" if key else name[:60]


def adapter_base(folder: Path) -> str | None:
    """Return the folder or hub id of the base that FOLDER/adapter_config.json names, None where it names none."""
    try:
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return base if isinstance(base, str) and base else None
