"""The import rule of CONTRIBUTING.md: a line of code knows its room."""

import ast
import functools
import itertools
import re
import sys
from pathlib import Path

import pytest

from vsgrpo.spatial.question_types import QUESTION_TYPES

SRC = Path(__file__).parents[1] / "src" / "vsgrpo"
TABLE = re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", (SRC.parents[1] / "CONTRIBUTING.md").read_text(), re.M)
MAY_IMPORT = {room: set() if others == "nothing" else set(others.split(", ")) for room, others in TABLE}
"""The table of CONTRIBUTING.md: what a room may import of the project, besides itself and `terminal`."""
FILE_ROOMS = ("files", "loose_records", "paths", "records")
"""One room in four files."""
HEAVY = {"torch", "torchvision", "transformers", "trl", "peft", "accelerate", "datasets", "deepspeed"}
MAY_BE_HEAVY = ("modeling/", "training/", "families/", "evaluation/generate.py", "video/loader.py", "server_plugin/")
MAY_BE_HEAVY += ("evaluation/served.py", "trackers.py")
MAY_BE_HEAVY += ("vision_r1/chat.py", "engine/draw.py")


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
    allowed = {room, "terminal", *MAY_IMPORT[room]}
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "vsgrpo":
            target = rest.split(".")[0]
            target = "files" if target in FILE_ROOMS else target
            assert target in allowed, f"{path}: {room} may not import {name}"
        elif top in HEAVY:
            relative = path.relative_to(SRC).as_posix()
            assert relative.startswith(MAY_BE_HEAVY), f"{path}: {top} is heavy, it may stand in {MAY_BE_HEAVY} only"


def test_families_and_a_local_chat_import_heavy_libraries_only_where_they_load_a_model():
    for path in [*(SRC / "families").glob("*.py"), SRC / "vision_r1" / "chat.py"]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
                assert not HEAVY & {name.split(".")[0] for name in names}, f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_nothing_is_printed_past_the_filter_of_the_terminal(path):
    for node in nodes_of(path):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            is_constant = all(isinstance(arg, (ast.Constant, ast.Name)) for arg in node.args)  # a text of ours
            assert path.name == "terminal.py" or is_constant, f"{path}:{node.lineno}: use terminal.show"


def test_every_room_stands_in_the_table_and_every_name_there_is_a_room():
    rooms = {room_of(path) for path in FILES}
    assert rooms == set(MAY_IMPORT)
    assert set().union(*MAY_IMPORT.values()) <= rooms


def test_no_file_imports_itself_through_others():
    files = {".".join(p.relative_to(SRC.parent).with_suffix("").parts).removesuffix(".__init__"): p for p in FILES}
    graph = {}
    for name, path in files.items():
        found = {target if target in files else target.rpartition(".")[0] for target in imports(path)}
        graph[name] = (found & files.keys()) - {name}
    while ends := {name for name, others in graph.items() if not others}:  # what imports nothing that is left
        graph = {name: others - ends for name, others in graph.items() if name not in ends}
    while imported := set().union(*graph.values()) & graph.keys():  # what nothing imports leads into a circle only
        if imported == graph.keys():
            break
        graph = {name: graph[name] for name in imported}
    assert not graph, f"files in circles: {sorted(graph)}"


def test_spatial_is_pure():
    allowed = {"vsgrpo", "numpy", "scipy"} | set(sys.stdlib_module_names)
    for path in (SRC / "spatial").glob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] in allowed, f"{path}: spatial imports numpy, scipy and the standard library only"


def test_what_a_server_loads_needs_nothing_of_this_environment():
    own = {path.stem for path in (SRC / "server_plugin").glob("*.py")}
    for path in (SRC / "server_plugin").glob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] in {"torch", "vllm", *own, *sys.stdlib_module_names}, f"{path}: {name}"


def test_a_question_type_is_named_in_its_record_alone():
    for path in FILES:
        theirs = path.parent == SRC / "evaluation/benchmarks"  # names of other benchmarks' types may be the same
        if not theirs and not (path.parent == SRC / "spatial" and path.name.endswith("_types.py")):  # files of records
            texts = {node.value for node in nodes_of(path) if isinstance(node, ast.Constant)}
            named = {text for text in texts if isinstance(text, str)} & QUESTION_TYPES.keys()
            assert not named, f"{path}: {named}: ask the record for what differs by type"


def test_nobody_imports_the_command_line():
    for path in FILES:
        if room_of(path) not in ("cli", "commands"):
            assert not any(name.startswith(("vsgrpo.cli", "vsgrpo.commands")) for name in imports(path)), path


def test_nothing_reads_the_shared_folder():
    for path in FILES:
        assert "../shared" not in path.read_text(encoding="utf-8"), path


def test_no_two_test_files_have_one_name():
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert len(names) == len(set(names)), "pytest imports test files by their bare name"


def test_rows_and_rooms_are_counted_in_the_singular_too():
    # In f-strings a number stands right before its noun: `counted` writes both. Those below are 2 or more.
    plural = re.compile(r"^ (?:rows|scans|scenes|rooms)\b")
    found = {
        path.relative_to(SRC).as_posix()
        for path in FILES
        for node in nodes_of(path)
        if isinstance(node, ast.JoinedStr)
        for value, text in itertools.pairwise(node.values)
        if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant) and plural.match(text.value)
        if not (isinstance(value.value, ast.Call) and getattr(value.value.func, "id", "") == "counted")
    }
    assert found == {"data/leak_guard.py", "data/row_scan.py", "evaluation/benchmarks/vsibench.py"}
