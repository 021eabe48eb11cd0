"""SPAR-Bench and SPAR-Bench-Tiny: 20 spatial tasks over one to a few images, from depth of a point to imagined views.

The parquet files as downloaded (several shards of the full set, one of Tiny), pictures inside. Eight tasks want a
number (mean relative accuracy), eleven a letter of options that are in the question, and view_change_infer a motion of
the camera, "move_right:0.3,rotate_up:10,...", scored by `motion_score`. The score is the mean of the tasks; low, middle
and high are the means of theirs.

Harnesses: `official` (the authors' code, lmms-eval's too) and `easi` (VLMEvalKit: the same prompt, its readers of
letters and numbers, and motions relative to the right one). Deviations: an empty answer to a choice question is wrong,
the authors' code counts it right (it asks whether the answer is part of the right letter); their code also leaves
view_change_infer out of "middle", their published rows do not.

Rows name no room, but their data set (`source`). The authors' README: "We initially sampled 8,000 questions from the
validation set" of SPAR-7M, which has train and val folders for each data set. Of ScanNet that is taken to be ScanNet's
own val split: all 20 scans on the authors' page, one of each task, are in it (branch `page`, commit e829be9).

Source: arXiv 2503.22976; Hugging Face jasonzhango/SPAR-Bench; github.com/fudan-zvg/spar commit 1679885,
lmms-eval/lmms_eval/tasks/sparbench/utils.py; VLMEvalKit commit e8e78f05, vlmeval/dataset/sparbench.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vsgrpo.data.row import CHOICE_LETTERS, Row
from vsgrpo.errors import DataError
from vsgrpo.evaluation.accuracy import Published
from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.evaluation.export_names import ExportNames
from vsgrpo.evaluation.row_files import Version, number_text, question_row
from vsgrpo.evaluation.unpacking import PACKED, shards
from vsgrpo.records import read_records
from vsgrpo.spatial.scoring import TOLERANCES
from vsgrpo.spatial.vlmevalkit_answers import easi_letter, easi_number

LOW = (
    *("depth_prediction_oc", "depth_prediction_oc_mv", "depth_prediction_oo", "depth_prediction_oo_mv"),
    *("distance_prediction_oc", "distance_prediction_oc_mv", "distance_prediction_oo", "distance_prediction_oo_mv"),
)
"""Tasks that want a number."""
MOTION = "view_change_infer"
MIDDLE = ("position_matching", "camera_motion_infer", MOTION)
HIGH = (
    *("distance_infer_center_oo", "distance_infer_center_oo_mv"),
    *("obj_spatial_relation_oc_mv", "obj_spatial_relation_oo", "obj_spatial_relation_oo_mv"),
    *("spatial_imagination_oc", "spatial_imagination_oc_mv", "spatial_imagination_oo", "spatial_imagination_oo_mv"),
)
NUMBER_SENTENCE = "Please answer the question using a single word or phrase."
LETTER_SENTENCE = "Answer with the option's letter from the given choices directly."
BOX_SENTENCE = (
    "The values represent the bounding box coordinates normalized to a 0-1000 scale, "
    "with the top-left corner as the origin of the image."
)
_BOXES = ("position_matching", "camera_motion_infer")
_MOTIONS = (
    *(("move_right", "move_left"), ("move_up", "move_down"), ("move_forward", "move_backward")),
    *(("rotate_right", "rotate_left"), ("rotate_up", "rotate_down")),
)
SOURCES = {"scannet": "val", "scannetpp": "", "structured3d": ""}
"""Data set of a row -> the official split that it shows rooms of, "": not known."""
_NUMBER = re.compile(r"(?<!\^)\d+\.\d+|(?<!\^)\d+")
_HINT = "compare with a row of SPAR-Bench"
_README = "README of fudan-zvg/spar"
_EASI = "EASI docs/Benchmark_Verification.md, commit 0c1a41e"


def official_hit(answer: str, truth: str) -> bool:
    """Return whether an answer is the letter, a part of it, or begins with it, whatever their case; "" is none.

    "A", "a" and "A. left" are right for A, "(A)", " A" and "The answer is A" are not.
    """
    answer, truth = answer.lower(), truth.lower()
    return bool(answer) and (answer in truth or answer[0] == truth)


def official_number(answer: str, task: str) -> float | None:
    """Return the first number in an answer, of multi-view tasks the last; signs and what follows "^" are left out."""
    numbers = _NUMBER.findall(answer)
    return float(numbers[-1 if task.endswith("_mv") else 0]) if numbers else None


def relative_accuracy(value: float, reference: float) -> float:
    """Return the share of ten thresholds theta with |value - reference| / |reference| <= 1 - theta.

    For a reference of 0 the error is |value|: 0.1 scores 0.9, 1 scores 0.

    Source: mean_relative_accuracy and abs_dist_norm of SPAR-Bench's and VLMEvalKit's code.
    """
    error = abs(value - reference)
    with np.errstate(all="ignore"):
        return float((np.float64(error if reference == 0 else error / abs(reference)) <= TOLERANCES).mean())


def motion_score(answer: str, truth: str, *, is_lenient: bool = False) -> float:
    """Return the mean relative accuracy of the five axes of a camera's motion, 0 for an answer that is no motion.

    An axis is the difference of its two directions, 0 where neither is named. The authors' code measures an axis
    relative to the answer, not to the right motion (`relative_accuracy` with its arguments exchanged), takes no space
    before a name, and refuses an answer with a part that is not name:number.

    Args:
        is_lenient: as VLMEvalKit: relative to the right motion, spaces allowed, parts that cannot be read left out.
    """
    said, right = read_motion(answer, is_lenient), read_motion(truth, is_lenient)
    if said is None or right is None:
        return 0.0
    scores = []
    for plus, minus in _MOTIONS:
        there, wanted = (motion.get(plus, 0.0) - motion.get(minus, 0.0) for motion in (said, right))
        scores.append(relative_accuracy(there, wanted) if is_lenient else relative_accuracy(wanted, there))
    return float(np.mean(scores))


def read_motion(text: str, is_lenient: bool = False) -> dict[str, float] | None:
    """Return name -> number of "move_right:0.3,move_up:0.1", None where a part is not of that form (`motion_score`)."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, colon, number = part.partition(":")
        try:
            value = float(number)
        except ValueError:
            colon = ""
        if colon:
            found[name.strip() if is_lenient else name] = value
        elif not is_lenient:
            return None
    return found


class SparBench(Benchmark):
    """SPAR-Bench's own prompt and scorers; see the module's docstring."""

    title = "SPAR-Bench"
    suffixes = (".parquet",)
    columns = ("id", "question", "answer", "task", "format_type", "img_type", "source")
    packed = ("image",)
    question_types = (*LOW, *MIDDLE, *HIGH)
    task_groups: ClassVar = {"level": {"low": LOW, "middle": MIDDLE, "high": HIGH}}
    harnesses = ("official", "lmms", "easi")
    headline = "macro"
    scorer = "option letter; MRA of numbers and of camera motions"
    export_names = (ExportNames("sparbench", "sparbench_score", scale=100.0, easi="spar_bench"),)
    versions = (Version("full", 7207), Version("Tiny", 1000))
    published = (
        Published("Qwen2.5-VL-7B", 0.3307, _README),
        Published("Qwen2.5-VL-7B, VLMEvalKit", 0.3378, _EASI),
        Published("Qwen2.5-VL-7B, lmms-eval", 0.3399, _EASI),
        Published("SpaceR", 0.3755, _README),
        Published("InternVL2.5-8B", 0.3628, _README),
        Published("InternVL2-8B", 0.3302, _README),
        Published("LLaVA-OV-7B", 0.312, _README),
        Published("Qwen2-VL-7B", 0.3074, _README),
        Published("human (Tiny)", 0.6727, _README),
        Published("Qwen2.5-VL-72B (Tiny)", 0.394, _README),
        Published("GPT-4o (Tiny)", 0.3639, _README),
        Published("random (Tiny)", 0.3274, _README),
    )

    @classmethod
    def packed_pictures(cls, file: Path, ids: Collection[str]) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield id and pictures of each row."""
        for shard in shards(file):
            for _, data in read_records(shard, first=0):
                yield str(data["id"]), data["image"] or ()

    @classmethod
    def row(cls, data: dict[str, Any], where: str) -> Row:
        """Return the row of a record."""
        task, truth = data["task"], data["answer"]
        for name in ("question", "task"):
            if not isinstance(data[name], str) or not data[name].strip():
                raise DataError(f"{where}: {name}={data[name]!r}: must be a text", _HINT)
        if task in LOW:
            truth = number_text(truth, where)
        elif task in cls.question_types and not (isinstance(truth, str) and _is_truth(truth, task)):
            form = "move_right:0.3,move_up:0.1,..." if task == MOTION else "an option letter"
            raise DataError(f"{where}: answer={truth!r}: must be {form}", _HINT)
        return question_row(
            str(data["id"]),
            data["question"],
            str(truth),
            [("image", PACKED)],
            dataset="spar",
            question_type=task,
            extra={name: data[name] for name in ("format_type", "img_type", "source")},
        )

    def drawn_from(self, row: Row) -> Mapping[str, str] | None:
        """Return the data set that the row names, and its split; see the module's docstring."""
        source = str(row.extra["source"])
        return {source: SOURCES[source]} if source in SOURCES else None

    def official_text(self, row: Row) -> str:
        """Return the question between the lines that the authors put around it, empty ones among them."""
        lines = ["", row.question]
        if row.question_type in LOW:
            lines.append(NUMBER_SENTENCE)
        elif row.question_type == MOTION:
            lines += ["", ""]
        else:
            lines += [BOX_SENTENCE if row.question_type in _BOXES else "", LETTER_SENTENCE]
        return "\n".join(lines)

    def read_answer(self, row: Row, answer: str) -> str | float | None:
        """Return the letter (the authors': what the answer begins with) or number; of a motion all is judged."""
        task, is_easi = row.question_type, self.harness == "easi"
        if task == MOTION:
            return None
        if task in LOW:
            return easi_number(answer) if is_easi else official_number(answer, task)
        return (easi_letter(answer) if is_easi else answer[:1]) or None

    def score(self, row: Row, answer: str) -> float:
        """Return whether the letter is right, or the relative accuracy of the number or motion."""
        if row.question_type == MOTION:
            return motion_score(answer, row.ground_truth, is_lenient=self.harness == "easi")
        read = self.read_answer(row, answer)
        if read is None:
            return 0.0
        if not isinstance(read, str):
            return relative_accuracy(read, float(row.ground_truth))
        if self.harness == "easi":
            return read.lower() == easi_letter(row.ground_truth).lower()
        return official_hit(read, row.ground_truth)

    def groups(self, row: Row) -> Mapping[str, Sequence[str]]:
        """Return the data set that the question comes from."""
        return {"source": (str(row.extra["source"]),)}


def _is_truth(text: str, task: str) -> bool:
    return read_motion(text) is not None if task == MOTION else len(text) == 1 and text in CHOICE_LETTERS
