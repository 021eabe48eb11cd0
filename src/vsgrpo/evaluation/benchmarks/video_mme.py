"""Video-MME: 2,700 questions about 900 videos of the web, the general video benchmark that spatial training may cost.

The row file as downloaded, videos at data/<videoID>.mp4 below its folder or in zips. Four options; the score is the
share of right letters, also by length of the video (short, medium, long) and by its field. Without subtitles: those
with subtitles are another benchmark, which is not built.

Harnesses: `official` (the authors' prompt and reader) and `lmms` (lmms-eval's prompt, which speaks of subtitles here
too, and its common reader of letters).

Deviation: an answer without a letter is wrong; the authors leave the question out of their accuracy.

Source: arXiv 2405.21075; Hugging Face lmms-lab/Video-MME; thanku-all/parse_answer commit afd52cf, the authors'
eval_your_results.py; lmms-eval commit 75571cf, lmms_eval/tasks/videomme.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vsgrpo.data.prompts import LETTER_SENTENCE
from vsgrpo.data.row import Row
from vsgrpo.evaluation.accuracy import Published
from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.evaluation.export_names import ExportNames
from vsgrpo.evaluation.row_files import Version, lettered, question_row, truth_letter
from vsgrpo.spatial.lmms_answers import lmms_letter

TASKS = (
    *("Temporal Perception", "Spatial Perception", "Attribute Perception", "Action Recognition", "Object Recognition"),
    *("OCR Problems", "Counting Problem", "Temporal Reasoning", "Spatial Reasoning", "Action Reasoning"),
    *("Object Reasoning", "Information Synopsis"),
)
_ASKED = "Respond with only the letter (A, B, C, or D) of the correct option."
_PREFIXES = (
    *("The best answer is", "The correct answer is", "The answer is", "The answer"),
    *("The best option isThe correct option is", "Best answer:Best option:", "Answer:", "Option:"),
)
"""Texts that are taken out of an answer. Two of them are joined in the authors' code, where a comma is missing."""
_LETTER = re.compile("[ABCD]")
_CARD = "model card of InternVL2.5, without subtitles"


def official_letter(text: str) -> str:
    """Return the letter that the authors' code reads in an answer, "" for none.

    The first capital of A to D once the texts of `_PREFIXES` are taken out, of a word too: "Best answer: C" is B.
    """
    for prefix in _PREFIXES:
        text = text.replace(prefix, "")
    found = _LETTER.search(text)
    return found[0] if found else ""


class VideoMme(Benchmark):
    """Video-MME without subtitles; see the module's docstring."""

    title = "Video-MME (without subtitles)"
    suffixes = (".parquet", ".jsonl", ".json")
    columns = (
        "videoID",
        "duration",
        "domain",
        "sub_category",
        "task_type",
        "question_id",
        "question",
        "options",
        "answer",
    )
    question_types = TASKS
    harnesses = ("official", "lmms")
    scorer = "option letter"
    export_names = (ExportNames("videomme", "videomme_perception_score", scale=100.0),)
    versions = (Version("test", 2700),)
    published = (
        Published("InternVL2.5-8B", 0.642, _CARD),
        Published("Qwen2-VL-7B", 0.633, _CARD),
        Published("LLaVA-OneVision-7B", 0.582, _CARD),
        Published("Qwen2-VL-2B", 0.556, _CARD),
    )

    @classmethod
    def row(cls, data: dict[str, Any], where: str) -> Row:
        """Return the row of a record."""
        options = lettered(data["options"], where, cls.title)
        letter = truth_letter(data["answer"], options, where)
        video = str(data["videoID"])
        fields = ("duration", "domain", "sub_category")
        return question_row(
            str(data["question_id"]),
            str(data["question"]),
            options[ord(letter) - ord("A")],
            [("video", f"data/{video}.mp4")],
            dataset="video_mme",
            question_type=str(data["task_type"]),
            options=options,
            ground_truth=letter,
            scene_name=video,
            extra={name: str(data[name]) for name in fields} | {"options": [str(each) for each in data["options"]]},
        )

    def official_text(self, row: Row) -> str:
        """Return what to select, the question, its options as the file has them, and what to answer with."""
        question = "\n".join([row.question, *row.extra["options"]])
        select = "Select the best answer to the following multiple-choice question based on the video"
        if self.harness == "lmms":
            return f"{select} and the subtitles. {_ASKED}\n{question}\n\n{LETTER_SENTENCE}"
        return f"{select}. {_ASKED}\n{question}\nThe best answer is:"

    def read_answer(self, row: Row, answer: str) -> str | None:
        """Return the letter that the harness reads."""
        return (lmms_letter(answer, "ABCD") if self.harness == "lmms" else official_letter(answer)) or None

    def groups(self, row: Row) -> Mapping[str, Sequence[str]]:
        """Return the length of the video and its field."""
        return {name: (row.extra[name],) for name in ("duration", "domain", "sub_category")}
