"""A text as ids are looked for in it: nothing encoded, invisible or in letters that only look like Latin ones."""

from __future__ import annotations

import html
import re
import unicodedata
from urllib.parse import unquote

_NEEDS_WORK = re.compile(r"[%&\x00-\x08\x0e-\x1f\x7f]")
_INVISIBLE = ("Cf", "Mn", "Me", "Cc")
_ALIKE = {
    "a": "\u0430\u0410\u03b1\u0391\u0251\u1d00",
    "b": "\u0432\u0412\u0392\u0299",
    "c": "\u0441\u0421\u03f2\u03c2\u03f9\u1d04\u2ca4\u2ca5\u13df\ua4da",
    "d": "\u0501\u0500\u1d05",
    "e": "\u0435\u0415\u0454\u0404\u03b5\u0395\u025b\u0259\u1d07\u04bd\u212e\u2c89\u2c88\u13ac\ua4f0",
    "f": "\u0192\ua730\u03dd",
    "i": "\u0456\u0406\u03b9\u0399\u0131\u026a\u04cf",
    "k": "\u043a\u041a\u03ba\u039a\u1d0b",
    "n": "\u03b7\u039d\u0578\u057c\u0274\u043f\u014b\u2c9a\ua4e0",
    "r": "\u0433\u0280",
    "s": "\u0455\u0405\ua731\u0282\u054f\u13da\ua4e2",
    "t": "\u0442\u0422\u03c4\u03a4\u1d1b",
    "v": "\u03bd\u0475\u1d20",
}
"""Letters of "scene", "visit", "scannet", "arkit" and hexadecimal numbers -> letters of other scripts that look so."""
_LOOKALIKES = str.maketrans({char: latin for latin, chars in _ALIKE.items() for char in chars})


def normalize(text: str) -> str:
    """Return a text in lower case, with ASCII digits and "/", nothing encoded or invisible."""
    if not text.isascii() or _NEEDS_WORK.search(text):
        for _ in range(4):  # encoded once more by each tool on the way
            before, text = text, unquote(html.unescape(unicodedata.normalize("NFKD", text)))
            if text == before:
                break
        seen = (char for char in text if char.isspace() or unicodedata.category(char) not in _INVISIBLE)
        text = "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in seen)
        text = text.translate(_LOOKALIKES)
    return text.lower().replace("\\", "/")
