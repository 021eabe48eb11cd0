"""Every wording that reaches a model: the paper's training and evaluation prompts and the benchmark's own.

Source: arXiv 2504.00883 (training sentences, Table 1 sentences); thinking-in-space (pre-prompt, options block, letter
sentence). Evaluation wording of choice questions is not printed in the paper; our reading is `_closing`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Protocol

from vsgrpo.config.train import TrainConfig
from vsgrpo.data.row import LETTERS, SPECIAL, Row
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.families.prompt_record import VARIABLES, render
from vsgrpo.spatial.map_questions import map_request
from vsgrpo.spatial.maps import least_tokens, read_map
from vsgrpo.spatial.question_types import tolerance_of
from vsgrpo.spatial.wrong_answers import rejected_answer
from vsgrpo.terminal import counted

MODES = ("vanilla", "think", "observe")
WORDINGS = ("train", "eval")
PRE_PROMPT = "These are frames of a video."
OPTIONS_HEAD = "Options:"
LETTER_SENTENCE = "Answer with the option's letter from the given choices directly."
TRAIN_SENTENCES = {
    "vanilla": "Please provide the short answer with one or two words or a number.",
    "think": (
        "Please think step by step and enclose your thinking process in <think> </think> tags and then provide the "
        "short answer with one or two words or a number in <answer> </answer>."
    ),
    "observe": (
        "Please observe carefully and analyze what you see that helps you to solve the question in the video and "
        "enclose it in <observe> </observe> tag, and then provide the short answer with one or two words or a number "
        "in <answer> </answer>."
    ),
}
MAP_SENTENCES = {
    "vanilla": "Please provide the map and nothing else.",
    "think": (
        "Please think step by step and enclose your thinking process in <think> </think> tags and then provide the map "
        "in <answer> </answer>."
    ),
    "observe": (
        "Please observe carefully and analyze what you see that helps you to solve the question in the video and "
        "enclose it in <observe> </observe> tag, and then provide the map in <answer> </answer>."
    ),
}
"""Ours, in both wordings: a map is no short answer."""
EVAL_SENTENCES = {
    "vanilla": "Please answer the question using a single word or phrase.",
    "think": "Let's think step by step and then answer the question using a single word or phrase.",
    "observe": "Please observe the video first and then answer the question using a single word or phrase.",
}

PLACEHOLDER = re.compile(r"<(image|video)>")
"""Where an image or a video is shown, in texts of benchmarks that say so."""
FIELDS = frozenset(field.name for field in fields(Row))
_NO_FILM = ("the video", "the image")
"""In the sentences of rows without a video (ours: the paper has none)."""


def option_lines(options: Sequence[str]) -> list[str]:
    """Return the official lines "A. chair", "B. table", ..."""
    return [f"{letter}. {word}" for letter, word in zip(LETTERS, options, strict=False)]


class Asking(Protocol):
    """How questions are asked: a section of a configuration, or what an evaluation recorded."""

    @property
    def mode(self) -> str: ...
    @property
    def wording(self) -> str: ...
    @property
    def show_options(self) -> bool: ...
    @property
    def template(self) -> str | None: ...
    @property
    def suffix(self) -> str | None: ...


def asked_text(row: Row, prompt: Asking) -> str:
    """Return the text of the user turn as a prompt section says: by its template, or the paper's and the benchmark's.

    Raises:
        DataError: the template asks for what the row has not.
    """
    mode, wording, shown = prompt.mode, prompt.wording, prompt.show_options
    if prompt.template is None:
        return question_text(row, mode, wording, shown, prompt.suffix)
    shown = shown and row.answer_kind == "choice" and row.options is not None
    values = {name: getattr(row, name) for name in VARIABLES if name in FIELDS}
    closing = prompt.suffix if prompt.suffix is not None else _closing(row, mode, wording, shown)
    values |= {"mode": mode, "closing": closing, "show_options": shown}
    values["map_request"] = row_map_request(row)
    values["option_lines"] = "\n".join(option_lines(row.options)) if row.options else ""
    text = render(prompt.template, values, f"row {row.key}")
    if found := SPECIAL.search(text):
        raise DataError(f"row {row.key}: prompt.template gives the special token {found[0]}", "take it out")
    return text


def parted_text(text: str, kinds: Sequence[str], where: str) -> str | tuple[str, ...]:
    """Return the texts before, between and after the placeholders `<image>` and `<video>`; a text without any is whole.

    Args:
        kinds: of the media shown, in order.

    Raises:
        DataError: the placeholders are not one per medium, of its kind.
    """
    named = PLACEHOLDER.findall(text)
    if not named:
        return text
    if named != list(kinds):
        shown = ", ".join(kinds) or "nothing"
        raise DataError(f"{where}: its text shows {', '.join(named)} and the row {shown}", "download the file again")
    return tuple(re.split(r"<(?:image|video)>", text))


def row_map_request(row: Row) -> str:
    """Return the sentences that ask for the map that a row carries besides its answer (`extra.map`), "" for none."""
    cells = row.extra.get("map") if row.answer_kind != "map" else None
    return map_request(list(cells)) if isinstance(cells, dict) and cells else ""


def question_text(
    row: Row, mode: str = "vanilla", wording: str = "train", show_options: bool = False, suffix: str | None = None
) -> str:
    """Return the text of the user turn (videos and images come before it).

    Lines: the benchmark's pre-prompt (evaluation wording of rows with a video: the paper appends to the bare question),
    the question, the options where shown, the closing sentence(s), or `suffix` in their place. Options are shown for
    choice questions only.

    Raises:
        ValueError: an unknown mode or wording.
    """
    if mode not in MODES:
        raise ValueError(f"prompt.mode={mode}: must be one of {', '.join(MODES)}")
    if wording not in WORDINGS:
        raise ValueError(f"prompt.wording={wording}: must be one of {', '.join(WORDINGS)}")
    shown = show_options and row.answer_kind == "choice" and row.options is not None
    films = any(item["kind"] == "video" for item in row.media)
    lines = [PRE_PROMPT] if wording == "eval" and films else []
    lines.append(row.question)
    if shown and row.options is not None:
        lines += [OPTIONS_HEAD, *option_lines(row.options)]
    closing = _closing(row, mode, wording, shown) if suffix is None else suffix
    lines.append(closing if films or suffix is not None else closing.replace(*_NO_FILM))
    return "\n".join(lines)


def _closing(row: Row, mode: str, wording: str, shown: bool) -> str:
    """Return the sentence(s) after the question; with options shown the official letter sentence comes last.

    Benchmark form (evaluation wording, vanilla, options shown): the letter sentence alone. Maps have their own.
    """
    if row.answer_kind == "map":
        return MAP_SENTENCES[mode]
    if shown and wording == "eval" and mode == "vanilla":
        return LETTER_SENTENCE
    sentence = (EVAL_SENTENCES if wording == "eval" else TRAIN_SENTENCES)[mode]
    return f"{sentence} {LETTER_SENTENCE}" if shown else sentence


def target_text(row: Row, mode: str = "vanilla", show_options: bool = False, answer: str | None = None) -> str:
    """Return what SFT and DPO make the model say under the training wording of `mode`.

    The bare answer in vanilla mode; `<think>reasoning</think><answer>answer</answer>` (or `<observe>`) otherwise. With
    options shown the answer of a choice question is its letter. `answer` replaces the row's own (a rejected word).

    Raises:
        DataError: think or observe mode and the row has no reasoning; or a replaced answer that is no option.
    """
    if mode not in MODES:
        raise ValueError(f"prompt.mode={mode}: must be one of {', '.join(MODES)}")
    text = row.answer if answer is None else answer
    if show_options and row.answer_kind == "choice" and row.options is not None:
        if text not in row.options:
            raise DataError(f"row {row.key}: answer={text!r}: not among its options", "take another rejected answer")
        text = LETTERS[row.options.index(text)]
    if mode == "vanilla":
        return text
    if row.reasoning is None:
        raise DataError(f"row {row.key}: reasoning=null: prompt.mode={mode} trains on it", "use prompt.mode=vanilla")
    return f"<{mode}>{row.reasoning}</{mode}><answer>{text}</answer>"


def check_map_room(rows: Iterable[Row], key: str, limit: int) -> None:
    """Refuse rows whose answer is a map that does not fit into so many tokens: each would be cut off, and score 0.

    Args:
        key: of the configuration that sets the limit.

    Raises:
        ConfigError: the longest map needs more.
    """
    maps = (read_map(row.answer) for row in rows if row.answer_kind == "map")
    needs = [least_tokens(cells) for cells in maps if cells]
    if (most := max(needs, default=0)) > limit:
        number = sum(need > limit for need in needs)
        what = (
            f"{key}={limit}: cuts off the answers of {number} of {counted(len(needs), 'row')}, maps of up to "
            f"{most} tokens or more"
        )
        raise ConfigError(what, f"set {key}={max(128, 2 * most)}, or choose other question types (data.types)")


def wrong_answer(row: Row, seed: int) -> str:
    """Return the wrong answer of a preference pair: the row's own, or one drawn by `seed` and the row's key.

    Raises:
        DataError: the row has none and none can be made.
    """
    wrong = row.rejected
    if wrong is None:
        tolerance = tolerance_of(row.question_type)
        wrong = rejected_answer(row.answer, row.answer_kind, row.options, seed=seed, key=row.key, tolerance=tolerance)
    if wrong is None:
        raise DataError(f"row {row.key}: rejected=null: no wrong answer to {row.answer!r} can be told", "give it one")
    return wrong


def check_trainable(row: Row, config: TrainConfig) -> None:
    """Raise DataError if a run of `config` could not make the texts it trains on from a row: DPO needs a wrong answer.

    GRPO needs no text but the question. Rows of types that are not in data.types are not trained on.
    """
    method, prompt, types = config.trainer.name, config.prompt, config.data.kept_types
    if method == "grpo" or (types is not None and row.question_type not in types):
        return
    target_text(row, prompt.mode, prompt.show_options)
    if method == "dpo":
        target_text(row, prompt.mode, prompt.show_options, wrong_answer(row, config.run.seed))
