"""Predictions files of any make, one line (or list entry) at a time, and the questions that they answer.

- ours and plain ones: {"id", "prediction"}, or {"question_type", "ground_truth", "prediction"} that need no rows;
- lmms-eval sample logs (`--log_samples`): the benchmark row with its `prediction` is under each metric's name
  (older ones: `vsibench_score`), or `doc` beside `filtered_resps`;
- Video-R1's eval files ({"results": [...]}): `problem`, `path`, `solution` and the model's `output` with `<answer>`;
- result lists with the answer under another name (`raw_answer`, `response`, `extracted_answer`, ...), the questions of
  one video in a list of their own, or entries by their id;
- tables (.csv, .tsv) with these names as columns. An empty cell is an empty answer: no answer cannot be told from it.
Lines that name neither id nor question type are joined to the benchmark's rows by scene and question.

Source: lmms-eval commit 75571cf, lmms_eval/evaluator.py, loggers/evaluation_tracker.py, tasks/vsibench/utils.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from vsgrpo.data.importing.answer_values import Refused, read_options
from vsgrpo.data.importing.record_names import NAMES, first
from vsgrpo.data.importing.record_to_row import read_answer
from vsgrpo.data.importing.scene_ids import dataset_of
from vsgrpo.data.importing.type_names import question_type_of
from vsgrpo.data.row import LETTERS, Row, check_map, number_of
from vsgrpo.errors import DataError
from vsgrpo.evaluation.scores import Item, row_item
from vsgrpo.loose_records import read_tsv
from vsgrpo.records import read_json, read_jsonl
from vsgrpo.spatial.answers import parse_answer
from vsgrpo.spatial.question_types import QUESTION_TYPES, answer_kind_of, type_names
from vsgrpo.terminal import counted

TEXT_FIELDS = ("prediction", "output", "raw_answer", "response", "model_output", "model_answer", "generated_text")
TEXT_FIELDS += ("pred", "pred_answer", "model_response", "extracted_answer")
"""Fields that may hold a model's answer, in the order of looking: its own words before what others read in them."""
_TRUTHS = ("ground_truth", "solution", "gt_answer", "gt", "answer", "target")
_NESTED = ("questions", "qa", "qas", "qa_pairs", "items", "predictions", "results", "answers", "data")
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
    return sum(line.text is not None and "</answer>" in line.text.partition("<answer>")[2] for line in lines)


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix.lower() in (".csv", ".tsv"):
        for where, row in read_tsv(path):
            yield where, {name: value or "" if name in TEXT_FIELDS else value for name, value in row.items()}
        return
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
        text = tagged.text if (tagged := parse_answer(text, "think")).is_tagged else text
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
        hint = "number the answers to one row"
        raise DataError(f"{where}: sample={sample!r}: must be a whole number or a name", hint)
    identity = _text(None if video_r1 else first(data, ("id", "question_id")))
    return Line(where, identity, sample, text, kind, _text(truth), options, _scene(data), question)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _question_type(data: Mapping[str, Any], question: str | None) -> str | None:
    """Return VSI-Bench's name of the type where a column or the sentence says it; else what the column says."""
    given = first(data, NAMES["question_type"])
    kind = question_type_of(question or "", given)
    if kind in QUESTION_TYPES:
        return kind
    return given if isinstance(given, str) else None


def _truth(data: Mapping[str, Any], kind: str, question: str, truth: Any) -> tuple[str, tuple[str, ...] | None]:
    """Return the right letter or number, and the words of the options."""
    if isinstance(truth, str) and (tagged := parse_answer(truth, "think")).is_tagged:
        truth = tagged.text
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


def join_rows(lines: Sequence[Line], rows: Iterable[Row], rows_path: Path | str) -> list[Item]:
    """Return the questions of `rows` with their answers; of a row no more is kept than scoring asks for.

    Raises:
        DataError: a line of none of the rows, or two lines of one.
    """
    items: dict[str, Item] = {}
    asked: dict[str, list[tuple[str, str]]] = {}
    by_question = any(line.question is not None and line.scene is not None for line in lines)
    for row in rows:
        item = items[row.id] = row_item(row, ())
        if by_question:
            asked.setdefault(item.scene, []).append((row.id, row.question))
    if not items:
        raise DataError(f"{rows_path}: no rows", "give the rows these predictions are of")
    grouped: dict[str, list[str | None]] = {}
    used: dict[tuple[str, Any], str] = {}
    for line in lines:
        name = _find(line, items, asked, rows_path)
        refuse_second(line, name, used)
        grouped.setdefault(name, []).append(line.text)
    return [replace(item, texts=tuple(grouped.get(name, ()))) for name, item in items.items()]


def unknown_id(line: Line, rows_path: Path | str) -> DataError:
    """Return the error of a line whose id is in none of the rows."""
    return DataError(f"{line.where}: id={line.id}: not in {rows_path}", "give the rows these predictions are of")


def refuse_second(line: Line, name: str, used: dict[tuple[str, Any], str]) -> None:
    """Note in `used` (id and sample -> where) that a line answers `name`; DataError where another line does so too.

    A line without a sample is the only answer, so none with one may stand beside it (`...`: any sample).
    """
    where = used.setdefault((name, line.sample), line.where)
    if where == line.where:
        where = used.get((name, ... if line.sample is None else None), where)
    if line.sample is not None:
        used.setdefault((name, ...), line.where)
    if where != line.where:
        place = where.rpartition(":")[2].strip()
        first = f"line {place}" if place.isdigit() else place  # of a JSON list: "entry 3"
        raise DataError(f"{line.where}: id={name}: already in {first}", "keep one line per id")


def _find(
    line: Line, known: Mapping[str, Item], asked_in: Mapping[str, list[tuple[str, str]]], rows_path: Path | str
) -> str:
    """Return the id of the row that a line answers: by its id, else by scene and question."""
    if line.id in known or line.question is None or line.scene is None:
        if line.id is None or line.id not in known:
            raise unknown_id(line, rows_path)
        return line.id
    asked = " ".join(line.question.split())
    candidates = [(name, " ".join(question.split())) for name, question in asked_in.get(line.scene or "", [])]
    found = [name for name, question in candidates if question == asked]
    found = found or [name for name, question in candidates if question in asked]
    if len(found) != 1:
        what = "no row" if not found else counted(len(found), "row")
        raise DataError(
            f"{line.where}: {what} of {line.scene} ask {asked[:60]!r}", f"give the rows: {rows_path} has others"
        )
    return found[0]


def carried_questions(lines: Sequence[Line]) -> list[Item]:
    """Return the questions of lines that carry question type and ground truth; DataError where one does not."""
    items: dict[str, Item] = {}
    texts: dict[str, list[str | None]] = {}
    used: dict[tuple[str, Any], str] = {}
    for number, line in enumerate(lines, start=1):
        kind, truth = line.question_type, line.ground_truth
        if kind is None or truth is None:
            hint = "give the rows: benchmark.path=ROWS.jsonl"
            raise DataError(f"{line.where}: has no question_type and ground_truth", hint)
        _check_truth(line.where, kind, truth)
        name = line.id or str(number)
        refuse_second(line, name, used)
        items.setdefault(name, Item(name, kind, truth, line.options, line.scene or name, ()))
        texts.setdefault(name, []).append(line.text)
    return [replace(item, texts=tuple(texts[name])) for name, item in items.items()]


def _check_truth(where: str, question_type: str, truth: str) -> None:
    answer_kind = answer_kind_of(question_type)
    if answer_kind is None:
        hint = f"the types are {', '.join(type_names())}"
        raise DataError(f"{where}: question_type={question_type!r}: unknown question type", hint)
    if answer_kind == "choice" and (len(truth) != 1 or truth.upper() not in LETTERS):
        raise DataError(f"{where}: ground_truth={truth!r}: must be a letter of {LETTERS}", "give the option's letter")
    if answer_kind == "map":
        check_map("ground_truth", truth, where)
    if answer_kind == "number" and number_of(truth) is None:
        raise DataError(f"{where}: ground_truth={truth!r}: must be a number above 0", "scores are relative to it")
