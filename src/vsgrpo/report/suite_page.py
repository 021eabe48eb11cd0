"""The page of one model on several benchmarks: a line of each, published rows beside, what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vsgrpo.files import write_atomic
from vsgrpo.report.page import TEMPLATES, render


def write_suite_page(path: Path, suite: Mapping[str, Any], pages: Mapping[str, str]) -> None:
    """Write the page.

    Args:
        suite: the content of suite.json.
        pages: benchmark -> its report, relative to the page.
    """
    write_atomic(path, render(TEMPLATES / "suite.html", suite=suite, pages=pages))
