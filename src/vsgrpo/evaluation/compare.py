"""One table of several evaluations of the same rows, with the scores that need no eyes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vsgrpo.data.manifest import read_json_object
from vsgrpo.errors import DataError
from vsgrpo.evaluation.outputs import RESULTS_NAME
from vsgrpo.evaluation.report import score_table
from vsgrpo.evaluation.results import SCHEMA_VERSION

WITHOUT_MODEL = ("chance", "most frequent", "best constant")


def read_results(folder: Path | str) -> dict[str, Any]:
    """Read results.json of an evaluation folder; DataError where it is missing or of another schema."""
    return read_json_object(Path(folder) / RESULTS_NAME, SCHEMA_VERSION, "run `vsgrpo eval` into this folder")


def compare_table(named: Sequence[tuple[str, Path | str]], title: str = "") -> str:
    """Return the table of evaluations (name, output folder), the best constant and chance first.

    Raises:
        DataError: a folder without results, or evaluations of different rows.
    """
    results = [(name, read_results(folder), folder) for name, folder in named]
    if not results:
        raise ValueError("nothing to compare")
    first = results[0][1]
    for _, result, folder in results:
        if result["benchmark"]["rows"] != first["benchmark"]["rows"] or result["n"] != first["n"]:
            raise DataError(
                f"{Path(folder) / RESULTS_NAME}: {result['title']}: other rows than {first['title']}",
                "compare evaluations of the same rows",
            )
    blind = [(name, first["controls"][name]) for name in WITHOUT_MODEL if name in first["controls"]]
    lines = [*blind, *((name, result["scores"], result.get("intervals", {})) for name, result, _ in results)]
    table = score_table(lines, first["n_by_task"], title or first["title"])
    verdicts = [(name, result.get("leak", {}).get("verdict", "unknown")) for name, result, _ in results]
    notes = [f"note: leak check of {name}: {verdict}" for name, verdict in verdicts if verdict != "clean"]
    return "\n".join([table, *notes])
