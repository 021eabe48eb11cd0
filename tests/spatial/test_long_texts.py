"""Texts of fifty thousand characters that patterns with a run inside a run would read for hours."""

from __future__ import annotations

import pytest

from vsgrpo.spatial.answers import EASI, SCORERS, parse_answer, read_letter, read_number
from vsgrpo.spatial.maps import read_map_as

SIZE = 50_000
TEXTS = [
    " ",
    "{",
    "[",
    "(",
    "*",
    "<",
    "answer ",
    "<answer ",
    "<answer>",
    "<answer>A",
    "<answer>3",
    "</answer>",
    "A ",
    "3",
]
TEXTS += ["<map>", "1,", ".", "B. ", "Option A: ", "- ", "\n"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("frame", ["x{}x", "answer{}A"])
def test_every_reader_is_done_with_a_long_text(text: str, frame: str) -> None:
    # The test's value is that it ends: read once per start, 5e4 characters take 1e9 steps and more.
    long = frame.format(text * (SIZE // len(text)))
    parse_answer(long, "think")
    for scorer in (*SCORERS, EASI):
        assert isinstance(read_letter(scorer, long, ["left", "right"]), str)
        assert read_number(scorer, "object_counting", long) != -1.0
        assert read_map_as(scorer, long) is None
