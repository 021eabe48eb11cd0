"""Make the pictures of README from a finished GRPO run: the live display as it ended, and the top of its report.

Usage: make_pictures.py runs/taste/grpo          (what `make taste` leaves; writes docs/pictures/, needs Chromium)
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console

from vsgrpo.training.live import PHASES, DisplayState, panel
from vsgrpo.training.progress import last_group

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
WIDTH, HEIGHT = 96, 20
PAGE_SIZE = "900,1180"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def live_svg(run: Path) -> str:
    """Return the live display of the last step of a run, drawn from its log, as SVG without fonts of other hosts."""
    logs = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    logs = [log for log in logs if "loss" in log]
    numbers = {name: float(value) for name, value in logs[-1].items() if isinstance(value, int | float)}
    spent = {phase: sum(log.get(f"time/{phase}", 0.0) for log in logs) for phase in PHASES}
    total, seconds = sum(spent.values()), logs[-1]["clock"] - logs[0]["clock"]
    state = DisplayState("grpo", str(run), step=len(logs), max_steps=len(logs), seconds=seconds, logs=numbers)
    state.seconds_per_step = seconds / max(len(logs) - 1, 1)
    state.rewards.extend(log["reward"] for log in logs)
    state.shares = {phase: part / total for phase, part in sorted(spent.items(), key=lambda item: -item[1]) if part}
    computed = sum(log["tokens/computed"] for log in logs)
    state.tokens_per_second = computed / seconds
    state.saving = sum(log["tokens/plain"] for log in logs) / computed
    state.sample = last_group(run / "completions.jsonl")
    console = Console(record=True, width=WIDTH, height=HEIGHT, force_terminal=True, file=io.StringIO())
    console.print(panel(state, console.size))
    svg = console.export_svg(title="vsgrpo train grpo")
    return re.sub(r"\s*@font-face \{.*?\}\n", "\n", svg, flags=re.S)


def report_png(run: Path, target: Path) -> None:
    """Write the top of a run's report.html as a picture of few colours."""
    browser = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        sys.exit("no Chromium on this machine: the picture of the report stays as it is")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
        command += ["--hide-scrollbars", f"--window-size={PAGE_SIZE}", f"--screenshot={shot}"]
        subprocess.run([*command, (run / "report.html").resolve().as_uri()], check=True, capture_output=True)
        Image.open(shot).convert("RGB").quantize(48).save(target, optimize=True)


def main(argv: list[str]) -> None:
    """Write both pictures."""
    run = Path(argv[0])
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / "live.svg").write_text(live_svg(run), encoding="utf-8")
    report_png(run, PICTURES / "report.png")
    for path in sorted(PICTURES.iterdir()):
        print(f"{path.stat().st_size:>9,}  {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
