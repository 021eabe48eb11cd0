"""Code of the user's own, which settings name as package.module:NAME."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from typing import Any

from vsgrpo.errors import ConfigError
from vsgrpo.spatial.question import QuestionType
from vsgrpo.spatial.question_types import register


def import_named(key: str, name: str, kind: str, is_kind: Callable[[Any], bool], need: str) -> Any:
    """Return what "package.module:NAME" names.

    Args:
        key: setting that names it, for messages.
        name: its value.
        kind: what is wanted, in a word ("function").
        is_kind: whether an object is one.
        need: hint for a module without one of a similar name.

    Raises:
        ConfigError: no full module name, a module that cannot be imported, or nothing of that kind by that name.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or module_name.startswith("."):
        raise ConfigError(f"{key}={name}: a full module name is needed", hint=f"write package.module:{kind}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{key}={name}: importing '{module_name}' failed ({error})",
            hint="the module must be importable from where the workers start: install it or set PYTHONPATH",
        ) from error
    found = getattr(module, attribute, None)
    if is_kind(found):
        return found
    near = difflib.get_close_matches(attribute, [n for n, value in vars(module).items() if is_kind(value)], n=1)
    hint = f"did you mean '{module_name}:{near[0]}'?" if near else need
    raise ConfigError(f"{key}={name}: '{module_name}' has no {kind} '{attribute}'", hint=hint)


def load_question_types(key: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of question types, after registering those given as package.module:NAME.

    Raises:
        ConfigError: as `import_named`, or two types of one name.
    """
    found = []
    for name in names:
        if ":" in name:
            need = f"NAME = QuestionType(...) is needed in '{name.partition(':')[0]}'"
            kind = import_named(key, name, "QuestionType", lambda value: isinstance(value, QuestionType), need)
            try:
                register(kind)
            except ValueError as error:
                raise ConfigError(f"{key}={name}: {error}", hint="give your type another name") from error
            name = kind.name
        found.append(name)
    return tuple(found)
