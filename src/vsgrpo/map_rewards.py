"""Rewards for maps (`spatial.maps`): of rows whose answer is a map, and of rows that carry one besides (`extra.map`).

The map of the former is read in the answer, that of the latter anywhere in the completion, a thought included; where
there are several the last one counts. Rows without a true map get None: the reward does not count for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vsgrpo.errors import DataError
from vsgrpo.rewards import Completions, accuracy_reward, gold_map, with_modes
from vsgrpo.spatial.answers import parse_answer
from vsgrpo.spatial.maps import Cells, published_score, read_map, strict_score
from vsgrpo.spatial.question_types import type_names

MAP_REWARDS = ("map", "map_published")
"""Names of the rewards that need rows with maps."""
PASSING = 0.5
"""Mean relative accuracy above which SpaceR counts a number as right."""


def map_types() -> tuple[str, ...]:
    """Return the question types whose answer is a map."""
    return type_names("map")


def has_map(answer_kind: str, besides: Any, where: str) -> bool:
    """Say whether a row has a true map: its answer, or what it carries besides (`extra.map`).

    Raises:
        DataError: what it carries is no map; `where` names the row.
    """
    if answer_kind == "map" or besides is None:
        return answer_kind == "map"
    try:
        return bool(gold_map(besides))
    except DataError as error:
        raise DataError(
            f"{where}: extra.{error.message}", "build it with data.map=true, or take extra.map out"
        ) from None


def map_reward(
    completions: Completions,
    *,
    answer: Sequence[str],
    answer_kind: Sequence[str],
    map: Sequence[Any] | None = None,
    prompt_mode: str | Sequence[str] = "vanilla",
    **columns: Any,
) -> list[float | None]:
    """Return the strict score of the map in each completion, 0 where none can be read, None for rows without a map.

    Args:
        completions: the model's texts.
        answer: per row the gold answer.
        answer_kind: per row number, choice, text or map.
        map: per row the true map that it carries besides, or None.
        prompt_mode: vanilla, think or observe, for all rows or per row.
        columns: what else TRL passes, unused.

    Raises:
        DataError: a row whose map is none.
    """
    return [
        None if truth is None else strict_score(said, truth)
        for said, truth in _maps(completions, answer, answer_kind, map, prompt_mode)
    ]


def map_published_reward(
    completions: Completions,
    *,
    answer: Sequence[str],
    answer_kind: Sequence[str],
    map: Sequence[Any] | None = None,
    prompt_mode: str | Sequence[str] = "vanilla",
    **columns: Any,
) -> list[float]:
    """Return SpaceR's whole reward of an answer with a map, in [0, 2]; it takes the place of `accuracy`.

    The accuracy (numbers by mean relative accuracy); where that is right (a word) or above .5 (a number) and a map can
    be read, plus the published score of the map, but 0 in all where that score is 0. A row whose answer is the map
    earns its published score, a row without a map its accuracy.

    Source: SpaceR (SG-RLVR). Deviation: a map that breaks a rule of the format counts as none.

    Args and Raises: as `map_reward`.
    """
    mode_columns = {"answer": answer, "answer_kind": answer_kind, "prompt_mode": prompt_mode, **columns}
    accuracy = accuracy_reward(completions, **{**mode_columns, "numeric": "mra"})
    rewards = []
    maps = _maps(completions, answer, answer_kind, map, prompt_mode)
    for earned, kind, (said, truth) in zip(accuracy, answer_kind, maps, strict=True):
        if kind == "map" and truth is not None:
            rewards.append(published_score(said, truth))
        elif truth is None or said is None or earned <= (PASSING if kind == "number" else 0.0):
            rewards.append(earned)
        else:
            score = published_score(said, truth)
            rewards.append(earned + score if score else 0.0)
    return rewards


def _maps(
    completions: Completions,
    answer: Sequence[str],
    answer_kind: Sequence[str],
    besides: Sequence[Any] | None,
    prompt_mode: str | Sequence[str],
) -> list[tuple[Cells | None, Cells | None]]:
    """Return of each completion the map it says and the true one."""
    found: list[tuple[Cells | None, Cells | None]] = []
    for i, (text, mode) in enumerate(with_modes(completions, prompt_mode)):
        if answer_kind[i] == "map":
            found.append((read_map(parse_answer(text, mode).text), gold_map(answer[i])))
        else:
            truth = None if besides is None or besides[i] is None else gold_map(besides[i])
            found.append((read_map(text), truth))
    return found
