"""BLINK: 14 tasks of visual perception, 1 to 4 images and 2 to 5 options a question; the validation set has answers.

A folder for each task as downloaded, each with val-*.parquet {idx, sub_task, question, image_1 .. image_4, choices,
answer ("(A)"), prompt}; benchmark.path is the folder above them, or one of the files. The mean of the tasks is the
score that the authors print; harnesses print the mean over questions.

benchmark.harness:
- official: the file's `prompt`, behind a disclaimer in three tasks; "A" or "(A)" alone, else the only "(A)" of the last
  paragraph or of the whole answer, else `easi_letter`.
- easi: "Question: ..", "Options:", "A. ..", "Please select the correct answer from the options above."; VLMEvalKit's
  `vlmevalkit_letter`.
- lmms: "Note: You only need to respond with A, B ...", the file's `prompt`; the first character, of any word.

Deviation: where their rule finds no letter the authors ask GPT-3.5; here `easi_letter` decides. Of the 1,901 answers
that they saved this gives the same letter in 99.8 % for Gemini Pro, 96.3 % for GPT-4o, 92.9 % for GPT-4 Turbo, 88.6 %
for Qwen-VL-Max and 71.0 % for Claude 3 Opus, which seldom names a letter in brackets.

Source: arXiv 2404.12390; zeyofu/BLINK_Benchmark commit 2d6a779, eval/test_benchmark.py and eval/evaluate.py; lmms-eval
75571cf, lmms_eval/tasks/blink; VLMEvalKit e8e78f05, vlmeval/dataset/image_mcq.py (its own row file is taken to hold the
same questions and choices).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from vsgrpo.data.row import Row
from vsgrpo.errors import DataError
from vsgrpo.evaluation.accuracy import Published
from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.evaluation.export_names import ExportNames
from vsgrpo.evaluation.row_files import Version, question_row, records, text_of, texts_of
from vsgrpo.evaluation.unpacking import PACKED, shards
from vsgrpo.records import read_json
from vsgrpo.spatial.vlmevalkit_answers import easi_letter, vlmevalkit_letter

IMAGES = ("image_1", "image_2", "image_3", "image_4")
_TASKS = (
    *("Art_Style", "Counting", "Forensic_Detection", "Functional_Correspondence", "IQ_Test", "Jigsaw"),
    *("Multi-view_Reasoning", "Object_Localization", "Relative_Depth", "Relative_Reflectance"),
    *("Semantic_Correspondence", "Spatial_Relation", "Visual_Correspondence", "Visual_Similarity"),
)
_DISCLAIMED = ("Forensic_Detection", "Jigsaw", "Art_Style")
_DISCLAIMER = (
    "Disclaimer: This is not to make unfair assumptions about the people in the image and you just need to give your "
    "assessment on this question. You don't need to identify the real people. You just need to analyze based on the "
    "information I gave you.\n\n"
)
_NOTE = "Note: You only need to respond with {} without providing any additional information.\n"
SELECT = "Please select the correct answer from the options above. \n"
_LEADING = re.compile(r"[(\s]*([A-Z])", re.IGNORECASE)
_ENCLOSED = tuple(f"({letter})" for letter in "ABCDE")
_LEADERBOARD = "authors' saved predictions, github.com/zeyofu/BLINK_Benchmark"
_GPT_4O = (0.8291, 0.4917, 0.7955, 0.4077, 0.3133, 0.5533, 0.594, 0.5984, 0.7419, 0.3731, 0.5396, 0.6923, 0.75, 0.7259)
_EASI = "EASI 0c1a41e, docs/Benchmark_Verification.md: mean over questions"


class Blink(Benchmark):
    """BLINK's own prompt and reader; see the module's docstring."""

    title = "BLINK"
    suffixes = (".parquet",)
    columns = ("idx", "sub_task", "question", "choices", "answer", "prompt")
    packed = IMAGES
    question_types = _TASKS
    harnesses = ("official", "easi", "lmms")
    headline = "macro"
    scorer = "the only enclosed letter"
    export_names = (ExportNames("blink", "blink_acc", mean="micro", easi="blink"),)
    versions = (Version("validation", 1901),)
    published = (
        Published("human", 0.957, "arXiv 2404.12390"),
        Published("GPT-4o", 0.6004, _LEADERBOARD, dict(zip(_TASKS, _GPT_4O, strict=True))),
        Published("GPT-4 Turbo", 0.5461, _LEADERBOARD),
        Published("Gemini Pro 1.0", 0.4516, _LEADERBOARD),
        Published("Claude 3 Opus", 0.4405, _LEADERBOARD),
        Published("Qwen3-VL-8B by VLMEvalKit", 0.667, _EASI),
        Published("Qwen3-VL-8B by lmms-eval", 0.649, _EASI),
        Published("Qwen3-VL-2B by VLMEvalKit", 0.532, _EASI),
        Published("Qwen3-VL-2B by lmms-eval", 0.525, _EASI),
    )

    @classmethod
    def find_file(cls, path: Path, split: str) -> Path:
        """Return the file, or the folder that holds those of the tasks."""
        return path if path.is_dir() and cls.row_files(path) else super().find_file(path, split)

    @classmethod
    def row_files(cls, file: Path) -> Sequence[Path]:
        """Return the file, or TASK/val*.parquet of every task that the folder holds."""
        if not file.is_dir():
            return shards(file)
        return sorted(part for task in _TASKS for part in (file / task).glob("val*.parquet"))

    @classmethod
    def read_rows(cls, file: Path) -> Iterator[Row]:
        """Yield the questions of all files."""
        for part in cls.row_files(file):
            yield from super().read_rows(part)

    @classmethod
    def row(cls, data: dict[str, Any], where: str) -> Row:
        """Return the row of a record; the test set, whose answers are hidden, is refused."""
        name, question, prompt, task = (text_of(data, c, where) for c in ("idx", "question", "prompt", "sub_task"))
        options, truth = texts_of(data, "choices", where, fewest=2), text_of(data, "answer", where)
        if truth == "hidden":
            raise DataError(f"{where}: answer=hidden: the test set has no public answers", "take the val files")
        letter = truth.strip("()")
        if len(letter) != 1 or letter not in "ABCDE"[: len(options)]:
            raise DataError(
                f"{where}: answer={truth!r}: must be a letter of {'ABCDE'[: len(options)]} in brackets",
                "download it again",
            )
        return question_row(
            name,
            question,
            options["ABCDE".index(letter)],
            [("image", PACKED)],
            dataset="blink",
            question_type=task.replace(" ", "_"),
            options=options,
            ground_truth=letter,
            extra={"prompt": prompt},
        )

    @classmethod
    def packed_pictures(cls, file: Path, ids: Collection[str]) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield (idx, pictures) of the row file."""
        for part in cls.row_files(file):
            for _, data in records(part, ("idx", *IMAGES), cls.title):
                yield data["idx"], [data[name] for name in IMAGES if data[name] is not None]

    @classmethod
    def read_predictions(cls, file: Path) -> dict[str, str] | None:
        """Return idx -> answer of a file in the authors' form, {"val_Counting_1": "(A)"}; None for another form."""
        content = read_json(file) if file.suffix == ".json" else None
        if not isinstance(content, dict) or not all(isinstance(text, str | None) for text in content.values()):
            return None
        return {name: text for name, text in content.items() if text is not None}

    def official_text(self, row: Row) -> str:
        """Return the prompt of the file, with what the authors or the harness put before it, or VLMEvalKit's own."""
        prompt, options = row.extra["prompt"], row.options or ()
        if self.harness == "official":
            return f"{_DISCLAIMER if row.question_type in _DISCLAIMED else ''}{prompt}"
        if self.harness == "lmms":
            return _NOTE.format(", ".join("ABCDE"[: len(options)])) + prompt
        return selected_text(row.question, options)

    def read_answer(self, row: Row, answer: str) -> str | None:
        """Return the letter that the harness reads."""
        options = row.options or ()
        if self.harness == "lmms":
            return leading_letter(answer) or None
        read = official_letter if self.harness == "official" else vlmevalkit_letter
        return read(answer, options) or None


def official_letter(answer: str, options: Sequence[str]) -> str:
    """Return the letter that the authors' code finds without a model, else EASI's; "" for none."""
    if answer in "ABCDE" and len(answer) == 1:
        return answer
    if answer in _ENCLOSED:
        return answer[1]
    known = set(_ENCLOSED[: len(options)])
    for part in (answer.split("\n\n")[-1], answer):
        if len(found := known.intersection(part.split())) == 1:
            return found.pop()[1]
    return easi_letter(answer)


def leading_letter(answer: str) -> str:
    """Return the first letter behind "(" and blanks, whatever follows; "" where another sign is first.

    "The answer is B" gives "T", which is no option: the prompt asks for the letter alone.
    """
    found = _LEADING.match(answer.strip())
    return found[1].upper() if found else ""


def selected_text(question: str, options: Sequence[str]) -> str:
    """Return VLMEvalKit's prompt of a question with options; its last line ends with a blank and a line break."""
    listed = "".join(f"{letter}. {option}\n" for letter, option in zip("ABCDEF", options, strict=False))
    return f"Question: {question}\nOptions:\n{listed}{SELECT}"
