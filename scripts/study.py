"""make study: what SFT, DPO and GRPO make of the same cold starts with the same CPU seconds, on several seeds.

Per seed a cold start (SFT on 200 labelled rooms) in each prompt mode, and from it, each for as many CPU seconds of
training as `grpo` spent:

    grpo        GRPO on 2,000 new rooms, vanilla answers, beta 0, 250 steps (experiment=demo_grpo)
    more_sft    SFT on the 200 labelled rooms once more
    sft_all     SFT on the labels of the 2,000 rooms: the oracle
    dpo         right against wrong answers of the 2,000 rooms             (experiment=demo_dpo)
    grpo_kl     GRPO with the paper's KL weight, beta 1e-4                 (experiment=demo_grpo_kl)
    grpo_count  GRPO on the counting questions alone
    grpo_wrong  GRPO with every room shown the video of another one: the blind-trained control
    grpo_t, grpo_o  GRPO in think and observe mode                         (experiment=demo_grpo_t, demo_grpo_o)

two arms that repeat `grpo` and `grpo_wrong` on balanced rows of the same rooms (balance.mode=text, docs/trust.md): does
a blind-trained model fall where no word tells the answer, and does the sighted gain stay?

    grpo_even   as grpo, on the balanced rows of the 2,000 rooms, 250 steps
    wrong_even  as grpo_wrong, on those rows, 250 steps

and two arms of `make demo`'s own length:

    demo        as grpo, for the 400 steps of experiment=demo_grpo
    demo_sft    as more_sft, for as many CPU seconds as demo spent

All are scored on the same held-out rooms: greedy, sampled (T=1), and greedy with shuffled videos; the four arms that
tell balanced from unbalanced rows on the balanced rows of these rooms too. All other rows are unbalanced
(balance.mode=paper). `make demo` never uses these rooms. Nothing is chosen on them: the last checkpoint counts, always.

Usage: study.py [--out runs/study] [--seeds 0 1 2] [--arms grpo more_sft ...]. A second run goes on where the first
stopped. Prints Markdown tables of mean and spread and, per seed, paired differences with 95 % intervals; exits with 1
where the demo's room size is not above the cold start and continued SFT by more than the interval, or shuffled videos
score above the constant.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from demo_table import answered, scores_of
from study_arms import ARMS, BY_NAME, COLD, COLD_ROOMS, COUNT, EVEN_KIND, KINDS, PAIRS, ROOM, ROOMS, UNBALANCED, Arm
from vsgrpo.audit.measure import audit_rows
from vsgrpo.data.audit_rows import audit_rows_of
from vsgrpo.data.row import Row
from vsgrpo.data.rows import read_rows, write_rows
from vsgrpo.evaluation.arms import derangement
from vsgrpo.evaluation.constants import best_constants, constant_scores
from vsgrpo.evaluation.score_command import score_command
from vsgrpo.files import link_or_copy

TOLERANCE, TRIES = 0.1, 2
"""An arm whose CPU seconds end further from the budget is trained once more, with steps by its own cost."""


def vsgrpo(*arguments: str) -> None:
    """Run one command as a user would; stop the study if it fails."""
    print("+ vsgrpo " + " ".join(arguments), file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "vsgrpo.cli", *arguments], check=True, stdout=sys.stderr)


def log_lines(run: Path) -> list[dict[str, Any]]:
    """Return the training lines of a run's log."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "loss" in line]


def cost_of_step(run: Path) -> float:
    """Return CPU seconds per step, those up to the first log left out."""
    first, *_, last = log_lines(run)
    return (last["cpu_seconds"] - first["cpu_seconds"]) / (last["step"] - first["step"])


class Study:
    """Folders and runs of one study.

    Attributes:
        by_name: its arms; `cold`: the start of each prompt mode.
        kinds: its evaluations.
        shared: settings of all its runs.
    """

    by_name: Mapping[str, Arm] = BY_NAME
    cold: Mapping[str, Arm] = COLD
    kinds: Iterable[str] = KINDS
    shared: tuple[str, ...] = ()

    def __init__(self, out: Path, seeds: Sequence[int] = (0, 1, 2)) -> None:
        self.out, self.seeds = out, seeds
        self.data = out / "data"

    def build(self, seeds: list[int]) -> None:
        """Build all rooms; a copy of the GRPO rooms gets the videos of other rooms."""
        wanted = {**ROOMS, **{f"cold{seed}": (110 + seed, COLD_ROOMS, UNBALANCED) for seed in seeds}}
        for name, (source_seed, rooms, mode) in wanted.items():
            settings = (f"source.seed={source_seed}", f"source.num_scenes={rooms}", f"output={self.data / name}")
            settings += (f"balance.mode={mode}",)
            thoughts = ("data.reasoning=template",) if name.startswith("cold") else ()
            vsgrpo("build-data", "experiment=demo_data", *settings, *thoughts)
        for source, wrong in (("rl", "wrong"), ("even", "wrong_even")):
            if not (self.data / wrong / "train.jsonl").is_file():
                write_wrong_videos(self.data / source, self.data / wrong)

    def folder(self, arm: Arm, seed: int) -> Path:
        """Return an arm's run folder."""
        return self.out / f"seed{seed}" / arm.name

    def pilot(self, arm: Arm, seed: int) -> Path:
        """Return the folder of the short run that tells what a step of an arm costs."""
        return self.out / "pilots" / arm.name

    def train(self, arm: Arm, seed: int, run: Path, start: Path | None, *settings: str) -> None:
        """Train unless it is done; go on with an interrupted run."""
        if (run / "final").is_dir():
            return
        flag = "--resume" if any(run.glob("checkpoint-*")) else "--overwrite"
        data = self.data / (f"cold{seed}" if arm.data == "cold" else arm.data)
        given = [
            f"experiment={arm.experiment}",
            *self.shared,
            *arm.settings,
            f"data={data}",
            f"output={run}",
            f"run.seed={seed}",
        ]
        given += ["video.frame_cache=disk", f"video.cache_dir={self.out / 'frames'}"]
        given += [f"model.path={start / 'final'}"] if start is not None else []
        vsgrpo("train", arm.method, *given, *settings, flag)

    def run_arm(self, arm: Arm, seed: int) -> None:
        """Train the arm's cold start and the arm, for the CPU seconds that the arm it equals took with this seed."""
        cold = self.cold[arm.mode]
        start = self.folder(cold, seed)
        self.train(cold, seed, start, None)
        if arm.equal is None:
            self.train(arm, seed, self.folder(arm, seed), start)
            return
        pilot = self.pilot(arm, seed)
        short = (f"trainer.max_steps={arm.pilot}", f"trainer.save_steps={arm.pilot}", "trainer.logging_steps=5")
        self.train(arm, seed, pilot, start, *short)
        budget = log_lines(self.folder(self.by_name[arm.equal], seed))[-1]["cpu_seconds"]
        run, cost = self.folder(arm, seed), cost_of_step(pilot)
        for attempt in range(TRIES):
            steps = round(budget / cost)
            self.train(arm, seed, run, start, f"trainer.max_steps={steps}", f"trainer.save_steps={steps}")
            last = log_lines(run)[-1]
            if attempt == TRIES - 1 or abs(last["cpu_seconds"] / budget - 1) <= TOLERANCE:
                return
            # Completions grow or shrink as training goes on, so that a pilot may mislead: a whole run does not.
            cost = last["cpu_seconds"] / last["step"]
            print(f"{run}: {last['cpu_seconds']:.0f} CPU s instead of {budget:.0f}: once more", file=sys.stderr)
            for stale in (run, *(self.evaluation(arm, seed, kind) for kind in self.kinds)):
                if stale.exists():
                    stale.rename(free_name(stale))

    def evaluate(self, seed: int) -> None:
        """Score all runs of a seed, those of one prompt mode in one command."""
        for mode, cold in COLD.items():
            runs = [self.folder(arm, seed) for arm in (cold, *ARMS) if arm.mode == mode]
            models = [f"model={run / 'final'}" for run in runs if (run / "final").is_dir()]
            if len(models) < 2:
                continue
            rows = ("experiment=demo_eval", f"benchmark.path={self.data / 'test'}", f"prompt.mode={mode}")
            tokens = () if mode == "vanilla" else ("decoding.max_new_tokens=48",)
            frames = ("video.frame_cache=disk", f"video.cache_dir={self.out / 'frames'}")
            for kind, settings in KINDS.items():
                output = self.out / f"seed{seed}" / f"eval_{kind}"
                vsgrpo("eval", *rows, *tokens, *frames, *settings, *models, f"output={output}")
        self.evaluate_even(seed)

    def evaluate_even(self, seed: int) -> None:
        """Score the arms that tell balanced from unbalanced rows on the balanced rows of the held-out rooms."""
        runs = [self.folder(BY_NAME[name], seed) for pair in PAIRS for name in pair[:2]]
        models = [f"model={run / 'final'}" for run in runs if (run / "final").is_dir()]
        if models:
            rows = ("experiment=demo_eval", f"benchmark.path={self.data / 'test_even'}")
            frames = ("video.frame_cache=disk", f"video.cache_dir={self.out / 'frames'}")
            vsgrpo("eval", *rows, *frames, *models, f"output={self.out / f'seed{seed}' / f'eval_{EVEN_KIND}'}")

    def scores(self, arm: Arm, seed: int, kind: str) -> dict[str, float] | None:
        """Return the scores of an evaluation, None where there is none."""
        return scores_of(self.evaluation(arm, seed, kind))

    def scored_rows(self, name: str, kind: str, *arms: Arm) -> list[Row]:
        """Return the held-out rows that the evaluations of some arms answered."""
        folders = [self.evaluation(arm, seed, kind) for arm in arms for seed in self.seeds]
        return answered(read_rows(self.data / name / "train.jsonl"), *folders)

    def evaluation(self, arm: Arm, seed: int, kind: str) -> Path:
        """Return an evaluation's folder."""
        return self.out / f"seed{seed}" / f"eval_{kind}" / f"{arm.name}-final"


def free_name(run: Path) -> Path:
    """Return the first of RUN.try1, RUN.try2, ... that is not there."""
    return next(path for k in range(1, 100) if not (path := run.with_name(f"{run.name}.try{k}")).exists())


def write_wrong_videos(source: Path, target: Path) -> None:
    """Write the rows of a dataset with the video of another room each (a cyclic derangement), for training."""
    rows = read_rows(source / "train.jsonl")
    other = derangement({row.scene_name: row.room for row in rows})
    media = {row.scene_name: row.media for row in rows}
    for path in {item["path"] for row in rows for item in row.media}:  # linked: a path out of the folder is refused
        link_or_copy(source / path, target / path)
    write_rows(target / "train.jsonl", [replace(row, media=media[other[row.scene_name]]) for row in rows])


def percent(values: list[float]) -> str:
    """Return mean and standard deviation in percent."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def mean_table(study: Study, seeds: list[int]) -> list[str]:
    """Return one line per arm: mean ± standard deviation over the seeds that have it."""
    header = ["arm", "seeds", "steps", "CPU s"]
    header += [f"{task} {kind}" for task in ("count", "room size") for kind in KINDS]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for arm in (*COLD.values(), *ARMS):
        done = [seed for seed in seeds if all(study.scores(arm, seed, kind) for kind in KINDS)]
        if not done:
            continue
        last = [log_lines(study.folder(arm, seed))[-1] for seed in done]
        cells = [arm.name, str(len(done)), f"{statistics.mean(line['step'] for line in last):.0f}"]
        cells.append(f"{statistics.mean(line['cpu_seconds'] for line in last):.0f}")
        for task in (COUNT, ROOM):
            cells += [percent([study.scores(arm, seed, kind)[task] for seed in done]) for kind in KINDS]  # type: ignore[index]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def even_table(study: Study, seeds: list[int]) -> list[str]:
    """Return what balancing the rows changes: blind-trained and sighted on both kinds of held-out rows."""
    arms = [BY_NAME[name] for pair in PAIRS for name in pair[:2]]
    kinds = {"greedy": "unbalanced rows", EVEN_KIND: "balanced rows"}
    done = {arm: [seed for seed in seeds if all(study.scores(arm, seed, kind) for kind in kinds)] for arm in arms}
    if not any(done.values()):
        return []
    header = ["arm", "seeds", *(f"{task} on {rows}" for task in ("count", "room size") for rows in kinds.values())]
    lines = ["", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for arm, own in done.items():
        if own:
            found = [[study.scores(arm, seed, kind)[task] for seed in own] for task in (COUNT, ROOM) for kind in kinds]  # type: ignore[index]
            lines.append("| " + " | ".join([arm.name, str(len(own)), *map(percent, found)]) + " |")
    constants, text = [], []
    for (sighted, _, train, test), kind in zip(PAIRS, kinds, strict=True):
        rows = study.scored_rows(test, kind, BY_NAME[sighted])
        constants.append(constant_scores(rows, best_constants(read_rows(study.data / train / "train.jsonl"))))
        text.append(audit_rows(audit_rows_of(rows), null=False).types)
    for name, found in (
        ("best constant", constants),
        ("text alone", [{t: x.text for t, x in a.items()} for a in text]),
    ):
        cells = [f"{100 * x[task]:.1f}" if task in x else "-" for task in (COUNT, ROOM) for x in found]
        lines.append("| " + " | ".join([name, "", *cells]) + " |")
    for sighted, blind, _, _ in PAIRS:
        both = (BY_NAME[sighted], BY_NAME[blind])
        for seed in [seed for seed in done[both[0]] if seed in done[both[1]]]:
            for kind, rows in kinds.items():
                pairs = difference(study, seed, *both, kind)
                parts = [f"{t} {100 * d:+.1f} ({100 * a:+.1f}..{100 * b:+.1f})" for t, (d, a, b) in pairs.items()]
                lines.append(f"seed {seed}: {sighted} - {blind} on {rows}: " + ", ".join(parts))
    return lines


def difference(
    study: Study, seed: int, first: Arm, second: Arm, kind: str = "greedy"
) -> dict[str, tuple[float, float, float]]:
    """Return per task first minus second, with the ends of its 95 % interval by rooms (paired)."""
    files = [str(study.evaluation(arm, seed, kind) / "predictions.jsonl") for arm in (first, second)]
    report: Any = score_command(files)
    table, ranges = report.differences()["official"], report.intervals["official"]
    return {task: (table[task], *ranges[task]) for task in (COUNT, ROOM)}


def claims(study: Study, seed: int, constant: float) -> list[tuple[str, bool]]:
    """Return the claims about the demo's room size, each with whether it holds."""
    grpo = BY_NAME["demo"]
    found = []
    for other in (COLD["vanilla"], BY_NAME["demo_sft"]):
        gain, low, high = difference(study, seed, grpo, other)[ROOM]
        text = f"seed {seed}: room size, demo - {other.name} = {100 * gain:+.1f} ({100 * low:+.1f}..{100 * high:+.1f})"
        found.append((text, low > 0))
    shuffled = study.scores(grpo, seed, "shuffled")[ROOM]  # type: ignore[index]
    text = f"seed {seed}: room size, demo with shuffled videos {100 * shuffled:.1f} <= constant {100 * constant:.1f}"
    return [*found, (text, shuffled <= constant)]


def main() -> int:
    """Run the study and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=[arm.name for arm in ARMS], default=[arm.name for arm in ARMS])
    parser.add_argument("--table-only", action="store_true", help="tabulate what there is, train nothing")
    options = parser.parse_args()
    study = Study(options.out, options.seeds)
    if not options.table_only:
        study.build(options.seeds)
        wanted = {*options.arms, *(BY_NAME[name].equal for name in options.arms)}
        for arm in [arm for arm in ARMS if arm.name in wanted]:
            for seed in options.seeds:
                study.run_arm(arm, seed)
        for seed in options.seeds:
            study.evaluate(seed)
    constant = constant_scores(
        study.scored_rows("test", "greedy", *ARMS), best_constants(read_rows(study.data / "rl" / "train.jsonl"))
    )
    lines = mean_table(study, options.seeds)
    lines += ["", f"best constant: count {100 * constant[COUNT]:.1f}, room size {100 * constant[ROOM]:.1f}", ""]
    whole = [s for s in options.seeds if all(study.scores(BY_NAME[n], s, "shuffled") for n in ("demo", "demo_sft"))]
    checked = [claim for seed in whole for claim in claims(study, seed, constant[ROOM])]
    lines += [f"{text}: {'holds' if holds else 'DOES NOT HOLD'}" for text, holds in checked]
    for seed in options.seeds:
        scored = [arm for arm in ARMS if arm.equal == "grpo" and study.scores(arm, seed, "greedy")]
        for other in [arm for arm in scored if arm.mode == "vanilla"]:
            pairs = difference(study, seed, ARMS[0], other)
            parts = [f"{t} {100 * d:+.1f} ({100 * a:+.1f}..{100 * b:+.1f})" for t, (d, a, b) in pairs.items()]
            lines.append(f"seed {seed}: grpo - {other.name}: " + ", ".join(parts))
    text = "\n".join([*lines, *even_table(study, options.seeds)])
    (options.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if all(holds for _, holds in checked) else 1


if __name__ == "__main__":
    sys.exit(main())
