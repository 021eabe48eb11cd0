"""How long 10,000 multiple-choice predictions take to score with 95 % intervals, and which share each step has.

    python scripts/bench_scoring.py [--questions N] [--scenes N]

Rows of ReVSI's form and answers to them are made here; `vsgrpo score PREDICTIONS benchmark=revsi benchmark.path=ROWS`
is run in this process, then its steps one by one. "alone" has a scene for each question, the widest table there is to
resample.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vsgrpo.evaluation.accuracy import Scored, make_cells
from vsgrpo.evaluation.benchmarks.revsi import ReVsi
from vsgrpo.evaluation.score_command import score_command

OPTIONS = ["A. sofa", "B. lamp", "C. table", "D. bed"]
TYPES = ("object_rel_distance_closest", "object_rel_distance_farthest", "route_planning")


def write_files(folder: Path, questions: int, scenes: int) -> tuple[Path, Path]:
    """Write rows and predictions; return their paths."""
    draw = random.Random(0)
    rows, answers = folder / "test.jsonl", folder / "predictions.jsonl"
    with rows.open("w") as row_stream, answers.open("w") as answer_stream:
        for number in range(questions):
            row = {
                "id": f"q{number}",
                "num_frames": 32,
                "scene_id": f"scene{number % scenes:04d}_00",
                "question": f"Question {number}: which is it?",
                "question_type": draw.choice(TYPES),
                "options": OPTIONS,
                "ground_truth": draw.choice("ABCD"),
            }
            row_stream.write(json.dumps(row) + "\n")
            answer_stream.write(json.dumps({"id": f"q{number}", "prediction": draw.choice("ABCD")}) + "\n")
    return rows, answers


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU seconds that a call takes, which other work on the machine does not change, and its result."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def main() -> None:
    """Print CPU seconds and shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--scenes", type=int, default=400)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows, answers = write_files(Path(name), given.questions, given.scenes)
        whole, report = timed(lambda: score_command([str(answers), "benchmark=revsi", f"benchmark.path={rows}"]))
        reading, benchmark = timed(lambda: ReVsi.read(rows))
    said = {row.id: "A" for row in benchmark.rows}
    scoring, _ = timed(lambda: [benchmark.score(row, said[row.id]) for row in benchmark.rows])
    scored = [Scored(row.question_type, benchmark.scene(row), 1.0, 0.25) for row in benchmark.rows]
    table, _ = timed(lambda: make_cells(scored, benchmark.tasks))
    alone = [Scored(question.question_type, str(number), 1.0, 0.25) for number, question in enumerate(scored)]
    widest, _ = timed(lambda: make_cells(alone, benchmark.tasks))
    print(f"{given.questions} questions of {report.num_scenes} scenes, overall {100 * report.overall:.1f}")
    print(f"score command: {whole:.2f} CPU seconds ({given.questions / whole:,.0f} questions/s)")
    for step, seconds in (("rows read", reading), ("answers scored", scoring), ("one table", table)):
        print(f"  {step:<16}{seconds:>6.2f} s {100 * seconds / whole:>5.0f} % of it")
    print(
        f"  one table, a scene for each question: {widest:.2f} s, {widest / table:.1f} x that of {given.scenes} scenes"
    )


if __name__ == "__main__":
    main()
