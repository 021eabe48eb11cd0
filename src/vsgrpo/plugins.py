"""What a user adds from a module of their own, named on the command line as "package.module:name"."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vsgrpo.errors import ConfigError, VsgrpoError
from vsgrpo.spatial.question import QuestionType
from vsgrpo.spatial.question_types import register


def import_named(key: str, name: str, what: str, needed: str, is_wanted: Callable[[Any], bool] = callable) -> Any:
    """Import what `name`, "package.module:name", names: a function or a class, unless `is_wanted` says otherwise.

    Args:
        key: of the configuration that holds `name`, for messages.
        what: "function", "benchmark" and the like, for messages.
        needed: the hint where the module has nothing of that name.
        is_wanted: whether an object of the module is one of those.

    Raises:
        ConfigError: no full module name, the module cannot be imported, or it has nothing wanted of that name.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or module_name.startswith("."):
        raise ConfigError(f"{key}={name}: a full module name is needed", hint=f"write package.module:{what}")
    try:
        module = importlib.import_module(module_name)
    except VsgrpoError:
        raise
    except Exception as error:  # the module's own fault, whatever it is
        hint = "the module must be importable from where the workers start: install it or set PYTHONPATH"
        if not isinstance(error, ImportError):
            hint = "correct the module; --debug shows the line"
        what = " ".join(f"{error or type(error).__name__}".split())
        raise ConfigError(f"{key}={name}: importing '{module_name}' failed ({what})", hint) from error
    found = getattr(module, attribute, None)
    if is_wanted(found):
        return found
    near = difflib.get_close_matches(attribute, [n for n in vars(module) if is_wanted(vars(module)[n])], n=1)
    hint = f"did you mean '{module_name}:{near[0]}'?" if near else needed
    raise ConfigError(f"{key}={name}: '{module_name}' has no {what} '{attribute}'", hint=hint)


def module_file(name: str) -> Path | None:
    """Return the file of the module in "package.module:name", which decides what a run does; None if it has none."""
    spec = importlib.util.find_spec(name.partition(":")[0])
    return None if spec is None or spec.origin is None else Path(spec.origin)


def load_question_types(key: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of question types; those given as "package.module:name" are registered first.

    Raises:
        ConfigError: as `import_named`, or two types of one name.
    """
    found = []
    for name in names:
        if ":" in name:
            needed = "NAME = QuestionType(...) is needed, see docs/extending.md"
            kind = import_named(key, name, "QuestionType", needed, lambda value: isinstance(value, QuestionType))
            try:
                register(kind)
            except ValueError as error:
                raise ConfigError(f"{key}={name}: {error}", hint="give your type another name") from error
            name = kind.name
        found.append(name)
    return tuple(found)
