"""The checks of scripts/check_scorers.py: rows of each benchmark's form, made by us, and a harness's view of them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsgrpo.evaluation.benchmark import Benchmark, ReadOptions, find_benchmark
from vsgrpo.spatial.scoring import score as vsibench_score
from vsgrpo.vision_r1.mathvista_extract import normalize

Doc = Mapping[str, Any]
BOTH = ("prompts", "scores")
_OPTIONS = ["A. chair", "B. table", "C. bed", "D. sofa"]


def _same(doc: Doc) -> dict[str, Any]:
    return dict(doc)


def _unchanged(text: str) -> str:
    return text


@dataclass(frozen=True)
class Check:
    """One benchmark of ours against one task of a harness.

    Attributes:
        setting: ours: whose prompt and reader.
        claims: what must not differ: "prompts", "scores".
        doc: a row of our file -> the row as the harness's functions get it.
        prompt_of: what of a prompt is compared; media marks are not text.
        deviates: answers that we read otherwise on purpose (a `Deviation:` in the code); they are counted.
    """

    benchmark: str
    setting: str
    harness: str
    task: str
    claims: tuple[str, ...] = BOTH
    doc: Callable[[Doc], dict[str, Any]] = _same
    prompt_of: Callable[[str], str] = _unchanged
    deviates: Callable[[str], bool] | None = None


class Ours:
    """Our side of a check: the rows read as `vsgrpo eval` reads them."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._raw = ROWS[check.benchmark]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "test.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in self._raw))
            self._benchmark: Benchmark = find_benchmark(check.benchmark).read(file, ReadOptions(name=check.benchmark))

    def docs(self) -> list[dict[str, Any]]:
        """Return the rows as the harness gets them."""
        return [self._check.doc(row) for row in self._raw]

    def prompt(self, number: int) -> str:
        """Return our text of a row."""
        return self._benchmark.text(self._benchmark.rows[number])

    def score(self, number: int, answer: str) -> float:
        """Return our score of an answer to a row."""
        row = self._benchmark.rows[number]
        if self._check.benchmark == "vsibench":
            return vsibench_score(self._check.setting, row.question_type, answer, row.ground_truth)
        if self._check.benchmark == "mathvista":
            problem = self._benchmark.problems[row.id]  # type: ignore[attr-defined]
            return float(normalize(answer, problem) == problem.answer)
        return float(self._benchmark.score(row, answer))


def _vsibench_rows() -> list[dict[str, Any]]:
    questions: Sequence[tuple[str, str, list[str] | None]] = (
        ("object_counting", "4", None),
        ("object_abs_distance", "12.5", None),
        ("object_size_estimation", "3", None),
        ("room_size_estimation", "100.0", None),
        ("object_rel_distance", "B", _OPTIONS),
        ("object_rel_direction_easy", "A", _OPTIONS[:2]),
        ("object_rel_direction_medium", "C", _OPTIONS[:3]),
        ("object_rel_direction_hard", "D", _OPTIONS),
        ("route_planning", "C", _OPTIONS),
        ("obj_appearance_order", "A", _OPTIONS),
    )
    return [
        {
            "id": number,
            "dataset": "scannet",
            "scene_name": f"scene{number:04d}_00",
            "question_type": kind,
            "question": f"What of the {kind}?",
            "ground_truth": truth,
            "options": options,
        }
        for number, (kind, truth, options) in enumerate(questions)
    ]


def _mathvista_rows() -> list[dict[str, Any]]:
    questions: Sequence[tuple[str, str, str, list[str] | None, float | None]] = (
        ("multi_choice", "text", "chair", ["chair", "table", "bed"], None),
        ("multi_choice", "text", "3", ["12.5", "3", "4", "0"], None),
        ("free_form", "integer", "3", None, None),
        ("free_form", "float", "12.5", None, 1.0),
        ("free_form", "float", "0.50", None, 2.0),
        ("free_form", "list", "[3, 4]", None, None),
        ("free_form", "text", "A", None, None),
    )
    return [
        {
            "pid": str(number),
            "question": "Which?",
            "query": "Hint: none.\nQuestion: Which?",
            "image": f"images/{number}.png",
            "choices": choices,
            "unit": None,
            "precision": precision,
            "answer": answer,
            "question_type": kind,
            "answer_type": answer_type,
            "metadata": {"task": "figure question answering", "skills": ["arithmetic reasoning"]},
        }
        for number, (kind, answer_type, answer, choices, precision) in enumerate(questions, start=1)
    ]


def _whole_precision(doc: Doc) -> dict[str, Any]:
    return {**doc, "precision": None if doc["precision"] is None else int(doc["precision"])}


def _is_blank(answer: str) -> bool:
    return not answer.strip()


def _vlm_vsibench(doc: Doc) -> dict[str, Any]:
    options = doc["options"]
    video = f"{doc['dataset']}/{doc['scene_name']}.mp4"
    return {**doc, "answer": doc["ground_truth"], "candidates": options and repr(options), "video": video}


def _without_media(text: str) -> str:
    return text.replace("<video>", "").replace("<image>", "").strip("\n")


ROWS: dict[str, list[dict[str, Any]]] = {"vsibench": _vsibench_rows(), "mathvista": _mathvista_rows()}
CHECKS = (
    Check("vsibench", "official", "thinking-in-space", "vsibench"),
    Check("vsibench", "lmms", "lmms-eval", "vsibench"),
    Check("vsibench", "official", "lmms-eval", "vsibench", claims=("prompts",)),
    Check("mathvista", "extracted", "lmms-eval", "mathvista", ("scores",), _whole_precision, deviates=_is_blank),
    Check("vsibench", "official", "VLMEvalKit", "VSI-Bench", (), _vlm_vsibench, _without_media),
)
