"""Print one table of the demo or the study: per task the best constant, then each run greedy, sampled, shuffled.

Usage: demo_table.py --constants TRAIN.jsonl --rows TEST.jsonl NAME=RUN_DIR ...
A run folder holds eval_greedy/, eval_sampled/ and eval_shuffled/ of `vsgrpo eval`. Scores are MRA in percent.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from vsgrpo.data.row import Row
from vsgrpo.data.rows import read_rows
from vsgrpo.evaluation.constants import best_constants, constant_scores

SHORT = {"object_counting": "count", "room_size_estimation": "room size", "overall": "mean"}


def scores_of(folder: Path) -> dict[str, float] | None:
    """Return the scores in a results.json, None where that evaluation was not run."""
    path = folder / "results.json"
    return json.loads(path.read_text(encoding="utf-8"))["scores"] if path.is_file() else None


def answered(rows: Sequence[Row], *evaluations: Path) -> list[Row]:
    """Return the rows that the first of some evaluations that was run answered; all where none was.

    An evaluation leaves out rows that its frames do not make true: what is compared with its scores is of those left.
    """
    for folder in evaluations:
        if (path := folder / "predictions.jsonl").is_file():
            with path.open(encoding="utf-8") as lines:
                ids = {json.loads(line)["id"] for line in lines}
            return [row for row in rows if row.id in ids]
    return list(rows)


def table(constants_from: Path, rows_from: Path, runs: list[tuple[str, Path]]) -> tuple[list[str], list[list[str]]]:
    """Return header and body."""
    rows = answered(read_rows(rows_from), *(folder / "eval_greedy" for _, folder in runs))
    constants = best_constants(read_rows(constants_from))
    constant = constant_scores(rows, constants)
    tasks = [*sorted(name for name in constant if name != "overall"), "overall"]
    kinds = ("greedy", "sampled", "shuffled")
    header = ["held-out rooms, MRA %", *(f"{SHORT.get(t, t)} {kind}" for t in tasks for kind in kinds)]
    body = [["best constant", *(f"{100 * constant[t]:.1f}" if k == "greedy" else "" for t in tasks for k in kinds)]]
    for name, folder in runs:
        found = {kind: scores_of(folder / f"eval_{kind}") for kind in kinds}
        cells = [found[k][t] if found[k] is not None else None for t in tasks for k in kinds]  # type: ignore[index]
        body.append([name, *("" if cell is None else f"{100 * cell:.1f}" for cell in cells)])
    return header, body


def main() -> None:
    """Parse arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--constants", type=Path, required=True, help="rows the constants are chosen on")
    parser.add_argument("--rows", type=Path, required=True, help="rows that were scored")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN_DIR")
    options = parser.parse_args()
    runs = [(name, Path(folder)) for name, _, folder in (item.partition("=") for item in options.runs)]
    header, body = table(options.constants, options.rows, runs)
    if options.markdown:
        print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
        print("\n".join("| " + " | ".join(line) + " |" for line in body))
        return
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
    for line in [header, *body]:
        print(
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
        )
    print(
        "shuffled: every question is shown the video of another room; a score near or below the constant means\n"
        "that the answers come from the video. What these numbers may and may not be taken to show: docs/demo_study.md."
    )


if __name__ == "__main__":
    main()
