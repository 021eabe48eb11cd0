"""Figures of the code's structure: files, lines, circles, and how many files one sample passes from scan to score.

    python scripts/house.py [--walk]

Static figures take a second. `--walk` builds a demo dataset, trains one GRPO step and evaluates a tiny model in this
process (about a minute on a CPU) and counts the files of `src/vsgrpo` in which a function ran. Work of child processes
(the video reader, maths) is not counted.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import subprocess
import sys
import tempfile
import threading
import tokenize
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src" / "vsgrpo"
MAX_LINES, MAX_FUNCTION, CRUMB = 350, 60, 60
_LAYOUT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def code_lines(text: str) -> int:
    """Count the lines that hold code: no blank lines, comments or docstrings."""
    strings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            strings |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _LAYOUT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - strings)


def long_functions(text: str) -> list[tuple[str, int]]:
    """Return (name, lines) of functions above the limit."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION:
                found.append((node.name, length))
    return found


def num_imported(module: str) -> int:
    """Count the files of ours that importing a module loads, in a new process."""
    code = f"import sys, {module}; print(sum(n.split('.')[0] == 'vsgrpo' for n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


def print_static() -> None:
    """Print what can be read off the files."""
    texts = {path.relative_to(SRC).as_posix(): path.read_text(encoding="utf-8") for path in sorted(SRC.rglob("*.py"))}
    texts = {name: text for name, text in texts.items() if text.strip()}
    code = {name: code_lines(text) for name, text in texts.items()}
    print(f"files {len(texts)}, code lines {sum(code.values())}")
    large = {name: text.count("\n") for name, text in texts.items() if text.count("\n") > MAX_LINES}
    print(f"above {MAX_LINES} lines: {len(large)} {large}")
    small = [name for name, lines in code.items() if lines < CRUMB and not name.endswith("__init__.py")]
    print(f"below {CRUMB} code lines: {len(small)} {', '.join(small)}")
    long = {name: found for name, text in texts.items() if (found := long_functions(text))}
    print(f"functions above {MAX_FUNCTION} lines: {sum(map(len, long.values()))} {long}")
    for module in ("vsgrpo.training.grpo", "vsgrpo.training.worker", "vsgrpo.launch.start", "vsgrpo.cli"):
        print(f"import {module}: {num_imported(module)} files of ours")


def _is_ours(file: str) -> bool:
    return file.startswith(str(SRC)) and file.endswith(".py")  # a template of a page runs as a function, too


class Walk:
    """Notes the files of ours in which a function runs, and how deep `logps` is called."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.depth: int | None = None

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Note one call."""
        code = frame.f_code
        # The bodies of classes and modules are no functions.
        is_function = code.co_flags & inspect.CO_OPTIMIZED and not code.co_name.startswith("<")
        if event != "call" or not is_function or not _is_ours(code.co_filename):
            return
        self.files.add(Path(code.co_filename).relative_to(SRC).as_posix())
        if code.co_name == "logps" and self.depth is None:
            self.depth = 0
            while frame.f_back is not None:
                frame = frame.f_back
                self.depth += _is_ours(frame.f_code.co_filename)


def print_walk() -> None:
    """Send one dataset through build-data, a GRPO step and eval, and print the files it passed."""
    from vsgrpo.cli import run

    walk = Walk()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, out = folder / "data", folder / "run"
        tiny = ["launch=cpu", "video.num_frames=4", "video.timeout_s=null"]
        train = ["trainer.max_steps=1", "trainer.num_generations=2", "trainer.gradient_accumulation_steps=1"]
        build = ["source=demo", "source.num_scenes=3", "build.num_workers=1"]
        commands = (
            ["build-data", *build, f"output={data}"],
            ["train", "grpo", "model=tiny", f"data={data}", f"output={out}", *tiny, *train],
            [
                "eval",
                f"model={out / 'final'}",
                f"benchmark.path={data}",
                "benchmark.split=train",
                f"output={out / 'eval'}",
                "video.timeout_s=null",
            ],
        )
        threading.setprofile(walk)
        sys.setprofile(walk)
        try:
            for words in commands:
                code = run(words)
                if code:
                    raise SystemExit(f"vsgrpo {' '.join(words)}: exit code {code}")
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    print(f"one sample from scan to score: functions of {len(walk.files)} files ran")
    print(f"frames of ours between the command and logps: {walk.depth}")
    for file in sorted(walk.files):
        print(f"  {file}")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--walk", action="store_true", help="also count the files that one sample passes")
    options = parser.parse_args()
    print_static()
    if options.walk:
        print_walk()


if __name__ == "__main__":
    main()
