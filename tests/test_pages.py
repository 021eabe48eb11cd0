"""Every page in a browser at three widths, light and dark: nothing sideways, too small, or in the console."""

import re

import pytest

from browser import CHROMIUM, look
from made_pages import write_pages

pytestmark = [pytest.mark.integration, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]
WIDTHS = (420, 768, 1280)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    return write_pages(tmp_path_factory.mktemp("pages"))


@pytest.mark.parametrize("dark", [False, True])
def test_every_page_fits_its_window_and_is_readable(pages, tmp_path, dark):
    asked = [(name, width) for name in pages for width in WIDTHS]
    found = look([(pages[name], width) for name, width in asked], tmp_path, dark)
    faults = {place: seen["wide"] or seen["overflow"] for place, seen in zip(asked, found, strict=True)}
    assert not {place: what for place, what in faults.items() if what}, "wider than the window"
    small = {place: seen["small"] for place, seen in zip(asked, found, strict=True) if seen["small"]}
    assert not small, "texts below 11 pixels"
    charts = {name: seen["charts"] for (name, _), seen in zip(asked, found, strict=True) if name in ("run", "sweep")}
    assert all(extents and min(extents) > 50 for extents in charts.values()), "a chart drew next to nothing"
    assert all((sum(map(int, re.findall(r"\d+", seen["background"]))) < 200) == dark for seen in found)
