"""Which algorithms and rewards of docs/algorithms.md move what, on demo rooms, with equal CPU seconds.

Rooms of the furnished preset are filmed (video.source=mesh), their rows balanced by text (balance.mode=text), and rows
that the frames shown do not make true left out. Per seed a cold start (SFT on labelled rooms of its own), and from it
eight arms of GRPO on other rooms:

    relative                         the paper's numeric reward, 250 steps: what the others are compared with
    mra, linear, smooth, log_ratio   another numeric reward (docs/rewards.md)
    filter                           poor groups are drawn anew (trainer.group_filter)
    t_grpo                           a bonus where shuffled frames are answered worse (trainer.temporal_generations)
    gpd                              a teacher that reads the boxes (trainer.gpd_weight)

All train for the CPU seconds of `relative`. Scored on held-out rooms, the last checkpoint, greedy: as they are, blind
(no video), and pairs of videos with one object taken out (both answers right). Arms, settings and rooms are written to
OUT/plan.json before anything is trained; a later call with other ones is refused.

Usage: study_algorithms.py [--out runs/study_algorithms] [--seeds 0 1 2] [--arms gpd ...] [--now 0] [--cpu-hours 6]
[--table-only]. A second call goes on where the first stopped; calls with other seeds --now may run side by side, once
the rooms are built (--now without a seed builds them alone). `--small` goes the whole way with a few rooms and steps;
its numbers say nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import study
from study import Study, difference, log_lines, percent, vsgrpo
from study_arms import COUNT, ROOM, Arm
from vsgrpo.data.rows import read_rows
from vsgrpo.evaluation.predictions import PREDICTIONS_NAME, read_answers
from vsgrpo.files import write_atomic

COLD = Arm("cold", "sft", "demo_sft", data="cold")
ARMS = (
    Arm("relative", "grpo", "demo_grpo", equal=None, settings=("reward.numeric=relative",)),
    *(
        Arm(name, "grpo", "demo_grpo", equal="relative", settings=(f"reward.numeric={name}",))
        for name in ("mra", "linear", "smooth", "log_ratio")
    ),
    Arm("filter", "grpo", "demo_grpo", equal="relative", settings=("trainer.group_filter={min: 0.01, max: 0.99}",)),
    Arm("t_grpo", "grpo", "demo_grpo", equal="relative", settings=("trainer.temporal_generations=4",)),
    Arm("gpd", "grpo", "demo_grpo", equal="relative", settings=("trainer.gpd_weight=0.003",)),
)
"""trainer.num_generations is 8: four shuffled completions are the half that T-GRPO draws."""
FULL = {"rl": 400, "cold": 150, "test": 150, "steps": 250, "cold_steps": 150, "pilot": 20, "logging": 5}
FULL |= {"batch": 512, "sft_batch": 48}
SMALL = {
    "rl": 6,
    "cold": 4,
    "test": 4,
    "steps": 4,
    "cold_steps": 4,
    "pilot": 2,
    "logging": 1,
    "batch": 16,
    "sft_batch": 8,
}
FILMED = (
    *("source.preset=furnished", "video.source=mesh", "video.walk_width=112", "video.walk_height=84"),
    *("video.seen_pixels=12", "balance.mode=text"),
)
"""Frames of 4 x 3 tokens; 12 of 112 x 84 pixels are the share that 200 are of 448 x 336."""
FRAMES = "video.num_frames=16"
HELD, PAIRS = "held", "pairs"
SEEDS = {"rl": 205, "test": 209, "cold": 210}
"""source.seed; the cold start of seed N takes that of `cold` + N."""


class OutOfBudget(Exception):
    """The CPU hours are spent."""


class AlgorithmStudy(Study):
    """The folders, runs and evaluations of this study; `sizes`: `FULL` or `SMALL`."""

    def __init__(self, out: Path, sizes: dict[str, int], cpu_hours: float) -> None:
        super().__init__(out)
        self.sizes, self.cpu_hours = sizes, cpu_hours
        self.shared, self.kinds, self.cold = (FRAMES,), (HELD, PAIRS), {"vanilla": COLD}
        self.by_name = {arm.name: replace(arm, pilot=sizes["pilot"]) for arm in ARMS}

    def write_plan(self, seeds: list[int]) -> None:
        """Write what will be done, or refuse to go on with something else."""
        plan = {"arms": [asdict(arm) for arm in (COLD, *self.by_name.values())], "sizes": self.sizes}
        plan |= {"filmed": FILMED, "frames": FRAMES, "rooms": SEEDS, "seeds": seeds}
        text, path = json.dumps(plan, indent=1) + "\n", self.out / "plan.json"
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            sys.exit(
                f"error: {path}: another plan was fixed there\nhint: give another --out, or the seeds of that plan"
            )
        self.out.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)

    def spent(self) -> float:
        """Return the CPU seconds of all calls so far."""
        path = self.out / "cpu_seconds.txt"
        return sum(map(float, path.read_text(encoding="utf-8").split())) if path.is_file() else 0.0

    def count(self, seconds: float) -> None:
        """Add CPU seconds to those of other calls, which may run at the same time."""
        with (self.out / "cpu_seconds.txt").open("a", encoding="utf-8") as stream:
            stream.write(f"{seconds:.2f}\n")

    def call(self, *words: str) -> None:
        """Run one command and count its CPU seconds; none is begun once the hours are spent."""
        if self.spent() > 3600 * self.cpu_hours:
            raise OutOfBudget
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            vsgrpo(*words)
        finally:
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            self.count(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    def build(self, seeds: list[int]) -> None:
        """Film the rooms that are not there yet; those held out also without one object each, in pairs."""
        wanted = {"rl": SEEDS["rl"], "test": SEEDS["test"]} | {f"cold{seed}": SEEDS["cold"] + seed for seed in seeds}
        for name, source_seed in wanted.items():
            if (self.data / name / "manifest.json").is_file():
                continue
            size = self.sizes[name.rstrip("0123456789")]
            settings = [f"source.seed={source_seed}", f"source.num_scenes={size}", f"output={self.data / name}"]
            if name == "test":
                settings += ["counterfactual.removals=2", "counterfactual.placebo_rows=0"]
            self.call("build-data", "experiment=demo_data", *FILMED, *settings)

    def settings_of(self, arm: Arm) -> tuple[str, ...]:
        """Return the lengths and batch of an arm."""
        cold, batch = arm.method == "sft", "sft_batch" if arm.method == "sft" else "batch"
        steps = self.sizes["cold_steps" if cold else "steps"]
        found = (f"trainer.max_steps={steps}", f"trainer.save_steps={steps}")
        return (*found, f"trainer.per_device_train_batch_size={self.sizes[batch]}")

    def pilot(self, arm: Arm, seed: int) -> Path:
        """Return a folder of the seed's own: seeds may be trained side by side."""
        return self.out / f"seed{seed}" / "pilots" / arm.name

    def run_arm(self, arm: Arm, seed: int) -> None:
        """Train an arm; before the first one fill the frame cache, so that no arm pays for decoding."""
        if arm.equal is None:
            start = self.folder(COLD, seed)
            self.train(COLD, seed, start, None)
            self.train(arm, seed, self.pilot(arm, seed), start, f"trainer.max_steps={arm.pilot}")
        super().run_arm(arm, seed)

    def train(self, arm: Arm, seed: int, run: Path, start: Path | None, *settings: str) -> None:
        """Train with this study's lengths; those of a pilot or a budget come behind and win."""
        sized = replace(arm, settings=(*arm.settings, *self.settings_of(arm)))
        super().train(sized, seed, run, start, *settings, f"trainer.logging_steps={self.sizes['logging']}")

    def evaluate(self, seed: int) -> None:
        """Score all runs of a seed on the held-out rooms, sighted and blind, and on the pairs."""
        runs = [self.folder(arm, seed) for arm in (COLD, *self.by_name.values())]
        models = [f"model={run / 'final'}" for run in runs if (run / "final").is_dir()]
        rows = ("experiment=demo_eval", f"benchmark.path={self.data / 'test'}", FRAMES)
        rows += ("video.frame_cache=disk", f"video.cache_dir={self.out / 'frames'}")
        for kind, settings in ((HELD, ("controls=[blind]",)), (PAIRS, ("benchmark.split=train_pairs",))):
            self.call("eval", *rows, *settings, *models, f"output={self.out / f'seed{seed}' / f'eval_{kind}'}")

    def results(self, arm: Arm, seed: int, kind: str) -> dict[str, Any] | None:
        """Return results.json of an evaluation, None where there is none."""
        path = self.evaluation(arm, seed, kind) / "results.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def table(made: AlgorithmStudy, seeds: list[int]) -> list[str]:
    """Return one line per arm, mean ± standard deviation over the seeds that have it."""
    header = ["arm", "seeds", "steps", "CPU s", "count", "room size", "count blind", "room size blind"]
    header += ["pairs right", "stale", "placebo flips"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for arm in (COLD, *made.by_name.values()):
        both = [[made.results(arm, seed, kind) for kind in (HELD, PAIRS)] for seed in seeds]
        done = [(seed, held, pairs) for seed, (held, pairs) in zip(seeds, both, strict=True) if held and pairs]
        if not done:
            continue
        last = [log_lines(made.folder(arm, seed))[-1] for seed, _, _ in done]
        cells = [
            arm.name,
            str(len(done)),
            *(f"{statistics.mean(x[k] for x in last):.0f}" for k in ("step", "cpu_seconds")),
        ]
        found = [[held["scores"].get(task) for _, held, _ in done] for task in (COUNT, ROOM)]
        found += [[held["controls"]["blind"].get(task) for _, held, _ in done] for task in (COUNT, ROOM)]
        rates = (("removal", "pair_accuracy"), ("removal", "stale_rate"), ("placebo", "flip_rate"))
        found += [[pairs["pairs"].get(kind, {}).get(name) for _, _, pairs in done] for kind, name in rates]
        cells += ["-" if None in values else percent(values) for values in found]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def differences(made: AlgorithmStudy, seeds: list[int]) -> list[str]:
    """Return a table of what each arm scores more than `relative`: per seed with its 95 % interval by rooms (paired).

    `mean` is over the seeds, with their standard deviation.
    """
    base = made.by_name["relative"]
    header = ["arm - relative", *(f"{task}: {what}" for task in ("count", "room size") for what in ("seeds", "mean"))]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for arm in made.by_name.values():
        done = [seed for seed in seeds if all(made.results(each, seed, HELD) for each in (arm, base))]
        if arm is base or not done:
            continue
        found = [difference(made, seed, arm, base, HELD) for seed in done]
        cells = [arm.name]
        for task in (COUNT, ROOM):
            ranges = [tuple(100 * x for x in each[task]) for each in found]
            cells.append("; ".join(f"{d:+.1f} ({low:+.1f}..{high:+.1f})" for d, low, high in ranges))
            cells.append(percent([d / 100 for d, _, _ in ranges]))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def commonest(made: AlgorithmStudy, seeds: list[int]) -> list[str]:
    """Return a table of each arm's scores by seed, with the commonest answer to held-out questions and its share."""
    types = {row.id: row.question_type for row in read_rows(made.data / "test" / "train.jsonl")}
    lines = ["| arm | count by seed: commonest answer | room size by seed: commonest answer |", "|---|---|---|"]
    for arm in (COLD, *made.by_name.values()):
        done = [(seed, held) for seed in seeds if (held := made.results(arm, seed, HELD))]
        cells = [arm.name]
        for task in (COUNT, ROOM):
            found = []
            for seed, held in done:
                answers = read_answers(made.evaluation(arm, seed, HELD) / PREDICTIONS_NAME)
                said = Counter(texts[0] for name, texts in answers.items() if types[name] == task)
                text, times = said.most_common(1)[0]
                found.append(f"{100 * held['scores'][task]:.1f}: {text} {100 * times / said.total():.0f} %")
            cells.append("; ".join(found))
        if done:
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> int:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/study_algorithms"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    names = [arm.name for arm in ARMS]
    parser.add_argument("--arms", nargs="+", choices=names, default=names, help="those to train now, beside relative")
    parser.add_argument("--now", type=int, nargs="*", help="of the plan's seeds those to train now (all)")
    parser.add_argument("--cpu-hours", type=float, default=6.0, help="no command is begun once these are spent")
    parser.add_argument("--small", action="store_true", help="a few rooms and steps: does it go the whole way?")
    parser.add_argument("--table-only", action="store_true", help="tabulate what there is, train nothing")
    options = parser.parse_args()
    made, stopped = AlgorithmStudy(options.out, SMALL if options.small else FULL, options.cpu_hours), ""
    study.vsgrpo = made.call  # what a Study trains by: counted
    if not options.table_only:
        made.write_plan(options.seeds)
        try:
            made.build(options.seeds)
            for seed in options.seeds if options.now is None else options.now:
                for name in [name for name in made.by_name if name in {"relative", *options.arms}]:
                    made.run_arm(made.by_name[name], seed)
                made.evaluate(seed)
        except OutOfBudget:
            stopped = f"stopped: {made.spent() / 3600:.2f} of {options.cpu_hours:g} CPU hours are spent"
    lines = [*table(made, options.seeds), "", *differences(made, options.seeds), "", *commonest(made, options.seeds)]
    lines += ["", f"{made.spent() / 3600:.2f} CPU hours in all", *filter(None, [stopped])]
    write_atomic(options.out / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))
    return int(bool(stopped))


if __name__ == "__main__":
    sys.exit(main())
