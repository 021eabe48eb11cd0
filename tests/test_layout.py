"""The import rule of CONTRIBUTING.md: a line of code knows its room."""

import ast
import functools
import sys
from pathlib import Path

import pytest

from vsgrpo.spatial.question_types import QUESTION_TYPES

SRC = Path(__file__).parents[1] / "src" / "vsgrpo"
ROOMS = (
    "spatial",
    "scans",
    "video",
    "data",
    "memory",
    "modeling",
    "training",
    "evaluation",
    "report",
    "config",
    "tables",
)
SINGLE = (
    "cli",
    "launch",
    "doctor",
    "rewards",
    "maths",
    "plugins",
    "errors",
    "files",
    "terminal",
    "progress",
    "api",
    "run_dir",
    "run_inputs",
    "continuation",
    "supervise",
    "preflight",
    "seeds",
    "devices",
    "plugins",
)
# What a room may import of the project, besides itself.
MAY_IMPORT = {
    "errors": set(),
    "files": {"errors"},
    "terminal": set(),
    "devices": set(),
    "tables": {"errors"},
    "progress": {"terminal"},
    "spatial": {"errors"},
    "plugins": {"errors", "spatial"},
    "video": {"errors", "files"},
    "scans": {"errors", "files", "tables", "spatial", "video"},
    "config": {"devices", "errors", "files", "tables", "spatial", "plugins"},
    "maths": {"errors"},
    "rewards": {"errors", "spatial", "maths", "plugins"},
    "data": {"errors", "files", "tables", "spatial", "video", "scans", "config", "progress", "rewards", "maths"}
    | {"plugins"},
    "modeling": {"devices", "errors", "files", "tables", "video", "config", "data", "spatial"},
    "training": {"errors", "files", "tables", "spatial", "video", "config", "data", "modeling", "rewards", "progress"}
    | {"terminal", "preflight", "run_inputs", "supervise", "memory", "devices"},
    "evaluation": {
        "errors",
        "files",
        "tables",
        "spatial",
        "scans",
        "video",
        "config",
        "data",
        "modeling",
        "progress",
        "maths",
    }
    | {"rewards", "plugins"},
    "memory": {"devices", "errors", "files", "config", "data", "video"},
    "run_dir": {"errors", "files", "config", "data", "continuation"},
    "run_inputs": {"errors", "files", "config", "data", "memory", "modeling"},
    "continuation": {"errors", "files", "config"},
    "supervise": set(),
    "report": {"errors", "files", "spatial", "scans", "video", "data", "evaluation"},
    "seeds": {"errors", "files", "data"},
    "preflight": {"devices", "errors", "files", "config", "data", "rewards"},
    "launch": {
        "errors",
        "files",
        "config",
        "data",
        "modeling",
        "training",
        "memory",
        "run_dir",
        "run_inputs",
        "continuation",
        "supervise",
        "preflight",
    },
    "doctor": {"devices", "errors", "files", "video", "memory", "config", "data", "run_inputs", "preflight"},
    "api": {"errors", "files", "config", "scans", "spatial", "evaluation", "launch"},
    "__init__": {"api"},
    "cli": set(ROOMS) | set(SINGLE),
}
FILE_ROOMS = ("files", "folders", "paths", "records")
"""One room in four files."""
HEAVY = {"torch", "torchvision", "transformers", "trl", "peft", "accelerate", "datasets", "deepspeed"}
MAY_BE_HEAVY = ("modeling/", "training/", "evaluation/generate.py", "video/loader.py", "video/cache.py")


def room_of(path):
    relative = path.relative_to(SRC)
    if relative.stem in FILE_ROOMS and len(relative.parts) == 1:
        return "files"
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


@functools.cache
def nodes_of(path):
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(path):
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = sorted(path for path in SRC.rglob("*.py") if path.name != "__init__.py" or path.stat().st_size)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_every_import_is_allowed_from_its_room(path):
    room = room_of(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "vsgrpo":
            target = rest.split(".")[0]
            target = "files" if target in FILE_ROOMS else target
            assert target in (room, "terminal") or target in MAY_IMPORT[room], f"{path}: {room} may not import {name}"
        elif top in HEAVY:
            relative = path.relative_to(SRC).as_posix()
            assert relative.startswith(MAY_BE_HEAVY), f"{path}: {top} is heavy, it may stand in {MAY_BE_HEAVY} only"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_nothing_is_printed_past_the_filter_of_the_terminal(path):
    for node in nodes_of(path):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            is_constant = all(isinstance(arg, (ast.Constant, ast.Name)) for arg in node.args)  # a text of ours
            assert path.name in ("terminal.py", "progress.py") or is_constant, (
                f"{path}:{node.lineno}: use terminal.show"
            )


def test_spatial_is_pure():
    allowed = {"vsgrpo", "numpy", "scipy"} | set(sys.stdlib_module_names)
    for path in (SRC / "spatial").glob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] in allowed, f"{path}: spatial imports numpy, scipy and the standard library only"


def test_a_question_type_is_named_in_its_record_alone():
    for path in FILES:
        if path != SRC / "spatial" / "question_types.py":
            texts = {node.value for node in nodes_of(path) if isinstance(node, ast.Constant)}
            named = {text for text in texts if isinstance(text, str)} & QUESTION_TYPES.keys()
            assert not named, f"{path}: {named}: ask the record for what differs by type"


def test_nobody_imports_the_command_line():
    for path in FILES:
        if room_of(path) != "cli":
            assert not any(name.startswith("vsgrpo.cli") for name in imports(path)), path


def test_nothing_reads_the_shared_folder():
    for path in FILES:
        assert "../shared" not in path.read_text(encoding="utf-8"), path
