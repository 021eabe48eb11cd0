"""make study-seeing: can a small language model be made to see on a CPU? Arms of SFT that differ in one thing each.

The model is `model=small_lm` (SmolLM2-135M-Instruct in a Qwen2-VL); its random tower ended at the blind floor when it
was trained with one learning rate on 960 rows, 16 a step. Here every arm answers in the plain form, and all but
`few_rows` see 48 rows a step through the tree, where the rows of a video share it. They differ from `presence` in what
they name:

    presence       the tower is warmed up by an object-presence loss on features, then all is trained, tower and merger
                   at a learning rate of their own (trainer.vision_learning_rate), five times that of the language model
    toy_presence   the tower is that of the demo's tiny model, trained on the same rooms; the merger is new
    presence_lora  the warmed-up tower stays frozen, the language model learns by LoRA
    toy            as toy_presence, without the warm-up: the demo's tower, a new merger
    two_rates      no warm-up: the random tower
    one_rate       one learning rate, that of the language model, for all
    few_rows       16 rows a step, each with its own video

Trained on unbalanced rows of rooms (three rows a room), scored greedily on balanced rows of rooms that no arm trained
on: one number for all is what text alone can reach there. An arm sees where the lower end of its 95 % interval by rooms
is above the best constant, which is chosen on the scored rows, and above what the model says without the video. The
last step counts, always; the plan was fixed before the first score was read.

Usage: study_seeing.py [--out runs/study_seeing] [--seeds 0] [--arms presence ...] [--page-only] [--small]. Each
finished (arm, seed) is one line of docs/seeing_study.jsonl; what stands there under the same settings and on the same
rows is not run again. A run that was cut goes on from its checkpoint. At the end docs/seeing_study.md gets its tables.
--small: a few rooms and steps of each part, to try the script; its lines and page stay in OUT.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from study_runs import (
    TASKS,
    last_checkpoint,
    log_lines,
    of_same_rows,
    once_per_key,
    percent,
    processor,
    rows_hash,
    spent,
    table,
    vsgrpo,
    write_between,
)
from study_seeing_tower import FRAMES, RATE, ROOMS_A_STEP, speech, warm_up, with_tower
from vsgrpo.data.rows import read_rows
from vsgrpo.families.small_lm import SMALL_LM
from vsgrpo.modeling.load import load
from vsgrpo.spatial.answers import parse_answer

DOCS = Path(__file__).resolve().parents[1] / "docs"
MARKS = ("<!-- runs: written by scripts/study_seeing.py -->\n", "<!-- end of runs -->\n")
SEEDS = (0, 1, 2)
SOURCE_SEEDS = {"train": 401, "test": 402}
BALANCE = {"train": "paper", "test": "text"}


@dataclass(frozen=True)
class Sizes:
    """How much of everything: rooms, and steps of the toy's SFT, the warm-up and an arm."""

    train: int = 1000
    test: int = 200
    toy: int = 300
    warm_up: int = 300
    steps: int = 100


SMALL = Sizes(train=20, test=20, toy=2, warm_up=3, steps=2)


@dataclass(frozen=True)
class Arm:
    """What an arm starts from, and its settings beside `SFT`."""

    name: str
    toy: bool = False
    warm: bool = True
    settings: tuple[str, ...] = ()


SFT = (
    *("launch=cpu", "prompt=vanilla", "model=small_lm", "model.dtype=bfloat16", "video.timeout_s=null"),
    *(f"video.num_frames={FRAMES}", "video.frame_cache=memory", "trainer.questions_per_video=8"),
    *("trainer.per_device_train_batch_size=24", "trainer.gradient_accumulation_steps=2", "trainer.learning_rate=2e-4"),
    *("trainer.lr_scheduler_type=cosine", "trainer.warmup_steps=10", "trainer.weight_decay=0.01"),
    *("trainer.adam_beta2=0.98", "trainer.logging_steps=5", "trainer.save_steps=50", "trainer.save_total_limit=1"),
)
"""48 rows a step: two thirds of the 7,200 row visits after which the demo's tiny model sees."""
FULL = ("model.tune=full", "model.freeze_vision=false", "trainer.vision_learning_rate=1e-3")
ONE_RATE = ("trainer.vision_learning_rate=null",)
LORA = ("model.tune=lora", "model.freeze_vision=true", "model.merge_on_save=true", "trainer.learning_rate=1e-3")
FEW = ("trainer.per_device_train_batch_size=16", "trainer.gradient_accumulation_steps=1")
FEW += ("trainer.questions_per_video=1", "trainer.shared_prefix='off'")
ARMS = (
    Arm("presence", settings=FULL),
    Arm("toy_presence", toy=True, settings=FULL),
    Arm("presence_lora", settings=LORA),
    Arm("toy", toy=True, warm=False, settings=FULL),
    Arm("two_rates", warm=False, settings=FULL),
    Arm("one_rate", settings=(*FULL, *ONE_RATE)),
    Arm("few_rows", settings=(*FULL, *FEW)),
)
"""In the order of running; of a key that is given twice the last counts."""
EVAL = ("experiment=demo_eval", "model.dtype=bfloat16", "decoding.batch_size=32", "controls=[blind]")


def settings_hash(arm: Arm, sizes: Sizes) -> str:
    """Return a short hash of everything that decides an arm's result, its seed and the machine apart."""
    settings = [asdict(arm), asdict(sizes), SOURCE_SEEDS, BALANCE, SFT, EVAL, ROOMS_A_STEP, RATE]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]


class Study:
    """Folders and runs of one study."""

    def __init__(self, out: Path, sizes: Sizes) -> None:
        self.out, self.sizes = out, sizes

    def build(self, name: str) -> Path:
        """Build a dataset unless it is there."""
        folder = self.out / "data" / name
        if not (folder / "manifest.json").is_file():
            settings = [f"source.seed={SOURCE_SEEDS[name]}", f"source.num_scenes={getattr(self.sizes, name)}"]
            settings += [f"balance.mode={BALANCE[name]}", f"output={folder}"]
            subprocess.run(vsgrpo("build-data", "experiment=demo_data", *settings), check=True, stdout=sys.stderr)
        return folder

    def rows(self) -> dict[str, str]:
        """Return the hashes of both datasets."""
        return {name: rows_hash(self.build(name)) for name in SOURCE_SEEDS}

    def train(self, run: Path, steps: int, *settings: str) -> Path:
        """Train by SFT, go on with what was cut, unless it is done; return the model."""
        if not (run / "final").is_dir():
            flag = "--resume" if last_checkpoint(run) else "--overwrite"
            given = once_per_key([*settings, f"trainer.max_steps={steps}"])
            data = self.build("train")
            subprocess.run(vsgrpo("train", "sft", *given, f"data={data}", f"output={run}", flag), check=True)
        for checkpoint in run.glob("checkpoint-*"):  # 1.6 GB each
            shutil.rmtree(checkpoint)
        return run / "final"

    def tower(self, arm: Arm, seed: int) -> tuple[Path, dict[str, Any]]:
        """Return the model that an arm starts from, made unless it is there, and what its tower cost and knows."""
        where = self.out / f"seed{seed}"
        model = where / SMALL_LM
        load(SMALL_LM, tiny_folder=model, seed=seed)
        told: dict[str, Any] = {}
        if arm.toy:
            run, small, model = where / "toy_run", model, where / "toy_tower"
            toy = self.train(run, self.sizes.toy, "experiment=demo_sft", f"run.seed={seed}", "trainer.save_steps=1000")
            told["toy_cpu"] = round(spent(run), 1)
            if not model.is_dir():
                with_tower(small, toy, model, seed=seed)
        cold, model = model, model.with_name(f"{model.name}_{'warm' if arm.warm else 'scaled'}")
        record = model.with_suffix(".json")
        if not record.is_file():
            steps = self.sizes.warm_up if arm.warm else 0
            found = warm_up(cold, self.build("train"), model, steps=steps, seed=seed)
            record.write_text(json.dumps(found), encoding="utf-8")
        return model, told | {"warm_up": json.loads(record.read_text(encoding="utf-8"))}

    def held_out(self, arm: Arm, seed: int, model: Path) -> dict[str, Any]:
        """Return scores of greedy answers about rooms never trained on, with the video and without."""
        rows, output = self.build("test"), self.out / f"seed{seed}" / f"eval_{arm.name}"
        if not (output / "results.json").is_file():
            given = [*EVAL, f"model={model}", f"benchmark.path={rows}", f"output={output}"]
            subprocess.run(vsgrpo("eval", *given), check=True, stdout=sys.stderr)
        results = json.loads((output / "results.json").read_text(encoding="utf-8"))
        lines = (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        texts = Counter(json.loads(line)["prediction"] for line in lines)
        return {
            task: {
                "score": [round(x, 4) for x in (results["scores"][task], *results["intervals"][task])],
                "constant": round(results["controls"]["best constant"][task], 4),
                "blind": round(results["controls"]["blind"][task], 4),
                "correlation": [
                    correlation(rows, output / f"predictions{kind}.jsonl", task) for kind in ("", "_blind")
                ],
            }
            for task in TASKS
            if task in results["scores"]
        } | {"n": len(lines), "distinct": len(texts)}

    def line(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Run one (arm, seed) and return what is kept of it."""
        start, told = self.tower(arm, seed)
        run = self.out / f"seed{seed}" / arm.name
        model = self.train(run, self.sizes.steps, *SFT, *arm.settings, f"model.path={start}", f"run.seed={seed}")
        logged = log_lines(run)
        return {
            "arm": arm.name,
            "seed": seed,
            "settings": settings_hash(arm, self.sizes),
            "processor": processor(),
            "rows": self.rows(),
            "steps": logged[-1]["step"],
            "cpu_seconds": round(spent(run), 1),
            "peak_gib": round(max(line["memory/peak_gib"] for line in logged), 2),
            **told,
            "loss": [[line["step"], round(line["loss"], 3)] for line in logged],
            "held_out": self.held_out(arm, seed, model),
            "speech": {"before": speech(start), "after": speech(model)},
        }


def correlation(dataset: Path, predictions: Path, task: str) -> float | None:
    """Return Pearson's correlation of a task's numeric answers with the true ones; None where they do not vary."""
    truth = {row.id: float(row.answer) for row in read_rows(dataset / "train.jsonl") if row.question_type == task}
    lines = map(json.loads, predictions.read_text(encoding="utf-8").splitlines())
    found = [(line["id"], parse_answer(line["prediction"]).number) for line in lines if line["id"] in truth]
    pairs = [(truth[key], number) for key, number in found if number is not None]
    try:
        return round(statistics.correlation(*zip(*pairs, strict=True)), 3)
    except (statistics.StatisticsError, TypeError):  # one number for all, or none
        return None


def sees(found: dict[str, Any]) -> bool:
    """Return whether a score is above the best constant and the blind answers by more than its interval."""
    return found["score"][1] > max(found["constant"], found["blind"])


def write_page(lines: Sequence[dict[str, Any]], seeds: Sequence[int], page: Path) -> None:
    """Write the tables of all finished runs, and which are missing, between the marks of the page."""
    known = {(line["arm"], line["seed"]): line for line in lines}
    done = [known[arm.name, seed] for seed in seeds for arm in ARMS if (arm.name, seed) in known]
    missing = [f"{arm.name} (seed {seed})" for seed in seeds for arm in ARMS if (arm.name, seed) not in known]
    said = f"Missing: {', '.join(missing)}. `make study-seeing` runs seed 0." if missing else "No run is missing."
    rows, talk, follow = [], [], []
    for line in done:
        warm, held = line["warm_up"], line["held_out"]
        cells = [line["arm"], str(line["seed"]), str(line["steps"]), f"{line.get('toy_cpu', 0):.0f}"]
        cells += [f"{warm['cpu_seconds']:.0f}", f"{line['cpu_seconds']:.0f}", f"{line['peak_gib']:.1f}"]
        cells += [
            f"{warm['counts_r2']:.2f}, {warm['log_area_r2']:.2f}" if "counts_r2" in warm else "",
            f"{line['loss'][-1][1]:.2f}",
        ]
        for task in TASKS:
            found = held.get(task)
            cells += [percent(found["score"]) if found else "", f"{100 * found['blind']:.0f}" if found else ""]
            cells += [f"{100 * found['constant']:.0f}" if found else "", "yes" if found and sees(found) else "no"]
        rows.append(cells)
        told = [value for task in TASKS for value in held.get(task, {}).get("correlation", (None, None))]
        follow.append([line["arm"], str(line["seed"]), *("" if value is None else f"{value:.2f}" for value in told)])
        before, after = (line["speech"][when] for when in ("before", "after"))
        replies = "<br>".join(f"`{reply}`".replace("|", "\\|").replace("\n", "\\n") for reply in after["replies"])
        talk.append([line["arm"], str(line["seed"]), f"{before['nats']:.2f}", f"{after['nats']:.2f}", replies])
    header = ["arm", "seed", "steps", "toy CPU s", "warm-up CPU s", "SFT CPU s", "peak GiB"]
    header += ["readout R2 (counts, log area)", "last loss"]
    for short in TASKS.values():
        header += [f"{short} %", "blind", "constant", "sees"]
    parts = [f"{len(done)} of {len(ARMS) * len(seeds)} runs are done. {said}\n"]
    if done:
        machines = ", ".join(sorted({line["processor"] for line in done}))
        parts += ["### Held-out rooms, greedy\n", table(header, rows)]
        parts += [f"95 % intervals by rooms. CPU seconds of one thread of: {machines}.\n"]
        columns = [f"{short}, {kind}" for short in TASKS.values() for kind in ("with the video", "without")]
        parts += ["### Correlation of the answers with the true ones\n", table(["arm", "seed", *columns], follow)]
        parts += ["### Does it still speak?\n"]
        parts += [table(["arm", "seed", "nats before", "nats after", "replies to two plain questions"], talk)]
    write_between(page, MARKS, parts)


def read_lines(path: Path, sizes: Sizes) -> list[dict[str, Any]]:
    """Return the lines of runs under the settings of today."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    hashes = {arm.name: settings_hash(arm, sizes) for arm in ARMS}
    return [line for line in lines if hashes.get(line["arm"]) == line["settings"] and "rows" in line]


def main() -> int:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/study_seeing"))
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=[0])
    parser.add_argument("--arms", nargs="+", choices=[arm.name for arm in ARMS], default=[arm.name for arm in ARMS])
    parser.add_argument("--page-only", action="store_true", help="write the page of what there is, train nothing")
    parser.add_argument("--small", action="store_true", help="a few rooms and steps, to try the script")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the commands; the next line is about this process
    torch.set_num_threads(1)
    sizes, folder = (SMALL, options.out) if options.small else (Sizes(), DOCS)
    path, page = folder / "seeing_study.jsonl", folder / "seeing_study.md"
    study = Study(options.out, sizes)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.small and not page.is_file():
        page.write_text("".join(MARKS), encoding="utf-8")
    for seed in options.seeds if not options.page_only else ():
        for arm in [arm for arm in ARMS if arm.name in options.arms]:
            known = read_lines(path, sizes)
            if any((line["arm"], line["seed"], line["rows"]) == (arm.name, seed, study.rows()) for line in known):
                continue
            line = study.line(arm, seed)
            with path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
            write_page(of_same_rows(read_lines(path, sizes)), SEEDS, page)
    write_page(of_same_rows(read_lines(path, sizes)), SEEDS, page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
