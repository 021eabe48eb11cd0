"""The reward that a name of reward.names means: one of ours, or "package.module:function" of a user."""

from __future__ import annotations

import difflib
import functools
import inspect
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from vsgrpo.errors import ConfigError, RunError, VsgrpoError
from vsgrpo.length_rewards import length_reward, overlong_reward, token_range_reward
from vsgrpo.map_rewards import map_published_reward, map_reward
from vsgrpo.rewards import (
    RewardFunction,
    accuracy_reward,
    follow_reward,
    format_reward,
    hard_format_result_reward,
    mra_reward,
    plain_reward,
)
from vsgrpo.rules import import_named
from vsgrpo.terminal import counted

REWARDS: dict[str, RewardFunction] = {
    "accuracy": accuracy_reward,
    "format": format_reward,
    "length": length_reward,
    "overlong": overlong_reward,
    "token_range": token_range_reward,
    "plain": plain_reward,
    "mra": mra_reward,
    "hard_format_result": hard_format_result_reward,
    "follow": follow_reward,
    "map": map_reward,
    "map_published": map_published_reward,
}


def load_reward(name: str, **bound: Any) -> RewardFunction:
    """Return the reward called `name`: one of `REWARDS`, or "package.module:function".

    Args:
        name: see above.
        bound: keyword arguments for all calls (prompt_mode, numeric, ...); a row column of the same name wins, and one
            that a user's function does not take is left out.

    Raises:
        ConfigError: no such name, module or function, or not a function. What is returned raises RunError where a
            user's function fails or gives another number of rewards than completions.
    """
    if ":" in name:
        needed = "a function f(completions, **columns) is needed"
        function = _guard(name, import_named("reward.names", name, "function", needed))
    elif name in REWARDS:
        function = REWARDS[name]
    else:
        near = difflib.get_close_matches(name, REWARDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"one of {', '.join(REWARDS)}, or package.module:function"
        raise ConfigError(f"reward.names={name}: no such reward", hint=hint)
    parameters = inspect.signature(function).parameters.values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    kept = {key: value for key, value in bound.items() if takes_all or key in {p.name for p in parameters}}
    return functools.partial(function, **kept)


def _guard(name: str, function: RewardFunction) -> RewardFunction:
    """Name a user's function where it fails, or gives another number of rewards than it got completions."""
    call: Callable[..., Any] = function
    if inspect.iscoroutinefunction(call):  # TRL awaits these
        return function

    @functools.wraps(function)
    def called(**columns: Any) -> Sequence[float | None]:
        try:
            rewards = function(**columns)
        except VsgrpoError:  # a signal's, while it ran
            raise
        except Exception as error:
            *_, last = traceback.extract_tb(error.__traceback__)
            raise RunError(
                f"reward.names={name}: {type(error).__name__}: {error} ({last.filename}:{last.lineno})",
                hint="a reward may give None for a completion, it must not fail; fix it and go on with --resume",
            ) from error
        wanted, got = len(columns["completions"]), len(rewards) if hasattr(rewards, "__len__") else repr(rewards)
        if wanted != got:
            hint = "a list with one for each completion"
            raise RunError(f"reward.names={name}: gave {got}, not {counted(wanted, 'reward')}", hint)
        return rewards

    return called
