"""The walk of a new user: its page has every step of the script, and no step uses a word that no page explains."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "scripts"))

from first_hours import undocumented  # noqa: E402
from first_hours_steps import PARTS  # noqa: E402

PAGE = ROOT / "docs" / "first_hours.md"
STEPS = [step for steps in PARTS.values() for step in steps]


def test_the_page_has_every_step_in_order():
    page = PAGE.read_text(encoding="utf-8")
    typed = [step.command.replace("|", "\\|") for step in STEPS]
    assert re.findall(r"^\| `(.*)` \| [\d.]+ \| [\d.]+ \| ", page, re.M) == typed
    assert "**" not in "".join(line for line in page.splitlines() if line.startswith("| `"))  # nothing went wrong


@pytest.mark.parametrize("step", [step for step in STEPS if not step.is_wrong], ids=lambda step: step.command[:60])
def test_every_word_is_explained_on_a_page(step):
    pages = [ROOT / "README.md", ROOT / "data" / "README.md", *(p for p in (ROOT / "docs").glob("*.md") if p != PAGE)]
    assert undocumented(step.command, "\n".join(page.read_text(encoding="utf-8") for page in pages)) == []


def test_a_word_that_no_page_has_is_named():
    assert undocumented("vsgrpo train grpo data=x --sweep", "vsgrpo train data= `vsgrpo train`") == ["--sweep"]
    assert undocumented("vsgrpo frob trainer.frob=1 | head", "trainer.lr=") == ["vsgrpo frob", "trainer.frob="]
