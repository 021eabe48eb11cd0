"""Reward functions for TRL's GRPOTrainer: `f(completions=..., **columns of the rows) -> list[float]`.

`REWARDS` holds ours by name; `reward_loading.load_reward` finds them, or a user's own. A model's text never makes them
raise (it earns 0); a broken gold answer does.

Source: arXiv 2504.00883 section 4.1 (format and accuracy rewards); arXiv 2503.06749 (hard format and result reward).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vsgrpo.errors import DataError
from vsgrpo.maths import maths_equal
from vsgrpo.spatial import scoring
from vsgrpo.spatial.answers import Answer, official_fuzzy, official_number, parse_answer
from vsgrpo.spatial.maps import Cells, cells_of, read_map, strict_score
from vsgrpo.spatial.question_types import tolerance_of
from vsgrpo.spatial.scoring import exact_match, mra, within

RewardFunction = Callable[..., Sequence[float | None]]
Completions = Sequence[str] | Sequence[Sequence[Mapping[str, Any]]]
"""Completions as TRL passes them: strings, or with conversational prompts lists of {"role", "content"} messages."""

_NUMBER_SCORES = {"relative": scoring.relative_reward, "mra": mra, "linear": scoring.linear_reward}
_NUMBER_SCORES |= {"smooth": scoring.smooth_reward, "log_ratio": scoring.log_ratio_reward}
_FORMATS = {
    mode: re.compile(rf"\s*<{mode}>(.*)</{mode}>\s*<answer>(.*)</answer>\s*", re.DOTALL)
    for mode in ("think", "observe")
}
_PLAIN_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
_PLAIN_WORDS = re.compile(r"(?s:.*)[\w)\]}]")


def accuracy_reward(
    completions: Completions,
    *,
    answer: Sequence[str],
    answer_kind: Sequence[str],
    ground_truth: Sequence[str] | None = None,
    prompt_mode: str | Sequence[str] = "vanilla",
    numeric: str = "relative",
    show_options: bool | Sequence[bool] = False,
    question_type: Sequence[str] | None = None,
    **columns: Any,
) -> list[float]:
    """Return 1 or 0 for words and a graded score for numbers and maps, each in [0, 1].

    Numbers: `numeric` chooses max(0, 1 - |t - p| / min(t, p)) ("relative", the paper), VSI-Bench's mean relative
    accuracy ("mra"), max(0, 1 - |t - p| / t) ("linear", Video-R1), min(p, t) / max(p, t) ("smooth") or
    max(0, 1 - |log2(p / t)|) ("log_ratio"). None is looser than the official scorer about what is a
    number, which reads the text up to the first space: "3.5 m" is 3.5 and "3 or 4" is 3; "3.5m", "three", "3-4",
    "3,4" and "about 3" are no numbers and earn 0. Units are not converted: "350 cm" to a question in metres is 350.
    0 and negative predictions earn 0 (the ratio divides by the prediction), but for a gold answer of 0, a count of
    nothing: it earns 1 for exactly 0. Times earn 1 within the tolerance of their type (`QuestionType.tolerance`) or 0.

    Words: the whole answer, case-folded, outer space and a final period removed. Where the options were shown
    (`show_options`) the right letter counts as well. Text rows (maths) also by value (`vsgrpo.maths.maths_equal`).

    Maps: `maps.strict_score` of the answer's last `<map>..</map>`.

    Deviation: how the paper's ratio becomes a reward is not printed; see `scoring.relative_reward`.

    Args:
        completions: the model's texts.
        answer: per row the gold word, number text or map.
        answer_kind: per row "number", "choice", "text" or "map".
        ground_truth: per row the gold letter of choice rows; needed with `show_options`.
        prompt_mode: vanilla, think or observe, for all rows or per row.
        numeric: "relative", "mra", "linear", "smooth" or "log_ratio".
        show_options: whether the prompt listed lettered options, for all rows or per row.
        columns: what else TRL passes (prompts, other columns of the rows), unused.

    Raises:
        DataError: a gold answer that is empty, or a number that is not finite and >= 0.
    """
    score_number = _NUMBER_SCORES[numeric]
    rows = _rows(completions, prompt_mode, answer, answer_kind, ground_truth, show_options, question_type)
    return [row.earned(score_number) for row in rows]


def mra_reward(completions: Completions, **columns: Any) -> list[float]:
    """Return `accuracy_reward` with VSI-Bench's mean relative accuracy for numbers."""
    return accuracy_reward(completions, **{**columns, "numeric": "mra"})


def format_reward(
    completions: Completions, *, prompt_mode: str | Sequence[str] = "vanilla", allow_empty: bool = False, **columns: Any
) -> list[float]:
    """Return 1 for `<think>..</think><answer>..</answer>` (or observe) and nothing else, else 0.

    Every tag occurs once, in this order, with nothing but space outside; neither part is blank. Deviation: the paper
    reports empty <think></think> pairs and repeated tags as reward hacking and accepted them; repeated tags earn
    nothing here, and empty thoughts only with `allow_empty` (an answer is never blank). Vanilla mode has no format (the
    paper omits the reward): 1 for all, which leaves advantages as they are.
    """
    return [float(_has_format(text, mode, allow_empty)) for text, mode in with_modes(completions, prompt_mode)]


def _has_format(text: str, mode: str, allow_empty: bool = False) -> bool:
    if mode == "vanilla":
        return True
    thought = thought_of(text, mode)
    return thought is not None and (allow_empty or bool(thought.strip()))


def thought_of(text: str, mode: str) -> str | None:
    """Return the text of the think or observe block of a completion in the right form, else None."""
    if any(text.count(tag) != 1 for tag in tags_of(mode)):
        return None
    match = _FORMATS[mode].fullmatch(text)
    return match[1] if match is not None and match[2].strip() else None


def tags_of(mode: str) -> tuple[str, ...]:
    return (f"<{mode}>", f"</{mode}>", "<answer>", "</answer>")


def plain_reward(
    completions: Completions,
    *,
    answer_kind: Sequence[str],
    prompt_mode: str | Sequence[str] = "vanilla",
    **columns: Any,
) -> list[float]:
    """Return 1 where the answer is written as the gold ones are, else 0; right or wrong does not matter.

    A number is digits with at most one decimal point, a map its tags with a map that can be read, anything else ends in
    a letter, a digit or a bracket. Ours:
    rewards and scorers read past "3.", "38..." and "2 \n", so nothing keeps such forms from spreading.
    """
    texts = [parse_answer(text, mode).text.strip() for text, mode in with_modes(completions, prompt_mode)]
    return [float(_is_plain(text, kind)) for text, kind in zip(texts, answer_kind, strict=True)]


def _is_plain(text: str, kind: str) -> bool:
    if kind == "map":
        return (
            text.startswith("<map>") and text.count("<map>") == 1 and text.endswith("</map>") and bool(read_map(text))
        )
    return (_PLAIN_NUMBER if kind == "number" else _PLAIN_WORDS).fullmatch(text) is not None


def hard_format_result_reward(
    completions: Completions, *, prompt_mode: str | Sequence[str] = "think", **columns: Any
) -> list[float]:
    """Return 1 where the format of `prompt_mode` (see `format_reward`) AND the answer are right, else 0.

    Right: a number within 5 % (all ten thresholds of the mean relative accuracy, so counts below 20 must be exact), a
    word as in `accuracy_reward`, a map with every point in its cell, anything else in a text row by value
    (`vsgrpo.maths.maths_equal`).

    Source: arXiv 2503.06749 (HFRRF). Deviation: their answers are maths; the 5 % for measured numbers is ours.

    Args and Raises: as `accuracy_reward`.
    """
    rows = _rows(completions, prompt_mode, **columns)
    return [float(_has_format(row.text, row.mode) and row.is_right()) for row in rows]


def is_right(
    parsed: Answer, answer: str, answer_kind: str, letter: str | None = None, tolerance: float | None = None
) -> bool:
    """Return whether an answer counts as right where only right or wrong exist; see `hard_format_result_reward`.

    Args:
        parsed: what the model says.
        answer: the gold word, number or maths text.
        answer_kind: number, choice, text or map.
        letter: the gold letter where lettered options were shown.
        tolerance: of the question's type.

    Raises:
        DataError: a broken gold answer.
    """
    if answer_kind == "number" and tolerance is not None:
        return within(parsed.number, _gold_number(answer), tolerance) == 1.0
    if answer_kind == "number":
        return parsed.number is not None and mra(parsed.number, _gold_number(answer)) == 1.0
    if answer_kind == "map":
        return strict_score(read_map(parsed.text), gold_map(answer)) == 1.0
    if exact_match(parsed.text, _gold_text(answer)) == 1.0:
        return True
    if letter is not None:
        return official_fuzzy(parsed.text).upper() == letter.upper()
    return answer_kind == "text" and maths_equal(parsed.text, answer)


def follow_reward(
    completions: Completions,
    *,
    row_key: Sequence[str] = (),
    answer: Sequence[str],
    pair: Sequence[str | None] | None = None,
    **columns: Any,
) -> list[float]:
    """Return 1 for answers that follow the video, 0 for others: a bonus, its weight is in reward.weights.

    Of two rows with one question about a video and its edited version, whose right answers differ: the k-th completions
    of both earn it where their answers differ and both groups earn some accuracy. Ours: a completion without accuracy
    of its own gets none, so that guessing does not pay. Pairs that a batch tears apart earn none.

    Args: `row_key` of each completion, equal ones are a group; `pair`, a name shared by the rows of a pair, or None.
    """
    accuracy = accuracy_reward(completions, answer=answer, **columns)
    modes = columns.get("prompt_mode", "vanilla")
    said = [parse_answer(text, mode).text.strip() for text, mode in with_modes(completions, modes)]
    groups: dict[str, dict[str, list[int]]] = {}
    for place, name in enumerate(pair or ()):
        if name is not None:
            groups.setdefault(name, {}).setdefault(row_key[place], []).append(place)
    rewards = [0.0] * len(accuracy)
    for of_pair in groups.values():
        for first, second in itertools.combinations(of_pair.values(), 2):
            earns = all(sum(accuracy[k] for k in group) > 0 for group in (first, second))
            if not earns or exact_match(answer[first[0]], answer[second[0]]):
                continue
            for one, other in zip(first, second, strict=False):
                if exact_match(said[one], said[other]) == 0:
                    for k in (one, other):
                        rewards[k] = max(rewards[k], float(accuracy[k] > 0))
    return rewards


def with_modes(completions: Completions, prompt_mode: str | Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each completion as plain text (a conversation: its messages joined), and its prompt mode."""
    texts = [text if isinstance(text, str) else "".join(map(_message_text, text)) for text in completions]
    return zip(texts, _per_row(prompt_mode, len(texts)), strict=True)


class _Row(NamedTuple):
    """A completion, what it answers, and the gold answer of its row; `letter` as in `is_right`."""

    text: str
    mode: str
    parsed: Answer
    answer: str
    kind: str
    letter: str | None
    tolerance: float | None

    def earned(self, score_number: Callable[[float | None, float], float]) -> float:
        if self.kind == "map":
            return strict_score(read_map(self.parsed.text), gold_map(self.answer))
        if self.kind == "number" and self.tolerance is None:
            return score_number(self.parsed.number, _gold_number(self.answer))
        return float(self.is_right())

    def is_right(self) -> bool:
        return is_right(self.parsed, self.answer, self.kind, self.letter, self.tolerance)


def _rows(
    completions: Completions,
    prompt_mode: str | Sequence[str],
    answer: Sequence[str],
    answer_kind: Sequence[str],
    ground_truth: Sequence[str] | None = None,
    show_options: bool | Sequence[bool] = False,
    question_type: Sequence[str] | None = None,
    **columns: Any,
) -> Iterator[_Row]:
    shown = _per_row(show_options, len(completions))
    for i, (text, mode) in enumerate(with_modes(completions, prompt_mode)):
        letter = ground_truth[i] if ground_truth is not None and shown[i] and answer_kind[i] == "choice" else None
        letter = None if letter is None else _gold_text(letter)
        tolerance = None if question_type is None else tolerance_of(question_type[i])
        yield _Row(text, mode, parse_answer(text, mode), answer[i], answer_kind[i], letter, tolerance)


def _message_text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content or () if isinstance(part, Mapping))


def _per_row(value: Any, num_rows: int) -> Sequence[Any]:
    return [value] * num_rows if isinstance(value, (str, bool)) else value


def _gold_text(answer: Any) -> str:
    if not isinstance(answer, str) or not answer.strip():
        raise DataError(f"answer={answer!r}: a word is needed", hint="rebuild the rows with vsgrpo build-data")
    return answer


def gold_map(answer: Any) -> Cells:
    """Return the true map of a row: its text, or what was read of it.

    Raises:
        DataError: no map, or one without points.
    """
    cells = read_map(answer) if isinstance(answer, str) else cells_of(answer)
    if not cells or not all(cells.values()):
        hint = "rebuild the rows with vsgrpo build-data"
        raise DataError(f"map={str(answer)[:80]!r}: a map with points is needed", hint)
    return cells


def _gold_number(answer: Any) -> float:
    number = official_number(str(answer))
    if number is None or not math.isfinite(number) or number < 0:
        hint = "rebuild the rows with vsgrpo build-data"
        raise DataError(f"answer={answer!r}: a number >= 0 is needed in a row of answer_kind=number", hint=hint)
    return number
