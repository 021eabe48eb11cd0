"""Build the documentation as a searchable site from the Markdown of README.md, docs/ and data/README.md.

Usage: make_site.py [FOLDER]          (site/ by default; `python -m http.server -d FOLDER` serves it with its search)

The pages are what the repository shows: links between them lead to pages of the site, links to other files of the
repository become their names. No page asks another host for anything: no fonts, no scripts, no pictures from elsewhere.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
PAGES |= {"data/README.md": "data.md"}
"""File of the repository -> page; those of docs/ keep their names."""
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
CONFIG = {
    "site_name": "vsgrpo",
    "site_description": "GRPO for visual-spatial reasoning in video",
    "use_directory_urls": False,
    "theme": {
        "name": "material",
        "font": False,
        "features": ["navigation.top", "search.highlight", "search.suggest", "content.code.copy", "toc.follow"],
        "palette": [
            {"media": "(prefers-color-scheme: light)", "scheme": "default"},
            {"media": "(prefers-color-scheme: dark)", "scheme": "slate"},
        ],
    },
    "plugins": ["search"],
    "extra": {"generator": False},
    "markdown_extensions": ["tables", "fenced_code", "toc", "sane_lists", "admonition"],
    "validation": {"links": {"not_found": "warn", "anchors": "warn"}},
}


def pages() -> dict[str, str]:
    """Return file of the repository -> page."""
    return {**PAGES, **{f"docs/{path.name}": path.name for path in sorted((ROOT / "docs").glob("*.md"))}}


def rewritten(source: str, text: str, known: dict[str, str]) -> str:
    """Return the Markdown of a page with its links made those of the site.

    Args:
        source: file of the repository, from which links are relative.
    """

    def link(found: re.Match[str]) -> str:
        mark, label, target = found.groups()
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        path, hash_sign, anchor = target.partition("#")
        name = os.path.normpath(os.path.join(os.path.dirname(source), path))
        if name in known:
            return f"{mark}[{label}]({known[name]}{hash_sign}{anchor})"
        if mark or (ROOT / name).suffix in (".html", ".ipynb", ".png", ".svg"):
            return f"{mark}[{label}](files/{name})"
        return label if label.startswith("`") else f"{label} (`{name}`)"

    parts = re.split(r"(^```.*?^```[^\n]*$)", text, flags=re.M | re.S)  # code stays as it is
    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in parts)


def write_sources(folder: Path) -> None:
    """Write the pages and the files that they show into a folder."""
    known = pages()
    for source, page in known.items():
        text = rewritten(source, (ROOT / source).read_text(encoding="utf-8"), known)
        (folder / page).write_text(text, encoding="utf-8")
        for name in re.findall(r"\]\(files/([^)\s]+)\)", text):
            (folder / "files" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "files" / name)


def navigation() -> list[dict[str, str]]:
    """Return the pages in the order of README's list of documents, then the rest."""
    known = pages()
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("## Documentation")[1]
    listed = [(label, f"docs/{name}") for label, name in re.findall(r"\[([^\]]+)\]\(docs/([\w.]+\.md)\)", readme)]
    found = {known[source]: label for label, source in reversed(listed) if source in known}
    ordered = [{label: known[source]} for label, source in dict(listed).items() if source in known]
    rest = [{"Data": "data.md"}, {"Changelog": "changelog.md"}, {"Contributing": "contributing.md"}]
    missing = [{page.removesuffix(".md"): page} for page in known.values() if page not in {*found, *_pages_of(rest)}]
    return [{"Overview": "index.md"}, *ordered, *rest, *(item for item in missing if "index.md" not in item.values())]


def _pages_of(entries: list[dict[str, str]]) -> list[str]:
    return [page for entry in entries for page in entry.values()]


def main(argv: list[str]) -> int:
    """Build the site; a link that leads nowhere fails it."""
    output = Path(argv[0] if argv else ROOT / "site").resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "docs").mkdir()
        write_sources(folder / "docs")
        config = {**CONFIG, "docs_dir": str(folder / "docs"), "site_dir": str(output), "nav": navigation()}
        (folder / "mkdocs.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(folder / "mkdocs.yml")]
        code = subprocess.run(command, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=False).returncode
    if code == 0:
        print(output / "index.html")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
