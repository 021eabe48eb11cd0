"""VSI-SUPER: questions about films of 10 to 240 minutes made of many short ones (Cambrian-S).

Three benchmarks from two row files as downloaded: `vsi_super_recall` (in which order was a strange object put into the
film: four options), `vsi_super_count` (how many objects in all rooms) and `vsi_super_streaming` (the same file's rows
`<n>mins_streaming`: counts at several moments, answered with one JSON list). A question type is the length of the film,
and `overall` the mean of the lengths in the file: the authors print each length by itself.

Harnesses: `official` (the authors' prompt and reader as lmms-eval has them) and `easi` (VLMEvalKit's readers; it has no
streaming). Streaming as the authors mean it asks while the film runs; here all of it is shown once, as lmms-eval does.

Source: arXiv 2511.04670; Hugging Face nyu-visionx/VSI-SUPER-Recall and -Count; lmms-eval commit 75571cf,
lmms_eval/tasks/vsisuper; VLMEvalKit commit e8e78f05, vlmeval/dataset/vsibench.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vsgrpo.data.prompts import EVAL_SENTENCES, LETTER_SENTENCE, OPTIONS_HEAD, PRE_PROMPT
from vsgrpo.data.row import Row
from vsgrpo.data.rows import row_id
from vsgrpo.errors import DataError
from vsgrpo.evaluation.accuracy import Published
from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.evaluation.benchmarks.spar import relative_accuracy
from vsgrpo.evaluation.export_names import ExportNames
from vsgrpo.evaluation.row_files import lettered, number_kind, number_text, question_row, records
from vsgrpo.spatial.scoring import mra
from vsgrpo.spatial.vlmevalkit_answers import easi_letter, easi_number

STREAMING = "_streaming"
_LETTER = re.compile(r"[A-D]")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_PAPER = "arXiv 2511.04670, 128 frames; overall is the mean of its lengths, ours"
_EASI = "EASI docs/Benchmark_Verification.md, commit 0c1a41e; overall is the mean of its lengths, ours"


def recall_letter(text: str) -> str:
    """Return the first of the letters A to D in the text in capitals, "" for none: "Bread" is B, "chair" is C."""
    found = _LETTER.search(text.upper())
    return found[0] if found else ""


def count_number(text: str) -> float:
    """Return the first number of digits, 0 for none: an answer without one counts nothing."""
    found = _NUMBER.search(text)
    return float(found[0]) if found else 0.0


def streamed_score(text: str, truths: Sequence[float]) -> float:
    """Return the mean relative accuracy of a JSON list of counts, as far as it and the truths go together.

    What is no JSON list scores 0, as an empty list does. Items beyond the truths, and truths beyond the items, do not
    count: one right item of three truths scores 1 (lmms-eval's rule).
    """
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return 0.0
    pairs = list(zip(said, truths, strict=False)) if isinstance(said, list) else []
    return sum(_one(item, truth) for item, truth in pairs) / len(pairs) if pairs else 0.0


def _one(item: Any, truth: float) -> float:
    try:
        return mra(float(item), truth)
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _row(data: dict[str, Any], where: str, dataset: str, kind: str, answer: str, **more: Any) -> Row:
    """Return a row about a film; one without `id` is named by film, length, question and options."""
    film, question = str(data["video_path"]), str(data["question"]).strip()
    options = more.get("options") or ()
    name = data.get("id")
    return question_row(
        row_id(dataset, film, kind, "\n".join([question, *options])) if name is None else str(name),
        question,
        answer,
        [("video", film)],
        dataset=dataset,
        question_type=kind,
        scene_name=PurePosixPath(film).stem,
        **more,
    )


class VsiSuperRecall(Benchmark):
    """VSI-SUPER-Recall; see the module's docstring."""

    title = "VSI-SUPER-Recall"
    suffixes = (".parquet", ".jsonl", ".json")
    columns = ("question", "options", "answer", "video_path", "type")
    question_types = ("10mins", "30mins", "60mins", "120mins", "240mins")
    harnesses = ("official", "easi")
    headline = "macro"
    scorer = "the first of A to D"
    export_names = (ExportNames("vsr", "accuracy"),)
    published = (
        Published(
            "Cambrian-S-7B",
            0.2598,  # (26.7 + 21.7 + 23.3 + 30.0 + 28.2) / 5
            _PAPER,
            {"10mins": 0.267, "30mins": 0.217, "60mins": 0.233, "120mins": 0.3, "240mins": 0.282},
        ),
        Published(
            "Cambrian-S-7B, VLMEvalKit",
            0.2634,  # (26.7 + 21.7 + 23.3 + 30.0 + 30.0) / 5
            _EASI,
            {"10mins": 0.267, "30mins": 0.217, "60mins": 0.233, "120mins": 0.3, "240mins": 0.3},
        ),
    )

    @classmethod
    def row(cls, data: dict[str, Any], where: str) -> Row:
        """Return the row of a record; its answer is a letter, alone or before the option."""
        options = lettered(data["options"], where, cls.title)
        letter = recall_letter(str(data["answer"]))
        place = "ABCD".find(letter) if letter else -1
        if not 0 <= place < len(options):
            raise DataError(f"{where}: answer={data['answer']!r}: must be the letter of an option", "download it again")
        shown = [str(option) for option in data["options"]]
        more = {"options": options, "ground_truth": letter, "extra": {"options": shown}}
        return _row(data, where, "vsi_super_recall", str(data["type"]), options[place], **more)

    def official_text(self, row: Row) -> str:
        """Return the question, its options as the file has them, and the sentence that asks for a letter."""
        return "\n".join([row.question, OPTIONS_HEAD, *row.extra["options"], LETTER_SENTENCE])

    def read_answer(self, row: Row, answer: str) -> str | None:
        """Return the letter that the harness reads."""
        return (easi_letter(answer) if self.harness == "easi" else recall_letter(answer)) or None


class VsiSuperCount(Benchmark):
    """VSI-SUPER-Count without its streaming rows; see the module's docstring."""

    title = "VSI-SUPER-Count"
    suffixes = (".parquet", ".jsonl", ".json")
    columns = ("question", "split", "video_path")
    question_types = ("10mins", "30mins", "60mins", "120mins")
    harnesses: tuple[str, ...] = ("official", "easi")
    headline = "macro"
    scorer = "mean relative accuracy of the first number"
    export_names: tuple[ExportNames, ...] = (ExportNames("vsc", "mra"),)
    published: tuple[Published, ...] = (
        Published("Cambrian-S-7B, 10 and 30 minutes", 0.08, _PAPER, {"10mins": 0.16, "30mins": 0.0}),
    )

    @classmethod
    def read_rows(cls, file: Path) -> Iterator[Row]:
        """Yield the rows of one kind: those with one answer, or the streaming ones."""
        wanted = issubclass(cls, VsiSuperStreaming)
        for where, data in records(file, cls.columns, cls.title):
            if str(data["split"]).endswith(STREAMING) == wanted:
                yield cls.row(data, where)

    @classmethod
    def row(cls, data: dict[str, Any], where: str) -> Row:
        """Return the row of a record with one answer."""
        if data.get("answer") is None:
            raise DataError(f"{where}: answer is missing", f"rows of {cls.title} have a number there")
        truth = number_text(data["answer"], where)
        if float(truth) < 0:
            raise DataError(f"{where}: answer={truth}: must be a count", "download it again")
        kind = number_kind(truth)
        return _row(data, where, "vsi_super_count", str(data["split"]), truth, answer_kind=kind)

    def official_text(self, row: Row) -> str:
        """Return the sentence about frames, the question, and what to answer with."""
        return f"{PRE_PROMPT}\n{row.question}\n{EVAL_SENTENCES['vanilla']}"

    def read_answer(self, row: Row, answer: str) -> float | None:
        """Return the number that the harness reads."""
        return easi_number(answer) if self.harness == "easi" else count_number(answer)

    def score(self, row: Row, answer: str) -> float:
        """Return the mean relative accuracy; of a truth of 0 whether the number is 0 (VLMEvalKit: its distance)."""
        truth, number = float(row.ground_truth), self.read_answer(row, answer)
        if self.harness == "easi":
            return 0.0 if number is None else relative_accuracy(number, truth)
        return mra(number, truth)


class VsiSuperStreaming(VsiSuperCount):
    """The streaming rows of VSI-SUPER-Count; see the module's docstring."""

    title = "VSI-SUPER-Count (streaming)"
    question_types = tuple(f"{kind}{STREAMING}" for kind in VsiSuperCount.question_types)
    harnesses = ("official",)
    scorer = "mean relative accuracy of a JSON list"
    export_names = (ExportNames("vsc_streaming", "mra"),)
    published = ()

    @classmethod
    def row(cls, data: dict[str, Any], where: str) -> Row:
        """Return the row of a record with several answers, one for each moment at which is asked."""
        truths = data.get("answers")
        if not isinstance(truths, list) or not truths:
            raise DataError(f"{where}: answers={truths!r}: must be a list of counts", "download it again")
        numbers = [number_text(truth, where) for truth in truths]
        if min(map(float, numbers)) < 0:
            raise DataError(f"{where}: answers={truths!r}: must be counts", "download it again")
        text = f"[{', '.join(numbers)}]"
        extra = {"answers": [float(number) for number in numbers], "query_times": data.get("query_times")}
        return _row(data, where, "vsi_super_streaming", str(data["split"]), text, extra=extra)

    def read_answer(self, row: Row, answer: str) -> None:
        """Return nothing: the whole list is judged."""

    def score(self, row: Row, answer: str) -> float:
        """Return the mean over the moments, see `streamed_score`."""
        return streamed_score(answer, row.extra["answers"])
