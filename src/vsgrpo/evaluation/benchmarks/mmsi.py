"""MMSI-Bench: 1,000 questions by people about 2 to 10 images each, with four options in the text of the question.

`MMSI_Bench.parquet` as downloaded: id, images (bytes), question_type, question ("... Options: A: left, B: right, ..."),
answer (a letter), thought. The mean over questions is the score.

benchmark.harness:
- official: the question and "Enclose the option's letter within ``."; the letter within backticks or braces, else a
  capital A to D that stands alone.
- lmms: the same prompt; A to F in any case.
- easi: the question without its options, the options, the same sentence; `easi_letter`.

Source: arXiv 2505.23764; OpenRobotLab/MMSI-Bench commit 4e28bff (README.md: answer extraction; the authors then ask a
model about answers without a letter, which count as wrong here and in the other harnesses); Hugging Face
RunsenXu/MMSI-Bench; lmms-eval 75571cf, lmms_eval/tasks/mmsi_bench; VLMEvalKit e8e78f05, vlmeval/dataset/mmsibench.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from vsgrpo.data.row import Row
from vsgrpo.evaluation.accuracy import Published
from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.evaluation.export_names import ExportNames
from vsgrpo.evaluation.row_files import Version, letter_of, question_row, records, text_of
from vsgrpo.evaluation.unpacking import PACKED
from vsgrpo.spatial.vlmevalkit_answers import easi_letter

SENTENCE = "Answer with the option's letter from the given choices directly. Enclose the option's letter within ``."
_ENCLOSED = (re.compile(r"``([^`]*)``"), re.compile(r"`([^`]*)`"), re.compile(r"\{([^}]*)\}"))
_CAPITAL = re.compile(r"\b[A-D]\b(?!\s[a-zA-Z])")
_ANY_CASE = re.compile(r"\b[A-F]\b(?!\s[a-zA-Z])", re.IGNORECASE)
_OPTIONS = re.compile(r"(.*)Options:\s*" + r"[\s,]+".join(rf"{letter}\s*:\s*(.*?)" for letter in "ABCD"), re.DOTALL)
_LEADERBOARD = "authors' leaderboard, github.com/OpenRobotLab/MMSI-Bench"
_EASI = "EASI 0c1a41e, docs/Benchmark_Verification.md"


_EASI_NAMES = {
    "Attribute (Appr.)": "attr_appr",
    "Attribute (Meas.)": "attr_meas",
    "Motion (Cam.)": "motion_cam",
    "Motion (Obj.)": "motion_obj",
    "MSR": "msr",
    "Positional Relationship (Cam.-Cam.)": "pos_cam_cam",
    "Positional Relationship (Cam.-Obj.)": "pos_cam_obj",
    "Positional Relationship (Cam.-Reg.)": "pos_cam_reg",
    "Positional Relationship (Obj.-Obj.)": "pos_obj_obj",
    "Positional Relationship (Obj.-Reg.)": "pos_obj_reg",
    "Positional Relationship (Reg.-Reg.)": "pos_reg_reg",
}
"""Question type -> its score on the EASI leaderboard."""


def _logged(question_type: str) -> str:
    """Return what lmms-eval's logs call a question type: with dashes."""
    return question_type.replace(".-", ".\u2013")


class MmsiBench(Benchmark):
    """MMSI-Bench's own prompt and reader; see the module's docstring."""

    title = "MMSI-Bench"
    suffixes = (".parquet",)
    columns = ("id", "question_type", "question", "answer")
    packed = ("images",)
    question_types = (
        "Positional Relationship (Cam.-Cam.)",
        "Positional Relationship (Obj.-Obj.)",
        "Positional Relationship (Reg.-Reg.)",
        "Positional Relationship (Cam.-Obj.)",
        "Positional Relationship (Obj.-Reg.)",
        "Positional Relationship (Cam.-Reg.)",
        "Attribute (Meas.)",
        "Attribute (Appr.)",
        "Motion (Cam.)",
        "Motion (Obj.)",
        "MSR",
    )
    harnesses = ("official", "easi", "lmms")
    headline = "micro"
    scorer = "the letter within backticks, else a letter that stands alone"
    export_names = (
        ExportNames(
            "mmsi_bench",
            "average",
            metrics={_logged(name): f"question_types/{name}" for name in _EASI_NAMES},
            easi="mmsi_bench",
            easi_scores={f"{key}_accuracy": _logged(name) for name, key in _EASI_NAMES.items()},
        ),
    )
    versions = (Version("2025-05", 1000),)
    published = (
        Published("human", 0.972, _LEADERBOARD),
        Published("o3", 0.410, _LEADERBOARD),
        Published("Gemini-2.5-Pro", 0.369, _LEADERBOARD),
        Published("Qwen2.5-VL-72B", 0.307, _LEADERBOARD),
        Published("Qwen2.5-VL-3B", 0.265, _LEADERBOARD),
        Published("Qwen2.5-VL-7B", 0.259, _LEADERBOARD),
        Published("Qwen2.5-VL-7B by VLMEvalKit", 0.268, _EASI),
        Published("Qwen2.5-VL-7B by lmms-eval", 0.278, _EASI),
        Published("GPT-4o, blind", 0.227, _LEADERBOARD),
    )

    @classmethod
    def row(cls, data: dict[str, Any], where: str) -> Row:
        """Return the row of a record; its options are those that the question's text lists, if it does."""
        question, letter = text_of(data, "question", where), letter_of(data, "answer", "ABCD", where)
        options = options_of(question)
        return question_row(
            str(data["id"]),
            question,
            options["ABCD".index(letter)] if options else letter,
            [("image", PACKED)],
            dataset="mmsi",
            question_type=text_of(data, "question_type", where).replace("\u2013", "-"),
            options=options,
            ground_truth=letter,
        )

    @classmethod
    def packed_pictures(cls, file: Path, ids: Collection[str]) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield (id, pictures) of the row file."""
        for _, data in records(file, ("id", "images"), cls.title):
            yield str(data["id"]), data["images"] or ()

    def official_text(self, row: Row) -> str:
        """Return the question, which lists its options, and the sentence that asks for backticks."""
        if self.harness == "easi" and row.options:
            stem = row.question[: row.question.rindex("Options:")].strip()
            listed = "".join(f"{letter}: {option}, " for letter, option in zip("ABCD", row.options, strict=True))
            return f"{stem}\nOptions: {listed}\n{SENTENCE}"
        return f"{row.question.strip() if self.harness == 'lmms' else row.question}\n{SENTENCE}"

    def read_answer(self, row: Row, answer: str) -> str | None:
        """Return the letter that the harness reads."""
        read = {"official": official_letter, "easi": easi_letter, "lmms": lmms_letter}[self.harness]
        return read(answer) or None


def options_of(question: str) -> tuple[str, ...] | None:
    """Return the four options that the text of a question lists ("Options: A: left, B: ..."), None for another form."""
    found = _OPTIONS.fullmatch(question)
    options = tuple(option.strip(" \t\r\n,") for option in found.groups()[1:]) if found else ()
    return options if options and all(options) else None


def official_letter(answer: str) -> str:
    """Return the capital letter A to D that stands alone within backticks or braces, else anywhere; "" for none.

    Alone: no word follows it ("A bike" is no answer).
    """
    return _alone(_CAPITAL, answer)


def lmms_letter(answer: str) -> str:
    """Return the letter as `official_letter`, of A to F and in any case."""
    return _alone(_ANY_CASE, answer)


def _alone(letter: re.Pattern[str], answer: str) -> str:
    for pattern in _ENCLOSED:
        if found := pattern.search(answer):
            answer = found[1]
    found = letter.search(answer)
    return found[0].upper() if found else ""
