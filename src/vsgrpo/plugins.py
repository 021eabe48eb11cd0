"""What a user adds from a module of their own, named on the command line as "package.module:name"."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from vsgrpo.errors import ConfigError


def import_named(key: str, name: str, what: str, needed: str) -> Any:
    """Return the callable (a function or a class) that `name`, "package.module:name", stands for.

    Args:
        key: of the configuration that holds `name`, for messages.
        what: "function" or "class", for messages.
        needed: the hint where the module has nothing of that name.

    Raises:
        ConfigError: no full module name, the module cannot be imported, or it has no such callable.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or module_name.startswith("."):
        raise ConfigError(f"{key}={name}: a full module name is needed", hint=f"write package.module:{what}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{key}={name}: importing '{module_name}' failed ({error})",
            hint="the module must be importable from where the workers start: install it or set PYTHONPATH",
        ) from error
    found = getattr(module, attribute, None)
    if callable(found):
        return found
    near = difflib.get_close_matches(attribute, [n for n in vars(module) if callable(vars(module)[n])], n=1)
    hint = f"did you mean '{module_name}:{near[0]}'?" if near else needed
    raise ConfigError(f"{key}={name}: '{module_name}' has no {what} '{attribute}'", hint=hint)
