"""3DSRBench: questions about heights, places, orientations and pairs of objects in pictures, each asked several times.

`3dsrbench_v1_vlmevalkit_circular.tsv` as downloaded: {index, qid, question, A, B, C, D, answer, category, image
(base64), image_source, image_url}. A qid is 8 characters; "-flip" marks the mirrored picture with its question,
"-N" another order of the options. Circular evaluation: a question counts as right if it is in every order of its
options (qid without "-N"); the mean over these is the score. Beside it stand the other means: every row by itself
(vanilla), a row with its mirrored one (flip), and all rows of a question (flip and circular).

benchmark.harness:
- official, easi: VLMEvalKit's prompt; `vlmevalkit_letter`. The authors ask a model about answers that it cannot read.
- lmms: the same prompt; the first letter by a list of patterns.

Source: arXiv 2412.07825; Hugging Face ccvl/3DSRBench (compute_3drbench_results_circular.py); VLMEvalKit e8e78f05,
vlmeval/dataset/image_mcq.py; lmms-eval 75571cf, lmms_eval/tasks/3dsrbench.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vsgrpo.data.row import Row
from vsgrpo.errors import DataError
from vsgrpo.evaluation.accuracy import Accuracy, Cell, Published, Scored, make_cells
from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.evaluation.benchmarks.blink import selected_text
from vsgrpo.evaluation.export_names import ExportNames, suffixed
from vsgrpo.evaluation.row_files import letter_of, question_row, records, text_of
from vsgrpo.evaluation.unpacking import PACKED
from vsgrpo.spatial.vlmevalkit_answers import vlmevalkit_letter

_TYPES = {
    "height": ("height_higher",),
    "location": ("location_above", "location_closer_to_camera", "location_next_to"),
    "orientation": ("orientation_in_front_of", "orientation_on_the_left", "orientation_viewpoint"),
    "multi_object": (
        "multi_object_closer_to",
        "multi_object_facing",
        "multi_object_viewpoint_towards_object",
        "multi_object_parallel",
        "multi_object_same_direction",
    ),
}
_TYPE_OF = {category: kind for kind, categories in _TYPES.items() for category in categories}
_ORDER = re.compile(r"-\d$")
_LMMS = tuple(
    map(
        re.compile,
        (
            r"^([A-D])(?:[.\s)]|$)",
            r"[Aa]nswer[:\s]+([A-D])",
            r"[Tt]he answer is[:\s]+([A-D])",
            r"[Mm]y answer is[:\s]+([A-D])",
            r"\(([A-D])\)",
            r"([A-D])\.",
            r"\b([A-D])\b",
        ),
    )
)
_OTHER_MEANS: dict[str, Callable[[str], str]] = {
    "vanilla": lambda qid: qid,
    "flip": lambda qid: qid.replace("-flip", ""),
    "flip and circular": lambda qid: qid[:8],
}
"""Mean -> of a qid, what names the rows that must be right together."""
_EASI = "EASI 0c1a41e, docs/Benchmark_Verification.md"
_THINKER = "SpatialThinker (arXiv 2511.07403), as EASI has it"


class ThreeDsr(Benchmark):
    """3DSRBench's circular evaluation; see the module's docstring."""

    title = "3DSRBench"
    suffixes = (".tsv",)
    columns = ("qid", "question", "A", "B", "C", "D", "answer", "category")
    packed = ("image",)
    question_types = tuple(_TYPE_OF)
    harnesses = ("official", "easi", "lmms")
    headline = "micro"
    scorer = "VLMEvalKit's letter; right in every order of the options"
    export_names = (
        ExportNames(
            "3dsrbench_circular",
            "vanilla_accuracy",
            mean="rows/overall",
            metrics={**suffixed("rows", _TYPE_OF, "_accuracy"), "circular_accuracy": "overall"},
            easi="3dsrbench",
            easi_scores={**{name: f"{name}_accuracy" for name in _TYPE_OF}, "circ_eval_overall": "circular_accuracy"},
        ),
    )
    published = (
        Published("Qwen2.5-VL-7B", 0.484, _THINKER),
        Published("Qwen2.5-VL-7B by VLMEvalKit", 0.4751, _EASI),
        Published("Qwen2.5-VL-7B by lmms-eval", 0.4764, _EASI),
        Published("Qwen2.5-VL-3B", 0.439, _THINKER),
        Published("Qwen2.5-VL-3B by VLMEvalKit", 0.4345, _EASI),
    )

    @classmethod
    def row(cls, data: dict[str, Any], where: str) -> Row:
        """Return the row of a record; options C and D may be empty."""
        name, question, category = (text_of(data, column, where) for column in ("qid", "question", "category"))
        options = [data[x] for x in "ABCD" if data[x]]
        if [x for x in "ABCD" if data[x]] != list("ABCD"[: len(options)]) or len(options) < 2:
            problem = f"A, B, C, D={options}: there must be two or more, none left out"
            raise DataError(f"{where}: {problem}", "download it again")
        letter = letter_of(data, "answer", "ABCD"[: len(options)], where)
        return question_row(
            name,
            question,
            options["ABCD".index(letter)],
            [("image", PACKED)],
            dataset="3dsrbench",
            question_type=category,
            options=options,
            ground_truth=letter,
            scene_name=name[:8],
        )

    @classmethod
    def packed_pictures(cls, file: Path, ids: Collection[str]) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield (qid, its picture) of the row file."""
        for _, data in records(file, ("qid", "image"), cls.title):
            yield data["qid"], [data["image"]]

    def official_text(self, row: Row) -> str:
        """Return VLMEvalKit's prompt."""
        return selected_text(row.question, row.options or ())

    def read_answer(self, row: Row, answer: str) -> str | None:
        """Return the letter that the harness reads."""
        if self.harness == "lmms":
            return lmms_letter(answer) or None
        return vlmevalkit_letter(answer, row.options or ()) or None

    @classmethod
    def unit(cls, row: Row) -> str:
        """Return the qid without the number of its order: these rows are right together."""
        return _ORDER.sub("", row.id)

    def groups(self, row: Row) -> Mapping[str, Sequence[str]]:
        """Return the type of a category: height, location, orientation or multi_object."""
        return {"type": (_TYPE_OF[row.question_type],)}

    def remarks(self, settings: Mapping[str, Any] | None = None) -> list[str]:
        """Return the base's, and whether the file has no second order of any question."""
        notes = super().remarks(settings)
        if all(self.unit(row) == row.id for row in self.rows):
            notes.append("no question is in a second order of its options: this is not circular evaluation")
        return notes

    def table_of(self, scores: Mapping[str, float], **fields: Any) -> Accuracy:
        """Return the base's table with the other means, each over questions whose rows are all answered."""
        table = super().table_of(scores, **fields)
        means = {name: self._mean(scores, key) for name, key in _OTHER_MEANS.items()}
        return replace(table, cells={**table.cells, "other means": means})

    def _mean(self, scores: Mapping[str, float], key: Callable[[str], str]) -> Cell:
        """Return the mean over keys, where all rows of one key must be right together."""
        rows: dict[str, list[Row]] = {}
        for row in self.rows:
            rows.setdefault(key(row.id), []).append(row)
        whole = [own for own in rows.values() if all(row.id in scores for row in own)]
        scored = [
            Scored(own[0].question_type, self.scene(own[0]), min(float(scores[row.id]) for row in own)) for own in whole
        ]
        return make_cells(scored, {})["means"]["micro"]


def lmms_letter(answer: str) -> str:
    """Return the first letter A to D by lmms-eval's patterns; "" for none."""
    text = answer.strip()
    found = (pattern.search(text) for pattern in _LMMS)
    return next((match[1] for match in found if match), "")
