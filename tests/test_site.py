"""`make site`: every page of the documentation, no dead link, and nothing that another host would be asked for."""

import importlib.util
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "make_site.py"


def script():
    spec = importlib.util.spec_from_file_location("make_site", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Assets(HTMLParser):
    """Collects what a browser fetches for a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.found += [given[name] for name in ("src", "srcset", "poster", "data") if given.get(name)]
        if tag == "link":
            self.found.append(given.get("href") or "")


def test_links_lead_to_pages_or_become_names():
    known = script().pages()
    code = "\n```\n[f](docs/trust.md)\n```\n"
    text = "[a](docs/trust.md#lamps) [b](scripts/demo.sh) [`c`](configs) [d](https://x.y) [e](#here)"
    expected = "[a](trust.md#lamps) b (`scripts/demo.sh`) `c` [d](https://x.y) [e](#here)"
    assert script().rewritten("README.md", text + code, known) == expected + code
    assert (
        script().rewritten("docs/limits.md", "[a](../data/README.md) [b](gpu.md)", known) == "[a](data.md) [b](gpu.md)"
    )


@pytest.mark.integration
def test_the_site_asks_no_other_host_and_can_be_searched(tmp_path):
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install 'vsgrpo[docs]'")
    subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], check=True, capture_output=True)  # dead links fail it
    pages = list(tmp_path.rglob("*.html"))
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} < {page.stem for page in pages}
    for page in pages:
        assets = Assets()
        assets.feed(page.read_text(encoding="utf-8"))
        assert not [place for place in assets.found if re.match(r"(https?:)?//", place)], page
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text(encoding="utf-8")), style
    index = json.loads((tmp_path / "search" / "search_index.json").read_text())
    assert any("prefix tree" in item["text"] for item in index["docs"])
