"""Predictions files of any make, one line (or list entry) at a time.

- ours and plain ones: {"id", "prediction"}, or {"question_type", "ground_truth", "prediction"} that need no rows;
- lmms-eval sample logs (`--log_samples`): the benchmark row with its `prediction` is under each metric's name
  (older ones: `vsibench_score`), or `doc` beside `filtered_resps`;
- Video-R1's eval files ({"results": [...]}): `problem`, `path`, `solution` and the model's `output` with `<answer>`;
- result lists with the answer under another name (`raw_answer`, `response`, `extracted_answer`, ...), the questions of
  one video in a list of their own, or entries by their id.
Lines that name neither id nor question type are joined to the benchmark's rows by scene and question.

Our own predictions are also written as a sample log of lmms-eval, so that its vsibench aggregation can check our
numbers, in an environment of its own (lmms-eval 0.7 needs another antlr4 than Hydra does):

    from lmms_eval.tasks.vsibench.utils import vsibench_aggregate_overall
    vsibench_aggregate_overall([json.loads(line)["vsibench_overall"] for line in open("lmms_samples.jsonl")])

Source: lmms-eval commit 75571cf, lmms_eval/evaluator.py, loggers/evaluation_tracker.py, tasks/vsibench/utils.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vsgrpo.data.importing.answer_values import Refused, read_options
from vsgrpo.data.importing.record_forms import NAMES, first, question_type_of
from vsgrpo.data.importing.record_to_row import dataset_of, read_answer
from vsgrpo.data.prompts import option_lines
from vsgrpo.data.row import LETTERS, Row, number_of
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import PromptSettings
from vsgrpo.evaluation.scores import row_item, scored_text
from vsgrpo.files import write_atomic
from vsgrpo.records import read_json, read_jsonl
from vsgrpo.spatial.question_types import QUESTION_TYPES, answer_kind_of
from vsgrpo.spatial.scoring import score

TEXT_FIELDS = ("prediction", "output", "raw_answer", "response", "model_output", "model_answer", "generated_text")
TEXT_FIELDS += ("pred", "pred_answer", "model_response", "extracted_answer")
"""Fields that may hold a model's answer, in the order of looking: its own words before what others read in them."""
_TRUTHS = ("ground_truth", "solution", "gt_answer", "gt", "answer", "target")
_NESTED = ("questions", "qa", "qas", "qa_pairs", "items", "predictions", "results", "answers", "data")
_TAG = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL)
_THINKS = re.compile(r"\s*<(think|observe)>")
_LMMS_METRICS = ("vsibench_overall", "vsibench_score")


@dataclass(frozen=True, slots=True)
class Line:
    """One prediction, as far as the file tells.

    Attributes:
        where: file and line, for messages.
        id: the row's, None where the file has none of the benchmark's.
        sample: which of several answers to one row; None for the only one.
        text: what the model said; None: unanswered.
        question_type, ground_truth, options, scene, question: of the row, where the file carries them.
    """

    where: str
    id: str | None
    sample: int | str | None
    text: str | None
    question_type: str | None = None
    ground_truth: str | None = None
    options: tuple[str, ...] | None = None
    scene: str | None = None
    question: str | None = None


def read_lines(path: Path, field: str | None = None) -> tuple[list[Line], list[str]]:
    """Read a predictions file; return its lines, and notes on how it was read.

    Args:
        field: where the model's answer is; dots lead into objects. None: the first of `TEXT_FIELDS` that is there.

    Raises:
        DataError: no such file, a broken or half-written line, a line without a prediction; names file and line.
    """
    used: Counter[str] = Counter()
    beside: dict[str, None] = {}
    lines = []
    for where, data in _entries(path):
        if not isinstance(data, dict):
            raise DataError(f"{where}: not an object", "each line is {id, prediction}")
        row = _lmms_row(data) if field is None else None
        name, text = ("prediction", row["prediction"]) if row is not None else _answer(data, field, where)
        used[name] += 1
        beside |= dict.fromkeys(other for other in TEXT_FIELDS if other in data and other != name)
        lines.append(_line(row or data, name, text, where, is_explicit=field is not None))
    if not lines:
        raise DataError(f"{path}: no predictions", "each line is {id, prediction}")
    others = [name for name in beside if name not in used]
    notes = []
    if field is None and (len(used) > 1 or others):
        named = ", ".join(f"`{name}` ({number})" for name, number in used.most_common())
        notes.append(f"the answers are those under {named}; field=NAME reads others: {', '.join(beside)}")
    return lines, notes


def thinks(lines: list[Line]) -> bool:
    """Tell whether the answers were asked for in `<answer>` tags: most texts begin with <think> or <observe>.

    The official scorer would give each of them 0 whatever they say.
    """
    texts = [line.text for line in lines if line.text is not None]
    return 2 * sum(_THINKS.match(text) is not None for text in texts) > len(texts)


def num_tagged(lines: Sequence[Line]) -> int:
    """Return how many answers hold a closed `<answer>` tag."""
    return sum(line.text is not None and _TAG.search(line.text) is not None for line in lines)


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix != ".json":
        for number, data in read_jsonl(path, nan="null"):
            yield from _flat(f"{path}:{number}", data)
        return
    content = read_json(path, "give a predictions file")
    found = content
    if isinstance(content, dict):
        found = next((content[name] for name in _NESTED if isinstance(content.get(name), list)), None)
        if found is None and content and all(isinstance(value, dict) for value in content.values()):
            found = [{"id": key, **value} for key, value in content.items()]
        elif found is None and content and all(isinstance(value, list) for value in content.values()):
            found = [{"scene_name": key, "questions": value} for key, value in content.items()]
    if not isinstance(found, list):
        raise DataError(f"{path}: neither a list nor {{'results': [...]}}", "one prediction per entry")
    for number, entry in enumerate(found, start=1):
        yield from _flat(f"{path}: entry {number}", entry)


def _flat(where: str, entry: Any) -> Iterator[tuple[str, Any]]:
    """Yield an entry, or the questions inside it, each with what the entry says of all of them."""
    if isinstance(entry, dict) and not any(name in entry for name in TEXT_FIELDS):
        name = next((n for n in _NESTED if isinstance(entry.get(n), list) and entry[n]), None)
        if name is not None and all(isinstance(inner, dict) for inner in entry[name]):
            shared = {key: value for key, value in entry.items() if key != name}
            for number, inner in enumerate(entry[name], start=1):
                yield f"{where}.{number}", {**shared, **inner}
            return
    yield where, entry


def _lmms_row(data: dict[str, Any]) -> dict[str, Any] | None:
    """Return the benchmark row with `prediction` inside a line of an lmms-eval sample log, None for other lines."""
    for name in (*_LMMS_METRICS, *data):
        row = data.get(name)
        if isinstance(row, dict) and "question_type" in row and "ground_truth" in row:
            answer = row.get("prediction", data.get("filtered_resps", data.get("resps")))
            while isinstance(answer, list) and answer:
                answer = answer[0]
            return {**row, "prediction": answer}
    return None


def _answer(data: dict[str, Any], field: str | None, where: str) -> tuple[str, Any]:
    """Return the name and the value of the field that holds the answer."""
    if field is not None:
        value: Any = data
        for part in (field,) if field in data else field.split("."):
            if not isinstance(value, dict) or part not in value:
                raise DataError(f"{where}: no field {field}", f"there are: {', '.join(list(data)[:20])}")
            value = value[part]
        return field, value
    name = next((name for name in TEXT_FIELDS if name in data), None)
    if name is None and "answer" in data and first(data, ("ground_truth", "solution", "gt_answer", "gt")) is not None:
        name = "answer"  # with the truth beside it, it is the model's
    if name is None:
        hint = "each line is {id, prediction}, or adds question_type, ground_truth; field=NAME reads another field"
        raise DataError(f"{where}: no `prediction`", hint)
    return name, data[name]


def _line(data: dict[str, Any], name: str, text: Any, where: str, is_explicit: bool) -> Line:
    is_value = isinstance(text, int | float) and not isinstance(text, bool)
    if is_value and (is_explicit or name not in ("prediction", "output")):
        text = str(text)
    if text is not None and not isinstance(text, str):
        raise DataError(f"{where}: {name}={text!r}: must be a string or null")
    video_r1 = "problem" in data and "path" in data
    if video_r1 and text is not None:
        # Where its decoding failed it wrote the answer "error": unanswered here.
        text = tagged[-1] if (tagged := _TAG.findall(text)) else text
        text = None if text == "error" else text
    names = tuple(other for other in _TRUTHS if other != name)
    truth, question = first(data, names), first(data, NAMES["question"])
    question = question if isinstance(question, str) else None
    kind = _question_type(data, question)
    options = None
    if kind is not None and truth is not None:
        truth, options = _truth(data, kind, question or "", truth)
    sample = data.get("sample")
    if sample is not None and (isinstance(sample, bool) or not isinstance(sample, int | str)):
        raise DataError(
            f"{where}: sample={sample!r}: must be a whole number or a name", "number the answers to one row"
        )
    identity = None if video_r1 else first(data, ("id", "question_id"))
    return Line(
        where,
        None if identity is None else str(identity),
        sample,
        text,
        kind,
        None if truth is None else str(truth),
        options,
        _scene(data),
        question,
    )


def _question_type(data: Mapping[str, Any], question: str | None) -> str | None:
    """Return VSI-Bench's name of the type where a column or the sentence says it; else what the column says."""
    given = first(data, NAMES["question_type"])
    kind = question_type_of((given,), None, question or "")
    if kind in QUESTION_TYPES:
        return kind
    return given if isinstance(given, str) else None


def _truth(data: Mapping[str, Any], kind: str, question: str, truth: Any) -> tuple[str, tuple[str, ...] | None]:
    """Return the right letter or number, and the words of the options."""
    truth = tagged[-1] if isinstance(truth, str) and (tagged := _TAG.findall(truth)) else truth
    given = first(data, NAMES["options"])
    is_choice = answer_kind_of(kind) == "choice"
    try:
        options = read_options(given) if is_choice else None
        is_letter = isinstance(truth, str) and len(truth) == 1 and truth.upper() in LETTERS
        if is_letter and options is not None and options.words:
            return truth, options.words
        if options is None and (is_choice or (isinstance(truth, str) and number_of(truth) is not None)):
            return str(truth), None
        values = read_answer(kind, question, (truth,), None, options)
    except Refused:
        return str(truth), None  # scoring without rows refuses it; with rows theirs count
    return values["ground_truth"], values["options"]


def _scene(data: Mapping[str, Any]) -> str | None:
    """Return dataset/scene, from columns or the video's path."""
    scene, path = first(data, NAMES["scene"]), first(data, NAMES["video"])
    place = PurePosixPath(path.replace("\\", "/")) if isinstance(path, str) else None
    if scene is None and place is None:
        return None
    given = first(data, NAMES["dataset"])
    if place is None:
        return f"{given or ''}/{scene}"
    dataset = dataset_of(given, (path,), place.parent.name)
    return f"{dataset}/{place.stem if scene is None else scene}"


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
