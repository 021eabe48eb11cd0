"""Hold our prompts and scorers against the code of the harnesses that labs report with.

The harnesses live in an environment of their own, never in ours (docs/benchmarks.md says how to make it):

    python scripts/check_scorers.py --harness DIR [--benchmark NAME]... [--drawn 300] [--json]

DIR holds lmms-eval/, VLMEvalKit/ and thinking-in-space/ and, for their Python, .venv/bin/python (else --python). For
each check of `harness_checks.CHECKS`, rows of the benchmark's form (made by us) and the answers of `odd_answers` go
through the harness's prompt and scoring functions and through ours. One line a check: how many prompts and scores
differ. Exit status 1 where a check that claims equality has a difference.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness_checks import CHECKS, Check, Ours, text_of
from odd_answers import drawn_answers, odd_answers

_WORKER = Path(__file__).with_name("harness_worker.py")
_SAME = 1e-9
"""Difference of two scores that is rounding."""
_ROUNDED = 0.0051
"""Difference of two metrics that is rounding: some of lmms-eval's are percentages of two decimals."""
_SHOWN = 5


class Harness:
    """The running worker, asked line by line."""

    def __init__(self, root: Path, python: Path) -> None:
        command = [str(python), str(_WORKER), str(root)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=root
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Return the worker's reply; RuntimeError where it died or cannot load the task."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        reply = json.loads(line) if line else {"error": "the worker ended; run scripts/harness_worker.py by hand"}
        if "error" in reply:
            raise RuntimeError(f"{request['harness']} {request['task']}: {reply['error']}")
        return reply

    def close(self) -> None:
        """End the worker."""
        self._process.terminate()
        self._process.wait()


@dataclass
class Outcome:
    """What one check found.

    Attributes:
        prompts, scores, metrics: differences, as texts.
        num_metrics: values of lmms-eval's own table that were compared.
        raised: pairs where the harness raised; a question there has no score of the harness.
        drawn: pairs where the harness drew a letter at random.
        deviations: scores that differ on answers which we read otherwise on purpose.
        failed_prompts: rows whose prompt the harness cannot make without its media.
    """

    check: Check
    num_rows: int = 0
    num_answers: int = 0
    prompts: list[str] = field(default_factory=list)
    scores: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    num_metrics: int = 0
    raised: int = 0
    drawn: int = 0
    deviations: int = 0
    failed_prompts: int = 0

    @property
    def is_broken(self) -> bool:
        """Whether equality is claimed and does not hold, or the harness scored nothing."""
        claimed = self.check.claims
        unequal = ("prompts" in claimed and self.prompts) or ("scores" in claimed and self.scores)
        return bool(unequal or self.metrics) or self.raised == self.num_pairs

    def line(self) -> str:
        """Return the outcome as one line of a table."""
        check = self.check
        found = [f"{len(self.prompts)} of {self.num_rows} prompts", f"{len(self.scores)} of {self.num_pairs} scores"]
        text = f"{check.benchmark} ({check.setting}) | {check.harness} {check.task} | {' and '.join(found)} differ"
        notes = [f"{self.raised} raised there" if self.raised else "", f"{self.drawn} drawn" if self.drawn else ""]
        notes.append(f"{self.deviations} by a deviation of ours" if self.deviations else "")
        notes.append(f"{len(self.metrics)} of {self.num_metrics} metrics differ" if self.num_metrics else "")
        notes.append(f"{self.failed_prompts} prompts not made there" if self.failed_prompts else "")
        claimed = "" if check.claims else "no equality claimed"
        return " | ".join([text, *filter(None, (*notes, claimed))])

    @property
    def num_pairs(self) -> int:
        """Rows times answers."""
        return self.num_rows * self.num_answers

    def to_json(self) -> dict[str, Any]:
        """Return counts and the first differences."""
        check = self.check
        return {
            **{name: getattr(check, name) for name in ("benchmark", "setting", "harness", "task", "claims")},
            **{
                name: getattr(self, name)
                for name in ("num_rows", "num_answers", "raised", "drawn", "deviations", "failed_prompts")
            },
            "prompts_differ": len(self.prompts),
            "scores_differ": len(self.scores),
            "metrics_differ": len(self.metrics),
            "num_metrics": self.num_metrics,
            "first": [*self.prompts[:_SHOWN], *self.scores[:_SHOWN], *self.metrics[:_SHOWN]],
        }


def run_check(check: Check, harness: Harness, answers: Sequence[str]) -> Outcome:
    """Return what differs between a harness and us on every row and answer."""
    ours, answers = Ours(check), [*answers[:: check.every], *check.more]
    docs = ours.docs()
    reply = harness.ask(harness=check.harness, task=check.task, docs=docs, answers=list(answers), want="scores")
    outcome = Outcome(check, len(docs), len(answers))
    for number, theirs in enumerate(reply["prompts"]):
        if isinstance(theirs, dict):
            outcome.failed_prompts += 1
        elif text_of(theirs) != (mine := text_of(ours.prompt(number))):
            outcome.prompts.append(f"row {number}: {theirs!r} there, {mine!r} here")
    for number, scores in enumerate(reply["scores"]):
        for answer, theirs in zip(answers, scores, strict=True):
            mine = ours.score(number, answer)
            if theirs == "drawn":
                outcome.drawn += 1
            elif isinstance(theirs, dict):
                outcome.raised += 1
            elif abs(theirs - mine) <= _SAME:
                continue
            elif check.deviates is not None and check.deviates(answer):
                outcome.deviations += 1
            else:
                outcome.scores.append(f"row {number}, answer {answer[:60]!r}: {theirs} there, {mine} here")
    return outcome


def compare_tables(outcome: Outcome, harness: Harness) -> None:
    """Compare the metrics that we export with those that lmms-eval makes of the same answers, three times."""
    check, ours = outcome.check, Ours(outcome.check)
    if check.harness in ("VLMEvalKit", "authors") or "scores" not in check.claims or check.benchmark == "mathvista":
        return  # VLMEvalKit makes its table inside `evaluate`, which reads files of its own
    for part in range(3):
        answers = ours.drawn_right(part)
        asked = {"harness": check.harness, "task": check.task, "docs": ours.docs(), "answers": answers}
        theirs = harness.ask(**asked, want="table")["table"]
        if "raised" in theirs:
            outcome.metrics.append(f"the harness raised {theirs['raised']}")
            return
        for name, value in ours.table(answers).items():
            if name in theirs:
                outcome.num_metrics += 1
                if abs(theirs[name] - value) > _ROUNDED:
                    outcome.metrics.append(f"{name}, answers {answers}: {theirs[name]} there, {value} here")


def main() -> None:
    """Run the checks and print a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--harness", type=Path, required=True, metavar="DIR")
    parser.add_argument("--python", type=Path, help="of the harnesses; DIR/.venv/bin/python if not given")
    parser.add_argument("--benchmark", action="append", default=[], help="check this one only; may be repeated")
    parser.add_argument("--drawn", type=int, default=300, help="answers drawn beside the fixed list")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    chosen = [check for check in CHECKS if not given.benchmark or check.benchmark in given.benchmark]
    if not chosen:
        parser.error(f"no check of {given.benchmark}; there are {sorted({check.benchmark for check in CHECKS})}")
    answers = list(dict.fromkeys([*odd_answers(), *drawn_answers(given.drawn)]))
    harness = Harness(given.harness.resolve(), given.python or given.harness.resolve() / ".venv/bin/python")
    outcomes = []
    for check in chosen:
        outcomes.append(run_check(check, harness, answers))
        compare_tables(outcomes[-1], harness)
        if not given.json:
            print(outcomes[-1].line(), flush=True)
            if outcomes[-1].is_broken:
                print(*(f"  {text}" for text in outcomes[-1].to_json()["first"]), sep="\n")
    harness.close()
    if given.json:
        print(json.dumps([outcome.to_json() for outcome in outcomes], indent=1))
    sys.exit(any(outcome.is_broken for outcome in outcomes))


if __name__ == "__main__":
    main()
