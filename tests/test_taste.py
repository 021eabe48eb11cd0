"""The taste tier: its notebook is its page, and its cells run from an empty folder to a reward that rises."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def test_the_notebook_is_that_of_the_page():
    spec = importlib.util.spec_from_file_location("make_notebook", ROOT / "scripts" / "make_notebook.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (ROOT / "docs" / "taste.md").read_text(encoding="utf-8")
    assert NOTEBOOK.read_text(encoding="utf-8") == script.notebook(page), "run scripts/make_notebook.py"
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    commands = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert [text.split()[0] for text in commands] == ["!vsgrpo", "!vsgrpo", "!vsgrpo", "import"]


@pytest.mark.slow
def test_the_cells_of_the_notebook_run(tmp_path):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            words = ["bash", "-c", source[1:]] if source.startswith("!") else [sys.executable, "-c", source]
            subprocess.run(words, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert (tmp_path / "runs/taste/grpo/report.html").is_file()
