"""OSI-Bench: metric questions about videos that a pedestrian films outdoors, objects named by numeric tags.

data.parquet as downloaded and the videos, NAME.mp4, beside it, in `videos/` or in the zips videos_part*.zip. Categories
of numbers are scored by mean relative accuracy, with a rule of their own for a right answer of 0; the others by their
letter. The score is the mean over questions.

Harnesses differ in what comes first and how an answer is read:

| harness | order | before "The answer is:" | reader |
|---|---|---|---|
| official | text, then video (the authors' order) | nothing | last number; letter by `official_letter` |
| easi | text, then video | nothing | VLMEvalKit's |
| easi_visual_first | video, then text | nothing | VLMEvalKit's |
| lmms | video, then text (its default) | a line break | as official |

The authors' repository could not be read: `official` joins the prompt that VLMEvalKit says is theirs with the readers
of lmms-eval. The video is shown as one: the sentence with its length and number of frames, which harnesses put before
frames sent as single images, is left out, as they do for models that take videos.

Source: arXiv 2512.19683; Hugging Face HarmlessSR07/OSI-Bench; lmms-eval commit 75571cf, lmms_eval/tasks/osi_bench;
VLMEvalKit in EASI, vlmeval/dataset/osibench.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vsgrpo.data.row import CHOICE_LETTERS, Row
from vsgrpo.errors import DataError
from vsgrpo.evaluation.accuracy import Published
from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.evaluation.export_names import ExportNames
from vsgrpo.evaluation.row_files import Version, lettered, number_text, question_row, records, truth_letter
from vsgrpo.spatial.scoring import mra
from vsgrpo.spatial.vlmevalkit_answers import easi_letter, easi_number

CHOICES = (
    *("relative_distance", "relative_direction_categorical", "relative_direction_categorical_cardinal"),
    *("relative_direction_categorical_ordinal", "trajectory_description"),
)
"""Categories of questions with options."""
KINDS = {
    **dict.fromkeys(CHOICES, "relational"),
    **dict.fromkeys(
        ("object_3d_localization", "absolute_distance", "depth_aware_counting", "relative_direction_angular"),
        "static metric",
    ),
    **dict.fromkeys(("absolute_displacement", "absolute_speed", "trajectory_length"), "dynamic metric"),
}
"""Category -> level of the paper. relative_direction_angular is in lmms-eval's list alone; its level is ours."""
ZERO_LIMITS = {"absolute_speed": 0.3, "absolute_displacement": 0.3, "trajectory_length": 2.0}
"""Category -> number below which an answer means "does not move"."""
PREAMBLE = (
    "These are frames of a video.\nIn the video, objects are identified by numeric tags shown nearby.\n"
    "With that in mind, please answer the following question based on the video."
)
NUMBER_SENTENCE = "Your answer must be only the final numeric value, without units or any other text."
LETTER_SENTENCE = "Your answer must be only the single letter (e.g., A, B, C, or D) of the correct option."
LAST_SENTENCE = "The answer is:"
VIDEO_PLACE = "<video>"
_LINE_AFTER = ("absolute_distance", "relative_direction_angular", "trajectory_length")
"""Categories whose sentence about the number ends with a line break."""
_LAST_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
_LETTERS = (
    re.compile("[(\\[A-Z]\\s*\u7b54\u6848\u662f?[:\uff1a]?\\s*'?\"?([A-Z])'?\"?", re.IGNORECASE),
    re.compile(r"[\[(\s,.]([A-Z])[\])\s,.]"),
)
_HINT = "compare with a row of OSI-Bench's data.parquet"
_PAPER = "arXiv 2512.19683, as quoted by EASI docs/Benchmark_Verification.md, commit 0c1a41e"
_EASI = "EASI docs/Benchmark_Verification.md, commit 0c1a41e"


def official_number(text: str) -> float | None:
    """Return the last number of an answer, commas taken out: "from 3 to 1,200.5 m" -> 1200.5; no exponents."""
    numbers = _LAST_NUMBER.findall(text.replace(",", ""))
    return float(numbers[-1]) if numbers else None


def official_letter(text: str) -> str:
    """Return the option letter that lmms-eval reads, "" for none.

    A letter after the Chinese words for "the answer is"; the first capital with a bracket, space, comma or period on
    both sides ("I think B" gives I); a capital that begins the text ("Because" gives B). Small letters are none.
    """
    if found := _LETTERS[0].search(text) or _LETTERS[1].search(f" {text} ") or re.match(r"\s*([A-Z])", text):
        return found[1].upper()
    return ""


def number_score(number: float | None, truth: float, category: str) -> float:
    """Return the mean relative accuracy of a number.

    Where the right one is 0, a speed or displacement below 0.30 and a length below 2 score 1 (negative numbers too), a
    larger one its accuracy relative to that limit; of other categories only 0 is right.
    """
    if number is None:
        return 0.0
    if truth == 0 and category in ZERO_LIMITS:
        return 1.0 if number < ZERO_LIMITS[category] else mra(number, ZERO_LIMITS[category])
    return mra(number, truth) if truth >= 0 else mra(-number, -truth)


class OsiBench(Benchmark):
    """OSI-Bench's prompts and scorers; see the module's docstring."""

    title = "OSI-Bench"
    media_in_text = True
    suffixes = (".parquet", ".jsonl")
    columns = ("question", "options", "answer", "category")
    question_types = tuple(KINDS)
    harnesses = ("official", "lmms", "easi", "easi_visual_first")
    scorer = "option letter; MRA of numbers"
    media_folders = ("videos", "video")
    official_frames = 32
    export_names = (ExportNames("osi_bench", "overall", scale=100.0),)
    versions = (Version("test", 8766),)
    published = (
        Published("Qwen3-VL-8B, 32 frames", 0.312, _PAPER),
        Published("InternVL3.5-8B, 32 frames", 0.285, _PAPER),
        Published("Qwen3-VL-2B, 32 frames", 0.184, _PAPER),
        Published("Qwen3-VL-8B, 32 frames, VLMEvalKit", 0.311, _EASI),
        Published("Qwen3-VL-8B, 32 frames, VLMEvalKit, video first", 0.335, _EASI),
        Published("Qwen3-VL-8B, 32 frames, lmms-eval, video first", 0.3188, _EASI),
        Published("Qwen3-VL-2B, 32 frames, VLMEvalKit", 0.171, _EASI),
        Published("Qwen3-VL-2B, 32 frames, VLMEvalKit, video first", 0.207, _EASI),
        Published("Qwen3-VL-2B, 32 frames, lmms-eval, video first", 0.1514, _EASI),
    )

    @classmethod
    def read_rows(cls, file: Path) -> Iterator[Row]:
        """Yield the questions of a row file, named by `id` or `index`, else by their number in it, from 0."""
        for number, (where, data) in enumerate(records(file, cls.columns, cls.title)):
            yield _row(data, where, str(data.get("id", data.get("index", number))))

    def official_text(self, row: Row) -> str:
        """Return preamble, question, options and what to answer with; the video's place is last where text is first."""
        sentence = NUMBER_SENTENCE if row.options is None else LETTER_SENTENCE
        asked = "\n".join([f"Question: {row.question}", *row.extra["option_lines"], "", sentence])
        if row.question_type != "trajectory_description":
            asked = f"{PREAMBLE}\n{asked}"
        if row.question_type in _LINE_AFTER:
            asked += "\n"
        if self.harness == "lmms":
            return f"{asked}\n{LAST_SENTENCE}"
        return f"{asked}{LAST_SENTENCE}" + ("" if self.harness == "easi_visual_first" else VIDEO_PLACE)

    def read_answer(self, row: Row, answer: str) -> str | float | None:
        """Return the letter or number that the harness reads."""
        is_easi = self.harness.startswith("easi")
        if row.options is not None:
            return (easi_letter(answer) if is_easi else official_letter(answer.strip())) or None
        return easi_number(answer) if is_easi else official_number(answer)

    def score(self, row: Row, answer: str) -> float:
        """Return whether the letter is right, or the score of the number."""
        read = self.read_answer(row, answer)
        if isinstance(read, str) or row.options is not None:
            return read == row.ground_truth
        return number_score(read, float(row.ground_truth), row.question_type)

    def groups(self, row: Row) -> Mapping[str, Sequence[str]]:
        """Return the level of the category."""
        return {"level": (KINDS[row.question_type],)}


def _row(data: dict[str, Any], where: str, name: str) -> Row:
    """Return the row of a record; one of an unknown category is left out later, and not checked."""
    category, question, answer = str(data["category"]), data["question"], str(data["answer"]).strip()
    video = _video_name(data, where)
    lines = _option_lines(data["options"], where)
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{where}: question={question!r}: must be a text", _HINT)
    options = letter = None
    if category in CHOICES:
        options = lettered(lines, where, "OSI-Bench")
        letter = truth_letter(answer, options, where)
    elif category in KINDS:
        answer = number_text(answer, where)
    return question_row(
        name,
        question,
        answer if options is None or letter is None else options[CHOICE_LETTERS.index(letter)],
        [("video", video)],
        dataset="osi",
        question_type=category,
        options=options,
        scene_name=video.removesuffix(".mp4"),
        room=video.removesuffix(".mp4"),
        extra={"option_lines": lines if options else [], "video_length": data.get("video_length")},
    )


def _video_name(data: Mapping[str, Any], where: str) -> str:
    """Return the file name of the video: `file_name`, or `video` (a number of four digits) with its suffix."""
    if isinstance(data.get("file_name"), str):
        return data["file_name"]
    video = data.get("video", data.get("video_id"))
    if isinstance(video, bool) or not isinstance(video, str | int) or not str(video).strip():
        raise DataError(f"{where}: video={video!r}: must be the name of a video", _HINT)
    return str(video) if str(video).endswith(".mp4") else f"{str(video).zfill(4)}.mp4"


def _option_lines(options: Any, where: str) -> list[str]:
    """Return options as the prompt has them: a list, or a text with one a line."""
    lines = options.splitlines() if isinstance(options, str) else options or []
    if not isinstance(lines, list | tuple) or not all(isinstance(line, str) for line in lines):
        raise DataError(f"{where}: options={options!r}: must be a list of texts", _HINT)
    return [line for line in lines if line]
