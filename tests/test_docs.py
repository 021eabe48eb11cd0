"""The documentation says what is true: errors as printed, the reference as generated, links that lead somewhere."""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest

from vsgrpo.cli import run

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
MEASURED = {"demo_study.md", "reliability.md"}
"""Pages that appear when their measurements are done; links to them are not followed until then."""
SESSION = re.compile(r"```console\n(.*?)```", re.S)


def sessions(page):
    """Return [(command line, its expected lines)] of the console blocks of a page."""
    found = []
    for block in SESSION.findall(page.read_text(encoding="utf-8")):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output.strip().splitlines()))
    return found


def prepare(folder):
    """Write what the console blocks of troubleshooting.md speak of: two datasets, a model of another kind, junk."""
    row = {
        "schema_version": 1,
        "id": "q1",
        "dataset": "demo",
        "split": "train",
        "scene_name": "demo000001_00",
        "room": "demo000001",
        "question_type": "object_counting",
        "question": "How many chair(s) are in this room?",
        "options": None,
        "ground_truth": "4",
        "answer": "4",
        "answer_kind": "number",
        "unit": None,
        "media": [{"kind": "video", "path": "videos/demo/demo000001_00.mp4"}],
        "rejected": None,
        "reasoning": None,
        "objects": [],
        "generator": {},
        "extra": {},
    }
    leak = {**row, "dataset": "scannet", "scene_name": "scene0025_00", "room": "scene0025"}
    enough = [{**row, "id": f"q{number}"} for number in range(8)]
    for name, items in (("demo", enough), ("leaky", [leak])):
        (folder / "data" / name).mkdir(parents=True)
        (folder / "data" / name / "train.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "models/llama").mkdir(parents=True)
    (folder / "models/llama/config.json").write_text('{"model_type": "llama"}')
    (folder / "runs/old").mkdir(parents=True)
    (folder / "runs/old/config.yaml").write_text((ROOT / "tests/legacy/lab/run/config.yaml").read_text())
    (folder / "runs/notes").mkdir()
    (folder / "runs/notes/todo.txt").write_text("nothing of vsgrpo\n")
    (folder / "room.mp4").write_text("junk")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("command", "expected"), sessions(DOCS / "troubleshooting.md"), ids=lambda value: str(value)[:60]
)
def test_an_error_of_the_troubleshooting_page_reads_as_printed(command, expected, tmp_path, monkeypatch, capsys):
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    code = run(shlex.split(command)[1:])
    assert capsys.readouterr().err.strip().splitlines() == expected
    assert code == 2


def test_the_generated_references_are_current():
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts/make_docs.py")
    make_docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_docs)
    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == make_docs.reference(), "run scripts/make_docs.py"
    assert (DOCS / "api.md").read_text(encoding="utf-8") == make_docs.api(), "run scripts/make_docs.py"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_links_inside_the_repository_lead_to_files(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text)
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    broken = [link for link in broken if Path(link).name not in MEASURED]
    assert broken == []


@pytest.mark.integration
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_docs_exist(page, own_modules):
    """Every `vsgrpo ...` line names a command; the configs of train, eval and build lines compose."""
    from vsgrpo.cli import app
    from vsgrpo.config.compose import load_config
    from vsgrpo.evaluation.suite import split_suite
    from vsgrpo.launch.sweep import make_sweep

    known = {command.name for command in app.registered_commands}
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    own_modules(text)
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.splitlines()]
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] != ["vsgrpo"]:
            continue
        assert words[1] in known, line
        if words[1] in ("train", "eval", "build-data"):
            root = words[1].replace("-", "_")
            given = [word for word in words[2:] if "=" in word and not word.startswith("-")]
            given = [word for word in given if "$" not in word]
            given = [*([f"trainer={words[2]}"] if root == "train" else []), *given]
            runs = [run.words for run in make_sweep(given).runs] if "--sweep" in words else [given]
            runs = [own for _, own in split_suite(given)] if root == "eval" else runs
            for one in runs:
                load_config(root, one, allow_missing=True)
