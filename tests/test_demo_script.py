"""`make demo`'s script at a small size: the whole chain, its table, its page, and a second run."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from browser import CHROMIUM, look

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.integration
SMALL = """#!/bin/sh
words="$*"
case "$1" in
  build-data) more="source.num_scenes=6 build.num_workers=1" ;;
  train) more="trainer.max_steps=4 trainer.save_steps=2 trainer.logging_steps=1 video.num_frames=4" ;;
  eval) more="decoding.batch_size=8" ;;
esac
case "$1 $2" in
  "train sft") more="$more trainer.per_device_train_batch_size=4" ;;
  "train grpo") more="$more trainer.per_device_train_batch_size=16" ;;
esac
echo "$words" >> {calls}
exec {python} -m vsgrpo.cli "$@" $more
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Return (folder of a small demo, a function that runs its script once more)."""
    folder = tmp_path_factory.mktemp("demo")
    small = folder / "vsgrpo"
    small.write_text(SMALL.format(calls=folder / "calls", python=sys.executable))
    small.chmod(0o755)
    chosen = {"VSGRPO": str(small), "PYTHON": sys.executable, "DEMO_DIR": str(folder / "out"), "OMP_NUM_THREADS": "1"}

    def start():
        return subprocess.run(
            ["bash", str(ROOT / "scripts/demo.sh")], env={**os.environ, **chosen}, capture_output=True, text=True
        )

    return folder, start


def test_the_script_ends_with_a_table_and_a_page(demo, tmp_path):
    _, start = demo
    done = start()
    assert done.returncode == 0, done.stderr[-3000:]
    table, (page,) = done.stdout.splitlines()[:-1], done.stdout.splitlines()[-1:]
    names = [line.split("  ")[0] for line in table]
    assert names[:4] == ["held-out rooms, MRA %", "best constant", "SFT cold start", "GRPO"]
    assert names[4].startswith("shuffled: every question is shown the video of another room")
    assert len(re.findall(r"\d+\.\d", table[3])) == 9  # counting, room size, mean; greedy, sampled, shuffled
    for part in ("1/4 build-data", "2/4 train sft", "3/4 train grpo", "4/4 eval", "done in"):
        assert part in done.stderr
    text = Path(page).read_text()
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text
    for heading in ("Rooms", "Answers"):
        assert re.search(rf"<h2[^>]*>[^<]*{heading}", text, re.I), heading
    assert text.count('<i class="lamp ') == 3 and "the training rows' counts" in html.unescape(text)
    assert (Path(page).parent / re.search(r'href="([^"]*trust\.html)"', text)[1]).is_file()
    assert text.count("data:image/") >= 11  # frames of six rooms and five answers
    if CHROMIUM is not None:
        for dark in (False, True):
            for seen in look([(Path(page), width) for width in (420, 768, 1280)], tmp_path, dark):
                assert seen["overflow"] == 0, seen["wide"]
                assert not seen["small"], "texts below 11 pixels"
                assert seen["charts"] and min(seen["charts"]) > 50


@pytest.mark.slow
def test_a_second_run_trains_nothing(demo):
    folder, start = demo
    if not (folder / "out/grpo/final").is_dir():
        assert start().returncode == 0
    (folder / "calls").write_text("")
    done = start()
    assert done.returncode == 0, done.stderr[-3000:]
    assert "train" not in {line.split()[0] for line in (folder / "calls").read_text().splitlines()}
    assert done.stderr.count("is there already") == 2
