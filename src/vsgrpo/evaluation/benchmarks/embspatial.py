"""EmbSpatial-Bench: 3,640 questions about six spatial relations in a picture of MP3D, AI2-THOR or ScanNet.

Row file as downloaded: embspatial_bench.json of Phineas476/EmbSpatial-Bench (pictures as base64 text), or the parquet
of FlagEval/EmbSpatial-Bench: {question_id, data_source, question, relation, image, answer_options, answer (0 is the
first option), scene_id (json), objects}. The mean over questions is the score.

The authors published neither prompt nor reader.

The prompts and readers by benchmark.harness:
- official, easi: "Question: ..", "Options:", "A: ..", "Give me the answer letter directly. The best answer is:";
  `easi_letter`.
- lmms: "Note: You only need to respond with A, B, C, D ...", the question, "A) .."; the first character, of any word.

Source: arXiv 2406.05756; mengfeidu/EmbSpatial-Bench commit 75792fc; VLMEvalKit e8e78f05,
vlmeval/dataset/embspatialbench.py; lmms-eval 75571cf, lmms_eval/tasks/embspatial.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vsgrpo.data.room_ids import room_of
from vsgrpo.data.row import Row
from vsgrpo.errors import DataError
from vsgrpo.evaluation.accuracy import Published
from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.evaluation.benchmarks.blink import leading_letter
from vsgrpo.evaluation.export_names import ExportNames, suffixed
from vsgrpo.evaluation.row_files import Version, question_row, records, text_of, texts_of
from vsgrpo.evaluation.unpacking import PACKED
from vsgrpo.spatial.vlmevalkit_answers import easi_letter

BEST_ANSWER = "Give me the answer letter directly. The best answer is:"
_NOTE = "Note: You only need to respond with A, B, C, D without providing any additional information.\n"
_EASI = "EASI 0c1a41e, docs/Benchmark_Verification.md"
_REPORT = "Qwen3-VL report (arXiv 2511.21631), as EASI has it"


_METRICS = suffixed("data_source", ("ai2thor", "mp3d", "scannet"), "_accuracy")


class EmbSpatial(Benchmark):
    """EmbSpatial-Bench with EASI's prompt and reader; see the module's docstring."""

    title = "EmbSpatial-Bench"
    suffixes = (".json", ".parquet")
    columns = ("question_id", "data_source", "question", "relation", "answer_options", "answer")
    packed = ("image",)
    question_types = ("close", "far", "above", "under", "left", "right")
    harnesses = ("official", "easi", "lmms")
    headline = "micro"
    scorer = "EASI's letter"
    export_names = (
        ExportNames(
            "embspatial",
            "embspatial_acc",
            mean="micro",
            metrics=_METRICS,
            easi="embspatial",
            easi_scores={metric: metric for metric in _METRICS},
        ),
    )
    versions = (Version("2024-06", 3640),)
    published = (
        Published("Qwen3-VL-4B", 0.796, _REPORT),
        Published("Qwen3-VL-4B by VLMEvalKit", 0.787, _EASI),
        Published("Qwen3-VL-4B by lmms-eval", 0.7681, _EASI),
        Published("Qwen3-VL-8B", 0.785, _REPORT),
        Published("Qwen3-VL-8B by VLMEvalKit", 0.777, _EASI),
        Published("Qwen3-VL-8B by lmms-eval", 0.7742, _EASI),
    )

    @classmethod
    def row(cls, data: dict[str, Any], where: str) -> Row:
        """Return the row of a record; `answer` counts the options from 0."""
        name, question, source = (text_of(data, column, where) for column in ("question_id", "question", "data_source"))
        options = texts_of(data, "answer_options", where, fewest=2)
        place = data["answer"]
        if type(place) is not int or not 0 <= place < len(options):
            raise DataError(f"{where}: answer={place!r}: must be 0 to {len(options) - 1}", "download it again")
        scene = str(data.get("scene_id") or name)
        return question_row(
            name,
            question,
            options[place],
            [("image", PACKED)],
            dataset="embspatial",
            question_type=text_of(data, "relation", where),
            options=options,
            ground_truth="ABCDEF"[place],
            scene_name=scene,
            room=name if scene == name else room_of(scene),
            extra={"data_source": source},
        )

    @classmethod
    def packed_pictures(cls, file: Path, ids: Collection[str]) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield (question_id, its picture) of the row file."""
        for _, data in records(file, ("question_id", "image"), cls.title):
            yield data["question_id"], [data["image"]]

    def official_text(self, row: Row) -> str:
        """Return the question with its options as EASI or lmms-eval asks it."""
        options = row.options or ()
        if self.harness == "lmms":
            return _NOTE + "\n".join([row.question, *(f"{x}) {o}" for x, o in zip("ABCDEF", options, strict=False))])
        listed = [f"{letter}: {option}" for letter, option in zip("ABCDEF", options, strict=False)]
        return "\n".join([f"Question: {row.question}", "Options:", *listed, BEST_ANSWER])

    def read_answer(self, row: Row, answer: str) -> str | None:
        """Return the letter that the harness reads."""
        read = leading_letter if self.harness == "lmms" else easi_letter
        return read(answer) or None

    def groups(self, row: Row) -> Mapping[str, Sequence[str]]:
        """Return the data set that the picture is of: mp3d, ai2thor or scannet."""
        return {"data_source": (row.extra["data_source"],)}
