"""Size of a run report and seconds until a browser shows it, of a made-up run (needs Chromium for the second).

python scripts/bench_report.py [--steps 2000] [--types 10] [--data DATASET_FOLDER]

The run logs every step with a reward per question type and has 14 completions a step; with --data (a dataset folder,
such as runs/demo/data/rl) questions and frames stand beside them.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import subprocess
import tempfile
import time
from itertools import islice
from pathlib import Path

from vsgrpo.data.row import Row
from vsgrpo.data.rows import read_rows
from vsgrpo.report.run_page import write_report

CONFIG = """run: {{dir: x, name: null, seed: 0}}
model: {{path: Qwen/Qwen2-VL-2B-Instruct}}
data: {{path: {data}, split: train, mix: null}}
video: {{num_frames: 16, max_pixels: 100352}}
trainer: {{name: grpo, beta: 0.0001}}
"""
NAMES = ("reward", "kl", "entropy", "grad_norm", "learning_rate", "reward_std", "frac_reward_zero_std", "loss")
NAMES += ("completions/mean_length", "completions/clipped_ratio", "parse_failure/number", "alarm/truncated")
NAMES += ("rewards/accuracy_reward/mean", "rewards/format_reward/mean", "time/generate", "time/update", "time/vision")
CLOCK = "<script>addEventListener('load', () => setTimeout(() => { document.title = performance.now(); }, 0))</script>"


def write_run(folder: Path, steps: int, types: int, data: Path | None) -> None:
    """Write config.yaml, log.jsonl and completions.jsonl of a run that never was."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG.format(data=data or "none"))
    rows: list[Row] = list(islice(read_rows(data / "train.jsonl"), 400)) if data else []
    with (folder / "log.jsonl").open("w") as log, (folder / "completions.jsonl").open("w") as said:
        for step in range(1, steps + 1):
            wave = 0.5 + 0.3 * math.sin(step / 90) + 0.1 * math.sin(step * 7.7)
            values = dict.fromkeys(NAMES, wave) | {f"reward/type_{i}": wave * i / types for i in range(types)}
            head = {"schema_version": 1, "step": step, "stage": 0, "tokens/computed": 100, "tokens/plain": 700}
            log.write(json.dumps(head | values) + "\n")
            for index in range(14):
                row = rows[step % len(rows)] if rows else None
                record = {"schema_version": 1, "step": step, "id": row.key if row else f"made/{step}"}
                record |= {"question_type": row.question_type if row else f"type_{step % types}", "index": index}
                record |= {"completion": f"<think>{'some words ' * 40}</think><answer>{index % 5}</answer>"}
                record |= {"num_tokens": 90, "answer": "4", "reward": float(index % 5 == 4), "advantage": 0.0}
                said.write(json.dumps(record) + "\n")


def seconds_to_show(page: Path, folder: Path) -> float | None:
    """Return seconds from the start of the navigation to the end of `load`, None without Chromium."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        return None
    probe = folder / "probe.html"
    probe.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{CLOCK}</body>"), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1280,2000"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={folder / 'profile'}", "--dump-dom", probe.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    found = re.search(r"<title>([\d.]+)</title>", shown)
    if found is None:
        raise RuntimeError("the page did not finish to load")
    return float(found.group(1)) / 1000


def main() -> None:
    """Print size and seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--types", type=int, default=10)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        write_run(run, options.steps, options.types, options.data)
        began = time.process_time()
        page = write_report([run]).path
        print(f"written in {time.process_time() - began:.2f} CPU s; {page.stat().st_size / 1e6:.2f} MB")
        shown = seconds_to_show(page, Path(name))
        print("no Chromium here" if shown is None else f"loaded in {shown:.2f} s")


if __name__ == "__main__":
    main()
