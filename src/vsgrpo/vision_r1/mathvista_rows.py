"""MathVista's files: questions as downloaded, predictions of any harness.

Questions: the parquet of Hugging Face, or the json / jsonl of the repository. Predictions: jsonl lines of {pid (or
id), prediction (or response)}, or the official json {pid: {response, ...}}.

Source: Hugging Face AI4Math/MathVista; github.com/lupantech/MathVista.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from vsgrpo.errors import DataError
from vsgrpo.paths import inside, path_fault, safe_name
from vsgrpo.records import read_json, read_records
from vsgrpo.vision_r1.questions import image_suffix, write_image

QUESTION_TYPES = ("multi_choice", "free_form")
ANSWER_TYPES = ("text", "integer", "float", "list")
_KINDS = {
    **dict.fromkeys(("pid", "answer"), (str, int, float)),
    **dict.fromkeys(("question", "query", "question_type", "answer_type", "image"), (str,)),
    "choices": (list, tuple),
    "precision": (int, float),
    "metadata": (dict,),
}
"""Types that the fields may have, where they are there."""
GROUPS = ("task", "skills", "question_type", "answer_type", "category", "source", "grade", "context", "language")


@dataclass(frozen=True)
class Problem:
    """One question of MathVista.

    Attributes:
        pid: its id.
        query: hint, question and choices, as models are shown.
        choices: of a multi_choice question, without letters; empty otherwise.
        precision: decimals of a float answer, else None.
        answer: the ground truth as text (of multi_choice: the choice itself).
        image: path or name of the image.
        groups: per name of GROUPS the values that the question counts under.
    """

    pid: str
    query: str
    choices: tuple[str, ...]
    question_type: str
    answer_type: str
    precision: int | None
    answer: str
    image: str
    groups: Mapping[str, tuple[str, ...]]


def read_problems(path: Path | str) -> list[Problem]:
    """Read the questions: testmini parquet, json {pid: {...}} or jsonl, or the folder that holds one of them.

    Raises:
        DataError: missing or broken file, a question without a needed field, no answers (the test split), or an id
            used twice.
    """
    file = find_file(Path(path))
    problems = [parse_problem(data, where) for where, data in _records(file)]
    if not problems:
        raise DataError(f"{file}: no question in it", "download it again")
    seen: set[str] = set()
    for problem in problems:
        if problem.pid in seen:
            _fail(str(file), f"pid={problem.pid}: used twice")
        seen.add(problem.pid)
    return problems


def find_file(path: Path) -> Path:
    """Return testmini itself: the file, or the one that a folder holds; DataError where there is none, or several."""
    if path.is_file():
        if path.suffix not in (".parquet", ".json", ".jsonl"):
            raise DataError(f"benchmark.path={path}: not a .parquet, .json or .jsonl file", "give testmini itself")
        return path
    found = sorted(f for f in path.rglob("testmini*") if f.suffix in (".parquet", ".json", ".jsonl"))
    if len(found) != 1:
        named = ", ".join(str(file.relative_to(path)) for file in found) or "none"
        raise DataError(f"benchmark.path={path}: holds no single testmini file ({named})", "give the file itself")
    return found[0]


def _records(file: Path) -> Iterator[tuple[str, Any]]:
    if file.suffix == ".json":
        content = read_json(file, "download it again")
        if not isinstance(content, dict | list):
            raise DataError(f"{file}: neither an object {{pid: ...}} nor a list", "download it again")
        entries = content.items() if isinstance(content, dict) else enumerate(content)
        yield from ((f"{file}:{key}", _with_pid(data, key, content)) for key, data in entries)
    else:  # pictures are hundreds of MB: `read_images`
        yield from read_records(file, first=0, skip={"decoded_image"})


def read_images(file: Path, pids: Collection[str], folder: Path) -> dict[str, Path]:
    """Write the pictures that the parquet carries (`decoded_image`) as FOLDER/PID.SUFFIX; return pid -> path.

    A few pictures are in memory at a time; those that are there already are left alone. A json file carries none.

    Raises:
        DataError: bytes that are no image, a file that is no parquet.
    """
    found: dict[str, Path] = {}
    if file.suffix != ".parquet":
        return found
    for _, data in read_records(file):
        pid, picture = str(data.get("pid")), data.get("decoded_image")
        content = picture.get("bytes") if isinstance(picture, dict) else picture
        if pid not in pids or content is None:
            continue
        content = content if isinstance(content, bytes) else b""
        suffix = image_suffix(content)
        if suffix is None:
            _fail(str(file), f"pid={pid}: decoded_image is no png, jpeg, webp, gif or bmp", "download it again")
        found[pid] = inside(folder, f"{safe_name(pid)}.{suffix}")
        write_image(found[pid], content)
    return found


def _with_pid(data: Any, key: Any, content: Any) -> Any:
    return {"pid": key, **data} if isinstance(content, dict) and isinstance(data, dict) else data


def parse_problem(data: Any, where: str) -> Problem:
    """Check one question's object; DataError says `where` and which field is wrong."""
    if not isinstance(data, dict):
        _fail(where, "a question is an object")
    for name in ("pid", "question", "question_type", "answer_type", "answer"):
        if data.get(name) is None:
            hint = "the test split has no public answers: use testmini" if name == "answer" else ""
            _fail(where, f"{name} is missing", hint)
    for name, kinds in _KINDS.items():
        value = data.get(name)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            _fail(where, f"{name}={str(value)[:60]!r}: must be {' or '.join(kind.__name__ for kind in kinds)}")
    question_type, answer_type = data["question_type"], data["answer_type"]
    if question_type not in QUESTION_TYPES:
        _fail(where, f"question_type={question_type!r}: must be one of {', '.join(QUESTION_TYPES)}")
    if answer_type not in ANSWER_TYPES:
        _fail(where, f"answer_type={answer_type!r}: must be one of {', '.join(ANSWER_TYPES)}")
    choices = tuple(str(choice) for choice in data.get("choices") or ())
    if question_type == "multi_choice" and str(data["answer"]) not in choices:
        _fail(where, f"answer={data['answer']!r}: not among the choices {list(choices)}")
    precision = data.get("precision")
    if precision is not None and (not math.isfinite(precision) or precision != int(precision) or precision < 0):
        _fail(where, f"precision={precision}: must be a number of decimals")
    image = str(data.get("image") or "")
    if image and (fault := path_fault(image)) is not None:
        _fail(where, f"image={image[:60]!r}: {fault}; it must be below the folder of the file")
    if answer_type == "float" and question_type == "free_form" and precision is None:
        _fail(where, "precision is missing: float answers are rounded to it")
    metadata = data.get("metadata") or {}
    merged = {**metadata, "question_type": question_type, "answer_type": answer_type}
    return Problem(
        pid=str(data["pid"]),
        query=str(data.get("query") or data["question"]),
        choices=choices,
        question_type=question_type,
        answer_type=answer_type,
        precision=None if precision is None else int(precision),
        answer=str(data["answer"]),
        image=image,
        groups={name: _values(merged.get(name)) for name in GROUPS},
    )


def _values(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else (str(value),)


def read_responses(path: Path | str) -> dict[str, str]:
    """Read predictions, see the module's docstring; a null prediction is left out.

    Raises:
        DataError: missing or broken file, a line without id or prediction, an id used twice.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file}: no such file", "give a predictions file: lines of {pid, prediction}")
    responses: dict[str, str] = {}
    for where, data in _records(file):
        pid = data.get("pid", data.get("id")) if isinstance(data, dict) else None
        text = data.get("prediction", data.get("response")) if isinstance(data, dict) else None
        text = data["response"] if isinstance(data, dict) and isinstance(data.get("response"), str) else text
        if pid is None or (text is None and not {"prediction", "response"} & set(data)):
            _fail(where, "no pid or no prediction", "each line is {pid, prediction}")
        if str(pid) in responses:
            _fail(where, f"pid={pid}: used twice", "one prediction a question")
        if text is not None:
            responses[str(pid)] = str(text)
    return responses


def _fail(where: str, problem: str, hint: str = "") -> NoReturn:
    raise DataError(f"{where}: {problem}", hint or "compare with a question of MathVista's testmini")
