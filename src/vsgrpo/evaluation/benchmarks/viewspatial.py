"""ViewSpatial-Bench: where things are as seen by the camera or by a person in the picture; 1 to 32 images a question.

`ViewSpatial-Bench.json` as downloaded: a list of {question_type, image_path (list), question, choices ("A. right\\nB.
left ..."), answer ("A. right")}, 5,712 of them; images at ViewSpatial-Bench/scannetv2_val/... and
ViewSpatial-Bench/val2017/..., or in the zips they come in. A question has no id: its place in the file, from 0, is
it. The mean over questions is the score.

benchmark.harness:
- official (lmms-eval has the same): "Question: ..", "Choices: ..", "Reply only to the corresponding option.",
  "Answer:", as the paper prints it; the first A to D that stands alone in the last line, in any case.
- easi: the same prompt; `easi_letter`.
- code: question and choices without a break between them, as in the authors' evaluate.py; the letter as official.

The authors show Qwen2.5-VL images of 420 x 280 pixels and give it 128 new tokens.

Source: arXiv 2505.21500; ZJU-REAL/ViewSpatial-Bench commit 2e85a5e, evaluate.py; Hugging Face
lidingm/ViewSpatial-Bench; lmms-eval 75571cf, lmms_eval/tasks/viewspatial; VLMEvalKit e8e78f05,
vlmeval/dataset/viewspatialbench.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from vsgrpo.data.room_ids import room_of
from vsgrpo.data.row import Row
from vsgrpo.errors import DataError
from vsgrpo.evaluation.accuracy import Published
from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.evaluation.export_names import ExportNames
from vsgrpo.evaluation.row_files import Version, lettered, question_row, records, text_of, texts_of
from vsgrpo.spatial.vlmevalkit_answers import easi_letter

FOLDER = "ViewSpatial-Bench"
"""Folder of the images; the row file's paths begin with it."""
_LETTER = re.compile(r"\b([A-D])\b", re.IGNORECASE)
_SUFFIX = "Reply only to the corresponding option.\nAnswer:"
_PAPER = "arXiv 2505.21500"
_EASI = "EASI 0c1a41e, docs/Benchmark_Verification.md"


_TYPES = (
    "Camera perspective - Relative Direction",
    "Camera perspective - Object View Orientation",
    "Person perspective - Object View Orientation",
    "Person perspective - Relative Direction",
    "Person perspective - Scene Simulation Relative Direction",
)
_METRICS = {
    f"{kind.lower().replace(' - ', ' ').replace(' ', '_')}_accuracy": f"question_types/{kind}" for kind in _TYPES
}


class ViewSpatial(Benchmark):
    """ViewSpatial-Bench's own prompt and reader; see the module's docstring."""

    title = "ViewSpatial-Bench"
    suffixes = (".json",)
    columns = ("question_type", "image_path", "question", "choices", "answer")
    question_types = _TYPES
    harnesses = ("official", "easi", "code")
    headline = "micro"
    scorer = "the first letter alone in the last line"
    export_names = (
        ExportNames(
            "viewspatial",
            "overall_accuracy",
            metrics=_METRICS,
            easi="viewspatial",
            easi_scores={metric: metric for metric in _METRICS},
        ),
    )
    versions = (
        Version("at 2e85a5e", 5712, "4e5f7a70e8977f48fcb00a7dccaa2f39b4c143255bfd4070dd8b02837b3741b5"),
        Version("2025-05", 5712),
    )
    published = (
        Published("InternVL3-14B", 0.4028, _PAPER),
        Published("Qwen2.5-VL-7B", 0.3685, _PAPER),
        Published("Qwen2.5-VL-7B by VLMEvalKit", 0.3685, _EASI),
        Published("Qwen2.5-VL-7B by lmms-eval", 0.3643, _EASI),
        Published("Qwen2.5-VL-3B", 0.3585, _PAPER),
        Published("Qwen2.5-VL-3B by VLMEvalKit", 0.3197, _EASI),
        Published("GPT-4o", 0.3498, _PAPER),
        Published("Gemini-2.0-Flash", 0.3256, _PAPER),
        Published("random", 0.2633, _PAPER),
    )

    @classmethod
    def read_rows(cls, file: Path) -> Iterator[Row]:
        """Yield the questions, each named by its place in the file."""
        for place, (where, data) in enumerate(records(file, cls.columns, cls.title)):
            yield cls.row({**data, "place": place}, where)

    @classmethod
    def row(cls, data: dict[str, Any], where: str) -> Row:
        """Return the row of a record; choices and answer carry their letters."""
        question, truth = text_of(data, "question", where), text_of(data, "answer", where)
        choices = text_of(data, "choices", where).split("\n")
        options = lettered(choices, where, cls.title)
        if truth not in choices:
            raise DataError(f"{where}: answer={truth!r}: not one of the choices {choices}", "download it again")
        images = [path.removeprefix(f"{FOLDER}/") for path in texts_of(data, "image_path", where)]
        scene = scene_of(images[0])
        return question_row(
            str(data["place"]),
            question,
            options[choices.index(truth)],
            [("image", path) for path in images],
            dataset="viewspatial",
            question_type=text_of(data, "question_type", where),
            options=options,
            ground_truth="ABCD"[choices.index(truth)],
            scene_name=scene,
            room=room_of(scene),
        )

    @cached_property
    def folder(self) -> Path:
        """The folder of the images: beside the row file, or in ViewSpatial-Bench/ there or one folder above."""
        above = (self.file.parent, self.file.parent / FOLDER, self.file.resolve().parents[1] / FOLDER)
        first = self.rows[0].media[0]["path"]
        return next((folder for folder in above if (folder / first).is_file()), above[0])

    def official_text(self, row: Row) -> str:
        """Return question and choices as the paper prints them, or as the authors' code joins them."""
        choices = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", row.options or (), strict=False))
        if self.harness == "code":
            return f"{row.question}{choices}\n{_SUFFIX}"
        return f"Question: {row.question}\nChoices: {choices}\n{_SUFFIX}"

    def read_answer(self, row: Row, answer: str) -> str | None:
        """Return the letter that the harness reads."""
        read = easi_letter if self.harness == "easi" else last_line_letter
        return read(answer) or None


def last_line_letter(answer: str) -> str:
    """Return the first letter A to D that stands alone in the last line, whatever its case; "" for none.

    An article counts: "a chair" is read as A.
    """
    found = _LETTER.search(answer.split("\n")[-1])
    return found[1].upper() if found else ""


def scene_of(path: str) -> str:
    """Return the scan of an image of ScanNet (scannetv2_val/SCENE/...), else the picture's own name (MS-COCO)."""
    parts = PurePosixPath(path).parts
    return parts[1] if len(parts) > 2 and parts[0].startswith("scannet") else PurePosixPath(path).stem
