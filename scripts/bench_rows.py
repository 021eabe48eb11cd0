"""Time and memory of a million rows in every command that reads rows, each as a process of its own.

    python scripts/bench_rows.py [--rows 1000000] [--videos 200]

Writes N rows of another project's form (eight question types of VSI-Bench, half of them about ScanNet's training scans)
and small videos into a temporary folder, then runs import-data, check-data twice (the second time media are
remembered), `train grpo --dry-run`, score and inspect. Seconds by the clock and of the CPU are those of the command and
its children; peak MB is that of its largest process, all MB of all of its processes together.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from vsgrpo.data.room_ids import room_of
from vsgrpo.tables import denied_rooms, split_ids
from vsgrpo.video.writer import write_video

_VSGRPO = "import sys; from vsgrpo.cli import run; sys.exit(run(sys.argv[1:]))"
_WORDS = ("bed", "sink", "lamp", "tv", "chair", "table", "desk", "sofa", "door", "window", "stove", "shelf")
_NUMBERS = {
    "object_abs_distance": "Measuring from the closest point of each object, what is the distance between the {} and "
    "the {} (in meters)?",
    "object_size_estimation": "What is the length of the longest dimension of the {} beside the {}, in centimeters?",
    "room_size_estimation": "What is the size of this room with the {} and the {} (in square meters)?",
    "object_counting": "How many {}(s) are in this room with a {}?",
}
_CHOICES = {
    "object_rel_distance": "Measuring from the closest point of each object, which of these objects is the closest to "
    "the {}, not the {}?",
    "object_rel_direction_hard": "If I am standing by the {} and facing the {}, where is the lamp?",
    "obj_appearance_order": "What will be the first-time appearance order of the following categories in the video: "
    "{}, {}?",
    "route_planning": "You are a robot beginning at the {} facing the {}. Which turns lead to the door?",
}


def write_foreign_rows(path: Path, count: int, scenes: list[str]) -> None:
    """Write `count` rows that ask different questions about the scenes, in turn."""
    rng = np.random.default_rng(0)
    templates = [*_NUMBERS.items(), *_CHOICES.items()]
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            kind, text = templates[number % len(templates)]
            scene = scenes[number // len(templates) % len(scenes)]
            picked = [_WORDS[place] for place in rng.permutation(len(_WORDS))[:4]]
            row = {"id": number, "scene_name": scene, "video": f"videos/{scene}.mp4", "question_type": kind}
            row["question"] = f"{text.format(*picked)} (question {number})"
            if kind in _NUMBERS:
                row |= {"options": None, "ground_truth": f"{rng.integers(10, 999) / 10}"}
            else:
                options = [f"{letter}. {word}" for letter, word in zip("ABCD", picked, strict=True)]
                row |= {"options": options, "ground_truth": "ABCD"[rng.integers(4)]}
            stream.write(json.dumps(row) + "\n")


def scene_names(count: int) -> list[str]:
    """Return ScanNet training scans outside the benchmark, and clips of a data set nobody knows, in turn."""
    denied = {room for _, room in denied_rooms()}
    scans = [scan for scan in split_ids("train") if room_of(scan) not in denied]
    return [scans[k // 2] if k % 2 and k // 2 < len(scans) else f"clip{k:07d}" for k in range(count)]


def write_videos(folder: Path, scenes: list[str]) -> None:
    """Write one small film per scene, each with bytes of its own."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    write_video(folder / "film.mp4", (rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(8)), fps=4)
    content = (folder / "film.mp4").read_bytes()
    (folder / "film.mp4").unlink()
    for number, scene in enumerate(scenes):  # a box that readers skip makes each copy another file
        (folder / f"{scene}.mp4").write_bytes(content + (12).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big"))


def write_predictions(path: Path, rows: Path) -> None:
    """Write an answer to every row."""
    with rows.open(encoding="utf-8") as stream, path.open("w", encoding="utf-8") as out:
        for line in stream:
            row = json.loads(line)
            text = row["ground_truth"] if len(row["id"]) % 3 else "A. something"
            out.write(json.dumps({"id": row["id"], "prediction": text}) + "\n")


class Measured:
    """A command run to its end: seconds, CPU seconds, and MB of its largest process and of all at once."""

    def __init__(self, words: list[str], environment: dict[str, str], out: Path) -> None:
        self._peak_each: dict[int, int] = {}
        self._peak_sum = 0
        self._ended = threading.Event()
        before, start = os.times(), time.monotonic()
        with out.open("w") as stream:
            command = [sys.executable, "-c", _VSGRPO, *words]
            process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
            watcher = threading.Thread(target=self._watch, args=(process.pid,))
            watcher.start()
            self.code = process.wait()
        self.seconds = time.monotonic() - start
        self._ended.set()
        watcher.join()
        after = os.times()
        self.cpu = after.children_user + after.children_system - before.children_user - before.children_system
        self.largest = max(self._peak_each.values(), default=0) / 1e6
        self.together = self._peak_sum / 1e6

    def _watch(self, pid: int) -> None:
        while not self._ended.wait(0.1):
            now = 0
            try:
                for process in (parent := psutil.Process(pid), *parent.children(recursive=True)):
                    size = process.memory_info().rss
                    now += size
                    self._peak_each[process.pid] = max(self._peak_each.get(process.pid, 0), size)
            except psutil.NoSuchProcess:
                continue
            self._peak_sum = max(self._peak_sum, now)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--only", nargs="*", help="names of the commands to run after import-data")
    parser.add_argument("--keep", type=Path, help="a folder for rows and output that stays")
    args = parser.parse_args()
    folder = args.keep or Path(tempfile.mkdtemp(prefix="bench_rows."))
    try:
        run_all(folder, args.rows, args.videos, args.only)
    finally:
        if args.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def run_all(folder: Path, num_rows: int, num_videos: int, only: list[str] | None) -> None:
    """Make the files, run the commands, print a table."""
    folder.mkdir(parents=True, exist_ok=True)
    source, data = folder / "source", folder / "data"
    if not source.exists():
        source.mkdir()
        scenes = scene_names(num_videos)
        write_videos(source / "videos", scenes)
        write_foreign_rows(source / "rows.jsonl", num_rows, scenes)
    commands = {
        "import-data": ["import-data", str(source / "rows.jsonl"), f"output={data}", "--overwrite"],
        "check-data": ["check-data", str(data)],
        "check-data, again": ["check-data", str(data)],
        "train --dry-run": ["train", "grpo", f"data={data}", "model=tiny", "launch=cpu", "output=run", "--dry-run"],
        "score": ["score", str(folder / "predictions.jsonl"), f"benchmark.path={data / 'train.jsonl'}"],
        "inspect": ["inspect", str(data), "--limit", "5"],
    }
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    print(f"{num_rows:,} rows, {num_videos:,} videos, {os.cpu_count()} cores")
    print(f"{'command':<20} {'seconds':>8} {'CPU s':>8} {'peak MB':>8} {'all MB':>8}")
    for name, words in commands.items():
        if only is not None and name not in only and (name != "import-data" or data.exists()):
            continue
        if name == "score" and not (folder / "predictions.jsonl").exists():
            write_predictions(folder / "predictions.jsonl", data / "train.jsonl")
        found = Measured(words, environment, folder / "output.txt")
        numbers = f"{found.seconds:8.1f} {found.cpu:8.1f} {found.largest:8.0f} {found.together:8.0f}"
        print(f"{name:<20} {numbers}" + (f"  (exit {found.code})" if found.code else ""), flush=True)
        if found.code:
            print((folder / "output.txt").read_text(encoding="utf-8")[-2000:], file=sys.stderr)


if __name__ == "__main__":
    main()
