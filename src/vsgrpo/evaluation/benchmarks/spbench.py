"""SPBench (SpatialLadder's): questions of VSI-Bench's types about one image (SPBench-SI) or several (SPBench-MV).

The parquet file of one of the two as downloaded, pictures at SCENE/NAME in SPBench-SI-images, SPBench-MV-images or
`images` beside it, or still in the zips. Letters are right or wrong, numbers scored by mean relative accuracy; the
score is the mean of the question types.

Harnesses: `official` (SpatialLadder's evaluation without thinking) and `easi` (VLMEvalKit: the same prompt, its own
readers). The official reader of numbers takes English number words first, "a" and "an" being 1 among them: "about a
metre, 1.5" is 1.

Source: arXiv 2510.08531; Hugging Face hongxingli/SPBench; github.com/ZJU-REAL/SpatialLadder commit 87320be,
eval_spld/data_utils; VLMEvalKit commit e8e78f05, vlmeval/dataset/spbench.py.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from vsgrpo.data.room_ids import room_of
from vsgrpo.data.row import CHOICE_LETTERS, Row
from vsgrpo.errors import DataError
from vsgrpo.evaluation.accuracy import Published
from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.evaluation.row_files import Version, lettered, number_text, question_row, truth_letter
from vsgrpo.spatial.answers import NUMBER_WORDS
from vsgrpo.spatial.scoring import mra
from vsgrpo.spatial.vlmevalkit_answers import easi_letter, easi_number

NUMBERS = ("object_abs_distance", "object_counting", "object_size_estimation")
"""Question types that want a number."""
DIRECTIONS = tuple(f"object_rel_direction{level}" for level in ("", "_easy", "_medium", "_hard"))
LETTER_SENTENCE = "Please answer with the option's letter from the given choices (e.g., A, B, etc.) directly."
NUMBER_SENTENCE = "Please answer the question using a numerical value (e.g., 42 or 3.1) directly."
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_WORDS = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"),
    *("fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty", "thirty", "forty", "fifty"),
    *("sixty", "seventy", "eighty", "ninety", "zero", "a", "an"),
)
"""In the order in which they are looked for."""
_DIGITS = re.compile(r"\d+(?:\.\d+)?")
_HINT = "compare with a row of SPBench"
_EASI = "EASI docs/Benchmark_Verification.md, commit 0c1a41e"
_PAPER = f"arXiv 2510.08531, as quoted by {_EASI}"


def answer_text(text: str) -> str:
    """Return what the first `<answer>` tags hold, "None" where they are not closed, all of a text without them.

    Source: vsibench_eval, whose mode is "thinking" unless another is given.
    """
    if "<answer>" not in text:
        return text
    found = _TAG.search(text)
    return found[1].strip() if found else "None"


def official_letter(text: str) -> str:
    """Return what the official scorer compares with the letter: A to D up to the first space, else the whole text."""
    text = text.replace("Answer:", "")
    first = text.split(" ")[0].strip()
    return first.rstrip(".") if re.fullmatch(r"[A-D]\.?", first) else text.strip()


def official_number(text: str) -> float | None:
    """Return the number that the official scorer reads: a number word anywhere, else the first digits; no sign."""
    text = text.strip().lower()
    for word in _WORDS:
        if re.search(rf"\b{word}\b", text):
            return 1.0 if word in ("a", "an") else float(NUMBER_WORDS[word])
    found = _DIGITS.search(text)
    return float(found[0]) if found else None


class SpBench(Benchmark):
    """SPBench's own prompt and scorers; see the module's docstring."""

    title = "SPBench"
    suffixes = (".parquet", ".jsonl")
    columns = ("id", "dataset", "scene_name", "question_type", "question", "ground_truth", "options", "images")
    question_types = (*NUMBERS, "object_rel_distance")
    tasks: ClassVar = {"object_rel_direction": DIRECTIONS}
    task_groups: ClassVar = {"answer": {"letter": ("object_rel_distance", "object_rel_direction"), "number": NUMBERS}}
    harnesses = ("official", "easi")
    headline = "macro"
    scorer = "option letter; MRA of numbers"
    media_folders = ("images", "SPBench-SI-images", "SPBench-MV-images")
    versions = (Version("SPBench-SI", 1009), Version("SPBench-MV", 319))
    published = (
        Published("Qwen2.5-VL-7B, SPBench-SI", 0.484, _PAPER),
        Published("Qwen2.5-VL-3B, SPBench-SI", 0.403, _PAPER),
        Published("Qwen2.5-VL-7B, SPBench-SI, VLMEvalKit", 0.481, _EASI),
        Published("Qwen2.5-VL-3B, SPBench-SI, VLMEvalKit", 0.412, _EASI),
        Published("Qwen2.5-VL-7B, SPBench-MV", 0.373, _PAPER),
        Published("Qwen2.5-VL-3B, SPBench-MV", 0.366, _PAPER),
        Published("Qwen2.5-VL-7B, SPBench-MV, VLMEvalKit", 0.407, _EASI),
        Published("Qwen2.5-VL-3B, SPBench-MV, VLMEvalKit", 0.384, _EASI),
    )

    @classmethod
    def row(cls, data: dict[str, Any], where: str) -> Row:
        """Return the row of a record; one of an unknown question type is left out later."""
        scene, kind, images = data["scene_name"], data["question_type"], data["images"]
        for name in ("scene_name", "question_type", "question"):
            if not isinstance(data[name], str) or not data[name].strip():
                raise DataError(f"{where}: {name}={data[name]!r}: must be a text", _HINT)
        if not isinstance(images, list | tuple) or not images or not all(isinstance(name, str) for name in images):
            raise DataError(f"{where}: images={images!r}: must be a list of file names", _HINT)
        is_choice = kind in DIRECTIONS or kind == "object_rel_distance"
        options = lettered(data["options"], where, cls.title) if is_choice else None
        if options is not None:
            answer = options[CHOICE_LETTERS.index(truth_letter(data["ground_truth"], options, where))]
        else:
            answer = number_text(data["ground_truth"], where) if kind in NUMBERS else str(data["ground_truth"])
            if kind in NUMBERS and not float(answer) > 0:
                raise DataError(f"{where}: ground_truth={answer}: must be above 0, errors are relative to it", _HINT)
        return question_row(
            str(data["id"]),
            data["question"],
            answer,
            [("image", f"{scene}/{name}") for name in images],
            dataset="spbench",
            question_type=kind,
            options=options,
            scene_name=scene,
            room=room_of(scene),
            answer_kind="choice" if is_choice else "number",
            extra={"option_lines": list(data["options"])} if is_choice else {},
        )

    def official_text(self, row: Row) -> str:
        """Return the question, its options as the file has them, an empty line, and what to answer with."""
        options = ["Options:", *row.extra["option_lines"]] if row.options else []
        return "\n".join(
            [f"Question: {row.question}", *options, "", LETTER_SENTENCE if row.options else NUMBER_SENTENCE]
        )

    def read_answer(self, row: Row, answer: str) -> str | float | None:
        """Return the letter or number that the harness reads."""
        is_easi = self.harness == "easi"
        text = answer if is_easi else answer_text(answer)
        if row.options is None:
            return easi_number(text) if is_easi else official_number(text)
        letter = easi_letter(text) if is_easi else official_letter(text)
        return letter if len(letter) == 1 else None

    def score(self, row: Row, answer: str) -> float:
        """Return whether the letter is right, or the mean relative accuracy of the number."""
        read = self.read_answer(row, answer)
        if isinstance(read, str):
            return read.lower() == row.ground_truth.lower()
        return 0.0 if row.options is not None else mra(read, float(row.ground_truth))
