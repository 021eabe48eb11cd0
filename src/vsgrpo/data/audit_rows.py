"""Rows for the audit: of a dataset folder, of VSI-Bench as downloaded, or of any file with questions and answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vsgrpo.audit.rows import AuditRow
from vsgrpo.data.importing.answer_values import Refused
from vsgrpo.data.importing.record_to_row import record_to_row
from vsgrpo.data.row import LETTERS, Row
from vsgrpo.data.rows import row_from_dict
from vsgrpo.errors import DataError
from vsgrpo.records import read_records
from vsgrpo.terminal import counted

_SUFFIXES = (".jsonl", ".json", ".parquet")
_FIRST = ("train", "test")
HIDDEN_OPTIONS = "vsi100k"
"""Mode whose questions are asked without options: a letter is no answer there."""


@dataclass
class RowsToAudit:
    """The rows of a file, and what was left out.

    Attributes:
        file: where they are from.
        left_out: reason -> rows.
    """

    file: Path
    rows: list[AuditRow]
    left_out: dict[str, int] = field(default_factory=dict)


def audit_row(row: Row) -> AuditRow | None:
    """Return what the audit sees of a row, None where the answer is free text or a map."""
    if row.answer_kind in ("text", "map"):
        return None
    right = LETTERS.index(row.ground_truth) if row.answer_kind == "choice" else None
    return AuditRow(
        id=row.key,
        question_type=row.question_type,
        scene=f"{row.dataset}/{row.room}",
        question=row.question,
        options=row.options,
        answer=row.answer if right is not None else row.ground_truth,
        right=right,
        has_letters=row.generator.get("mode") != HIDDEN_OPTIONS,
    )


def audit_rows_of(rows: Iterable[Row]) -> list[AuditRow]:
    """Return what the audit sees of rows; those with free text as answer are left out."""
    return [found for row in rows if (found := audit_row(row)) is not None]


def read_audit_rows(path: Path) -> RowsToAudit:
    """Read the rows of a file, or of a folder (`train`, else `test`, else its only row file).

    Rows of other projects are read as `import-data` reads them, VSI-Bench's among them; what cannot be read is counted.

    Raises:
        DataError: no such file, none or several in the folder, a broken line of ours, or no row to audit.
    """
    file = _row_file(path)
    rows: list[AuditRow] = []
    left_out: Counter[str] = Counter()
    for number, (where, data) in enumerate(read_records(file, nan="null")):
        try:
            row = any_row(data, where)
            found = audit_row(row)
        except Refused as error:
            left_out[error.reason] += 1
            continue
        if found is None:
            left_out["an answer of free text" if row.answer_kind == "text" else "a map"] += 1
        else:
            rows.append(_named(found, data, number))
    if not rows:
        reasons = (
            "; ".join(f"{counted(number, 'row')}: {reason}" for reason, number in left_out.items()) or "it is empty"
        )
        hint = "a row has a question, its answer (options for a choice) and the scene: see docs/trust.md"
        raise DataError(f"{file}: no row can be audited ({reasons})", hint)
    return RowsToAudit(file, rows, dict(left_out.most_common()))


def any_row(data: Any, where: str) -> Row:
    """Return the row of a record of ours or of another project.

    Raises:
        DataError: one of ours that breaks the schema.
        Refused: one of another project that cannot be taken.
    """
    if isinstance(data, dict) and "schema_version" in data:
        return row_from_dict(data, where)
    return record_to_row(data, "imported").row


def _named(found: AuditRow, data: Any, number: int) -> AuditRow:
    """Return the row under the id it has in its file, if that is another project's; of none, by its place."""
    if "schema_version" in data:
        return found
    return replace(found, id=str(data.get("id", number)))


def _row_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    there = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    there = [file for file in there if file.name not in ("manifest.json", "config.json", "info.json")]
    for name in _FIRST:
        own = [file for file in there if file.stem == name or file.stem.startswith(f"{name}-")]
        if len(own) == 1:
            return own[0]
    if len(there) == 1:
        return there[0]
    named = ", ".join(file.name for file in there) or "no row file"
    raise DataError(f"{path}: which rows? (there: {named})", "give the file itself")
