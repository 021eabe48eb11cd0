"""make study-think: what GRPO makes of the thoughts of a model that speaks, in equal CPU seconds, on several seeds.

The model is `model=small_lm` (SmolLM2-135M-Instruct in a Qwen2-VL) with LoRA; its tower is random and frozen, so
answers are blind guesses: the study is about thoughts and their form. Per seed a cold start on templated thoughts, and
from it arms that spend the same CPU seconds and differ from `beta0` in what they name:

    beta0       accuracy and format rewards, empty thoughts allowed (as the paper), no KL
    beta1e-4    the paper's KL weight
    beta1e-2    a hundred times the paper's
    length      also a reward of longer thoughts, as the paper tried
    no_empty    empty thoughts earn no format reward
    hard        one reward: 1 where format and answer are right (arXiv 2503.06749)
    plain       also a reward of plainly written answers

An arm is stopped by SIGTERM at the first step that ends past its seconds, and its last checkpoint counts. The settings
were fixed before the first score was read.

Usage: study_think.py [--out runs/study_think] [--seeds 0 1 2] [--arms beta0 ...] [--page-only]. Each finished (arm,
seed) is one line of docs/think_study.jsonl; what stands there under the same settings and on the same rows is not run
again, on whatever machine. A run that was cut goes on from its checkpoint. At the end docs/think_study.md gets its
tables.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

from study_runs import last_checkpoint, log_lines, of_same_rows, once_per_key, processor, rows_hash, spent, vsgrpo
from study_think_page import write_page
from vsgrpo.data.rows import read_rows
from vsgrpo.report.run_folder import alarms, read_completions, read_run
from vsgrpo.reward_metrics import thought_metrics, thoughts_of
from vsgrpo.rewards import format_reward
from vsgrpo.spatial.answers import parse_answer

LINES = Path(__file__).resolve().parents[1] / "docs" / "think_study.jsonl"
SEEDS = (0, 1, 2)
BUDGET_S = 180
"""CPU seconds of training of an arm."""
ROOMS = {"cold": 40, "rl": 400, "test": 30}
"""Rooms of the three datasets; source.seed is 300, 301 and 302, and for the cold start of seed N 310 + N."""
SOURCE_SEEDS = {"rl": 301, "test": 302}
MODEL = ("launch=cpu", "prompt=think", "model.dtype=bfloat16", "video.num_frames=8", "video.timeout_s=null")
COLD = (
    *("model=small_lm", "trainer.max_steps=5", "trainer.learning_rate=1e-3", "trainer.lr_scheduler_type=constant"),
    *("trainer.per_device_train_batch_size=4", "trainer.gradient_accumulation_steps=4", "trainer.logging_steps=1"),
    *("trainer.warmup_steps=0", "trainer.save_steps=5", "model.merge_on_save=true"),
)
GRPO = (
    *("model=small_lm", "trainer.num_generations=8", "trainer.per_device_train_batch_size=8"),
    *("trainer.gradient_accumulation_steps=2", "trainer.max_completion_length=48", "trainer.learning_rate=6e-4"),
    *("trainer.lr_scheduler_type=constant_with_warmup", "trainer.warmup_steps=3", "trainer.max_steps=1000"),
    *("trainer.save_steps=10", "trainer.save_total_limit=1"),
)
"""2 questions x 8 rollouts a step."""
PAPER = ("reward.names=[accuracy,format]", "reward.allow_empty=true", "trainer.beta=0")
ARMS = {
    "beta0": PAPER,
    "length": (*PAPER, "reward.names=[accuracy,format,length]", "reward.length_words=16"),
    "no_empty": (*PAPER, "reward.allow_empty=false"),
    "beta1e-2": (*PAPER, "trainer.beta=1e-2"),
    "hard": (*PAPER, "reward.names=[hard_format_result]"),
    "beta1e-4": (*PAPER, "trainer.beta=1e-4"),
    "plain": (*PAPER, "reward.names=[accuracy,format,plain]"),
}
"""In the order of running; of a key that is given twice the last counts."""
START = "cold"
EVAL = ("experiment=demo_eval", "prompt.mode=think", "model.dtype=bfloat16", "decoding.max_new_tokens=48")
CURVES = {
    "format": "rewards/format_reward/mean",
    "words": "thought/words",
    "commonest": "thought/commonest",
    "across": "thought/across_videos",
    "unrelated": "thought/unrelated",
    "entropy": "entropy",
    "kl": "kl",
    "no_spread": "frac_reward_zero_std",
    "reward": "reward",
}
WINDOW = 5
"""Steps of which a line keeps the mean."""


def settings_hash(arm: str) -> str:
    """Return a short hash of everything that decides an arm's result, its seed and the machine apart."""
    settings = [BUDGET_S, ROOMS, SOURCE_SEEDS, MODEL, COLD, EVAL, (GRPO, ARMS[arm]) if arm != START else ()]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]


class Study:
    """Folders and runs of one study."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.data = out / "data"

    def build(self, name: str, source_seed: int) -> Path:
        """Build a dataset, cold starts with templated thoughts, unless it is there."""
        folder, kind = self.data / name, name.partition("-")[0]
        if not (folder / "manifest.json").is_file():
            settings = [f"source.seed={source_seed}", f"source.num_scenes={ROOMS[kind]}", f"output={folder}"]
            settings += ["data.reasoning=template"] if kind == START else []
            subprocess.run(vsgrpo("build-data", "experiment=demo_data", *settings), check=True, stdout=sys.stderr)
        return folder

    def rows(self, arm: str, seed: int) -> dict[str, str]:
        """Return the hash of each dataset that decides an arm's result, built unless it is there."""
        cold, seeds = f"{START}-{seed}", dict(SOURCE_SEEDS)
        seeds = {cold: 310 + seed, **seeds} if arm != START else {cold: 310 + seed, "test": seeds["test"]}
        return {name: rows_hash(self.build(name, source_seed)) for name, source_seed in seeds.items()}

    def folder(self, arm: str, seed: int) -> Path:
        """Return an arm's run folder."""
        return self.out / f"seed{seed}" / arm

    def start(self, seed: int) -> Path:
        """Return the cold start's model, trained unless it is there."""
        run = self.folder(START, seed)
        if not (run / "final").is_dir():
            given = (*MODEL, *COLD, f"data={self.build(f'{START}-{seed}', 310 + seed)}", f"output={run}")
            subprocess.run(vsgrpo("train", "sft", *given, f"run.seed={seed}", "--overwrite"), check=True)
        return run / "final"

    def train(self, arm: str, seed: int) -> Path:
        """Train an arm until its seconds are spent; return its last checkpoint."""
        run = self.folder(arm, seed)
        if spent(run) < BUDGET_S:
            flag = "--resume" if last_checkpoint(run) else "--overwrite"
            given = [*MODEL, *GRPO, *ARMS[arm], f"model.path={self.start(seed)}", f"run.seed={seed}", f"output={run}"]
            given += [f"data={self.build('rl', SOURCE_SEEDS['rl'])}"]
            process = subprocess.Popen(vsgrpo("train", "grpo", *once_per_key(tuple(given)), flag))
            asked = False
            while process.poll() is None:
                time.sleep(1.0)
                if not asked and spent(run) >= BUDGET_S:
                    process.send_signal(signal.SIGTERM)  # finishes the step it is in, and saves a checkpoint
                    asked = True
            if process.returncode != 128 + signal.SIGTERM:
                raise SystemExit(f"{run}: ended with {process.returncode}")
        checkpoint = last_checkpoint(run)
        assert checkpoint is not None
        return checkpoint

    def held_out(self, arm: str, seed: int, model: Path) -> dict[str, Any]:
        """Return scores of greedy answers about rooms never trained on, and what their thoughts are."""
        rows_from, output = self.build("test", SOURCE_SEEDS["test"]), self.out / f"seed{seed}" / f"eval_{arm}"
        given = [*EVAL, f"model={model}", f"benchmark.path={rows_from}", f"output={output}"]
        if not (output / "results.json").is_file():
            subprocess.run(vsgrpo("eval", *given), check=True, stdout=sys.stderr)
        results = json.loads((output / "results.json").read_text(encoding="utf-8"))
        lines = (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        texts = {line["id"]: line["prediction"] for line in map(json.loads, lines)}
        rows = {row.id: row for row in read_rows(rows_from / "train.jsonl")}
        good = int(sum(format_reward(completions=list(texts.values()), prompt_mode="think", allow_empty=True)))
        found = [(blocks[0], key) for key, text in texts.items() if (blocks := thoughts_of(text, "think"))]
        said = [parse_answer(texts[key], "think").text for _, key in found]
        asked = [(rows[key].question, rows[key].scene_name) for _, key in found]
        told = thought_metrics([t for t, _ in found], said, *zip(*asked, strict=True)) if found else {}
        return {
            "scores": {name: round(value, 4) for name, value in results["scores"].items()},
            "intervals": {name: [round(x, 4) for x in ends] for name, ends in results["intervals"].items()},
            "constant": round(results["controls"]["best constant"]["overall"], 4),
            "n": len(texts),
            "format": [round(x, 3) for x in (good / len(texts), *wilson(good, len(texts)))],
            **{name: round(value, 3) for name, value in told.items()},
            "samples": [[text[:160], n] for text, n in Counter(texts.values()).most_common(3)],
        }

    def line(self, arm: str, seed: int) -> dict[str, Any]:
        """Run one (arm, seed) and return what is kept of it."""
        run = self.folder(arm, seed)
        model = self.start(seed) if arm == START else self.train(arm, seed)
        logged = log_lines(run)
        head = {"arm": arm, "seed": seed, "settings": settings_hash(arm), "processor": processor()}
        head |= {"rows": self.rows(arm, seed), "steps": logged[-1]["step"], "cpu_seconds": round(spent(run), 1)}
        head["peak_gib"] = round(max(line["memory/peak_gib"] for line in logged), 2)
        curves, samples = ({}, []) if arm == START else (windows(logged), samples_over_time(run))
        told = [] if arm == START else alarms(read_run(run))
        return {
            **head,
            "curves": curves,
            "samples": samples,
            "alarms": told,
            "held_out": self.held_out(arm, seed, model),
        }


def wilson(good: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    z, share = 1.96, good / count
    middle, half = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def windows(logged: list[dict[str, Any]]) -> dict[str, list[float | None]]:
    """Return the means of the curves over windows of steps; `step` is the last step of each."""
    parts = [logged[i : i + WINDOW] for i in range(0, len(logged), WINDOW)]
    found: dict[str, list[float | None]] = {"step": [part[-1]["step"] for part in parts]}
    for name, key in CURVES.items():
        values = [[line[key] for line in part if isinstance(line.get(key), int | float)] for part in parts]
        if any(values):
            found[name] = [round(fmean(part), 3) if part else None for part in values]
    return found


def samples_over_time(run: Path) -> list[list[Any]]:
    """Return [step, [[completion, how often], ...]] of the first step, three between, and the last."""
    steps = read_completions(run, max_steps=5)
    texts = {step: Counter(record["completion"] for record in records) for step, records in steps.items()}
    return [[step, [[text[:160], n] for text, n in counts.most_common(2)]] for step, counts in texts.items()]


def read_lines(path: Path = LINES) -> list[dict[str, Any]]:
    """Return the lines of runs under the settings of today."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    lines = [line for line in lines if line["arm"] in (START, *ARMS) and "rows" in line]
    return [line for line in lines if line["settings"] == settings_hash(line["arm"])]


def main() -> int:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/study_think"))
    parser.add_argument("--lines", type=Path, default=LINES, help="file of finished runs")
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=SEEDS)
    parser.add_argument("--arms", nargs="+", choices=[*ARMS], default=[*ARMS])
    parser.add_argument("--page-only", action="store_true", help="write the page of what there is, train nothing")
    options = parser.parse_args()
    study = Study(options.out)
    for seed in options.seeds if not options.page_only else ():
        for arm in (START, *options.arms):
            known = read_lines(options.lines)
            if any((line["arm"], line["seed"], line["rows"]) == (arm, seed, study.rows(arm, seed)) for line in known):
                continue
            line = study.line(arm, seed)
            with options.lines.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
    write_page(of_same_rows(read_lines(options.lines)), [START, *ARMS], SEEDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
