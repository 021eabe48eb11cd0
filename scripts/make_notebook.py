"""Write docs/quickstart.ipynb from docs/taste.md: text as text, bash and Python blocks as cells.

Usage: make_notebook.py            (a test compares the notebook with the page, and another runs its cells)
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, NOTEBOOK = DOCS / "taste.md", DOCS / "quickstart.ipynb"
_BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```\n", re.M | re.S)


def notebook(page: str) -> str:
    """Return the notebook of a page as JSON text; commands of bash begin with `!`, `make` is left out."""
    cells, place = [], 0
    for block in _BLOCK.finditer(page):
        if before := page[place : block.start()].strip():
            cells.append(_text(before))
        lines = block[2].rstrip("\n").split("\n")
        if block[1] == "bash":
            lines = [f"!{line.partition('  #')[0].rstrip()}" for line in lines if not line.startswith("make ")]
        if lines:
            cells.append(_cell("code", "\n".join(lines), execution_count=None, outputs=[]))
        place = block.end()
    if rest := page[place:].strip():
        cells.append(_text(rest))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _text(source: str) -> dict:
    return _cell("markdown", source)


def _cell(kind: str, source: str, **more: object) -> dict:
    lines = source.splitlines(keepends=True)
    return {"cell_type": kind, "metadata": {}, "source": lines, **more}


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(NOTEBOOK, file=sys.stderr)
