"""Our predictions as an lmms-eval sample log, so that lmms-eval's own vsibench aggregation can check our numbers.

One line per row as `lmms_eval --log_samples` writes it: `doc_id, target, filtered_resps, doc_hash, input` and, under
each metric's name, the benchmark row with `prediction` and its score (`accuracy`, or `MRA:.5:.95:.05`). To cross-check,
in an environment of its own (lmms-eval 0.7 needs another antlr4 than Hydra does):

    from lmms_eval.tasks.vsibench.utils import vsibench_aggregate_overall
    vsibench_aggregate_overall([json.loads(line)["vsibench_overall"] for line in open("lmms_samples.jsonl")])

Source: lmms-eval commit 75571cf, lmms_eval/evaluator.py, loggers/evaluation_tracker.py, tasks/vsibench/utils.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vsgrpo.data.prompts import option_lines
from vsgrpo.data.row import Row
from vsgrpo.evaluation.benchmark import PromptSettings
from vsgrpo.evaluation.vsibench_scores import row_item, scored_text
from vsgrpo.files import write_atomic
from vsgrpo.spatial.scoring import score

METRICS = (
    "vsibench_overall",
    "obj_appearance_order_accuracy",
    "object_abs_distance_mra",
    "object_counting_mra",
    "object_rel_distance_accuracy",
    "object_size_estimation_mra",
    "room_size_estimation_mra",
    "route_planning_accuracy",
    "object_rel_direction_accuracy",
)


def write_lmms_samples(
    path: Path, rows: Sequence[Row], predictions: Mapping[str, Sequence[str | None]], prompt: PromptSettings
) -> int:
    """Write the sample log of the answered rows (of several samples the first) and return how many they are."""
    lines = []
    for number, row in enumerate(rows):
        text = next((text for text in predictions.get(row.id, ()) if text is not None), None)
        if text is not None:
            lines.append(json.dumps(_sample(number, row, text, prompt), ensure_ascii=False) + "\n")
    write_atomic(path, "".join(lines))
    return len(lines)


def _sample(number: int, row: Row, text: str, prompt: PromptSettings) -> dict[str, Any]:
    read = scored_text(row_item(row, (text,)), text, prompt) or ""
    doc = {
        "id": int(row.id) if row.id.isdecimal() else row.id,
        "dataset": row.dataset,
        "scene_name": row.scene_name,
        "question_type": row.question_type,
        "question": row.question,
        "ground_truth": row.ground_truth,
        "options": None if row.options is None else option_lines(row.options),
    }
    identity = hashlib.sha256(json.dumps(doc, indent=2, ensure_ascii=False).encode()).hexdigest()
    metric = "accuracy" if row.answer_kind == "choice" else "MRA:.5:.95:.05"
    scored = {**doc, "prediction": read, metric: score("lmms", row.question_type, read, row.ground_truth)}
    return {
        "doc_id": number,
        "target": row.ground_truth,
        "filtered_resps": read,
        "resps": [text],
        "doc_hash": identity,
        **dict.fromkeys(METRICS, scored),
        "input": prompt.text(row),
    }
