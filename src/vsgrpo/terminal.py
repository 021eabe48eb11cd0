"""What reaches a terminal: text of rows, models and endpoints, with nothing in it that could steer one."""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO

_ESCAPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories shown as escapes: controls (ESC, C1), formats (text direction), lone surrogates, separators."""
_JOINERS = "\u200c\u200d"
"""Formats that only join letters or emoji."""


def printable(text: str, keep: str = "\n\t") -> str:
    """Return text with what a terminal would obey written as an escape: `\\x1b`, `\\u202e`, `\\ud83d`.

    Args:
        keep: control characters to leave as they are; "" for text that must stay on one line.
    """
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable() or letter in keep + _JOINERS or unicodedata.category(letter) not in _ESCAPED
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


def show(text: str, stream: TextIO | None = None) -> None:
    """Print text that may hold anything, on stdout unless told otherwise."""
    print(printable(text), file=stream or sys.stdout)


def complain(message: str, hint: str) -> None:
    """Print one `error:` and one `hint:` line on stderr."""
    print(f"error: {printable(message, keep='')}", file=sys.stderr)
    if hint:
        print(f"hint: {printable(hint, keep='')}", file=sys.stderr)
