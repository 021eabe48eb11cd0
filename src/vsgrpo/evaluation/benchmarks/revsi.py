"""ReVSI: rooms of VSI-Bench's data sets annotated again by people, with answers true for the frames that are shown.

One row file per frame budget (16_frame, 32_frame, 64_frame, all_frame), videos at <n>_frame/<scene_id>.mp4 beside the
row file or in a folder above it. Sizes are asked in metres; a task is the mean of its question types, and the score
the mean of the tasks that have questions (16_frame has neither room size nor route planning).

Source: arXiv 2604.24300; Hugging Face 3dlg-hcvc/ReVSI; lmms-eval commit 75571cf, lmms_eval/tasks/revsi.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from vsgrpo.data.prompts import LETTER_SENTENCE, OPTIONS_HEAD, PRE_PROMPT, option_lines
from vsgrpo.data.room_ids import room_of
from vsgrpo.data.row import Row
from vsgrpo.data.rows import row_id
from vsgrpo.evaluation.accuracy import Published
from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.evaluation.export_names import ExportNames, suffixed
from vsgrpo.evaluation.row_files import lettered, number_kind, number_text, question_row, truth_letter
from vsgrpo.spatial.scoring import mra

NUMBER_SENTENCE = "Answer the question using a single integer or decimal number."
_PAPER = "arXiv 2604.24300; other frames and prompts per model"
_CHOICES = ("object_rel_direction", "object_rel_distance", "route_planning")


class ReVsi(Benchmark):
    """ReVSI's own prompt and scorer; see the module's docstring."""

    title = "ReVSI"
    suffixes = (".parquet", ".jsonl", ".json")
    columns = ("num_frames", "scene_id", "question", "question_type", "options", "ground_truth")
    question_types = ("object_abs_distance", "object_size_estimation", "route_planning")
    tasks: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "object_counting": ("object_counting_single", "object_counting_multiple"),
        "room_size_estimation": ("room_size_estimation_single", "room_size_estimation_multiple"),
        "object_rel_direction": tuple(
            f"object_rel_direction_{way}_{level}" for level in ("easy", "hard") for way in ("forward", "backward")
        ),
        "object_rel_distance": ("object_rel_distance_closest", "object_rel_distance_farthest"),
    }
    headline = "macro"
    scorer = "ReVSI's: the token before the first space; MRA of numbers"
    export_names = (
        ExportNames(
            "revsi_{num_frames}_frame",
            "overall_acc",
            metrics=suffixed("tasks", (*tasks, *question_types), "_acc"),
        ),
    )
    published = (
        Published("Gemini 3 Pro", 0.609, _PAPER),
        Published("Qwen3-VL-8B", 0.491, _PAPER),
        Published("Cambrian-S-7B", 0.491, _PAPER),
        Published("VST-7B-SFT", 0.464, _PAPER),
        Published("SpaceR", 0.305, _PAPER),
    )

    @classmethod
    def row(cls, data: dict[str, Any], where: str) -> Row:
        """Return the row of a record; one without `id` is named by scene, type, question and options."""
        scene, kind, asked = (str(data[name]) for name in ("scene_id", "question_type", "question"))
        known = kind in cls.known_types()  # of an unknown type, which is counted and left out, the options decide
        is_choice = kind.startswith(_CHOICES) if known else bool(data["options"])
        options = lettered(data["options"], where, cls.title) if is_choice else None
        truth = data["ground_truth"]
        letter = None if options is None else truth_letter(truth, options, where)
        answer = number_text(truth, where) if options is None or letter is None else options[ord(letter) - ord("A")]
        return question_row(
            str(data.get("id") or row_id("revsi", scene, kind, "\n".join([asked, *(options or ())]))),
            asked,
            answer,
            [("video", f"{data['num_frames']}_frame/{scene}.mp4")],
            dataset="revsi",
            question_type=kind,
            options=options,
            scene_name=scene,
            room=room_of(scene),
            answer_kind="choice" if is_choice else number_kind(answer),
            extra={"num_frames": data["num_frames"]},
        )

    def official_text(self, row: Row) -> str:
        """Return the frames sentence, the question, its options, and what to answer with."""
        if row.options is None:
            return f"{PRE_PROMPT}\n{row.question}\n{NUMBER_SENTENCE}"
        return "\n".join([PRE_PROMPT, row.question, OPTIONS_HEAD, *option_lines(row.options), LETTER_SENTENCE])

    def read_answer(self, row: Row, answer: str) -> str | float | None:
        """Return the token before the first space: a letter, or a number."""
        token = answer.strip().split(" ")[0].rstrip(".").strip()
        if row.options is not None:
            return token if len(token) == 1 else None
        try:
            return float(token)
        except ValueError:
            return None

    def score(self, row: Row, answer: str) -> float:
        """Return whether the letter is right, whatever its case, or the mean relative accuracy of the number."""
        read = self.read_answer(row, answer)
        if isinstance(read, str):
            return read.lower() == row.ground_truth.lower()
        truth = 0.0 if row.options is not None else float(row.ground_truth)
        return mra(read, truth) if truth else 0.0  # theirs divides by the truth, and gives 0 for a fault

    def remarks(self, settings: Mapping[str, Any] | None = None) -> list[str]:
        """Return the base's, and whether other frames were shown than the answers are true for."""
        budgets = sorted({str(row.extra["num_frames"]) for row in self.rows})
        shown = str(settings["vision"]["num_frames"]) if settings else None
        notes = [f"the answers are true for {' and '.join(budgets)} frames"]
        if shown is not None and budgets not in ([shown], ["all"]):
            notes = [f"{notes[0]}, {shown} were shown: set video.num_frames={budgets[0]}"]
        return [*super().remarks(settings), *notes]
