"""Answers that scorers read differently: forms that models write, with letters, numbers and words; and drawn ones.

`odd_answers()` is the fixed list; `drawn_answers(n)` are n texts that hypothesis puts together from pieces of answers,
the same ones at every call.
"""

from __future__ import annotations

from functools import cache

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

FILLERS = ("A", "B", "C", "D", "E", "F", "b", "0", "3", "4", "12.5", "-1", "1,000", "three", "chair", "")
FORMS = (
    "{}",
    " {}",
    "{} ",
    "\n{}",
    "{}\n",
    "{}.",
    "{}. chair",
    "{}: chair",
    "{}) chair",
    "{}, chair",
    "({})",
    "({}) chair",
    "[{}]",
    "{{{}}}",
    "`{}`",
    "``{}``",
    "**{}**",
    "*{}*",
    '"{}"',
    "'{}'",
    "\\boxed{{{}}}",
    "$\\boxed{{{}}}$",
    "Answer: {}",
    "Answer:{}",
    "answer is {}",
    "The answer is {}",
    "The answer is: {}.",
    "The answer is ({}).",
    "My answer is {}",
    "Final answer: {}",
    "The best answer is: {}",
    "Option {}",
    "option {}.",
    "I choose {} because it is near",
    "I think it is {}, not B",
    "B or {}",
    "{} or A",
    "A. chair\nB. table\nSo {}",
    "Not {}. The answer is C",
    "<answer>{}</answer>",
    "<answer> {}. chair </answer>",
    "<think>A or B?</think>{}",
    "<think>A or B?</think>\n<answer>{}</answer>",
    "<think>{}",
    "<Answer>{}",
    '{{"answer": "{}"}}',
    "There are {} chairs",
    "about {} m",
    "{}m",
    "{} meters",
    "{} square meters",
    "From 2 to {}",
    "{}-5",
    "1. {}",
    "{}/4",
    "It is {}.",
    "Question: which? {}",
    "no answer {}",
)
PLAIN = (
    "",
    " ",
    "\n",
    ".",
    "...",
    "()",
    "``",
    "Yes",
    "No.",
    "None of the above",
    "all of them",
    "I cannot tell from the video.",
    "A B C D",
    "ABCD",
    "A, B, C",
    "a chair",
    "A chair",
    "Bed",
    "Cat",
    "The chair is closest, so A",
    "D)",
    "(d)",
    "Apple",
    "I",
    "nan",
    "inf",
    "-inf",
    "1e2",
    "1e400",
    ".5",
    "5.",
    "3.0",
    "03",
    "3,0",
    "3 000",
    "1.234,5",
    "\u00bd",
    "\u0664",
    "\uff13",
    "\uff21",
    "\u0410",
    "\u0411.",
    "\u200bB",
    "B\u00a0chair",
    "\u7b54\u6848\u662fB",
    "\u7b54\u6848\uff1aB",
    "\uff08B\uff09",
    "twenty-one",
    "a hundred and five",
    "two or 3",
    "one apple, room 2",
    "zero",
    "None",
    "null",
    "[3]",
    "[3, 4]",
    "['B']",
    "move_right:1,rotate_left:2",
    "move_right: 1.5, move_left: 0.5",
    "move_forward:0.5,rotate_right:30",
    "0.3",
    "0.29",
    "2",
    "1.99",
    "-0.0",
    "100%",
    "x" * 3000,
    "B" + " very" * 400,
    "<answer></answer>",
    "<answer>B</answer><answer>C</answer>",
    "</think>",
    "</think> B </think>",
    "B\n\nExplanation: A is far away.",
    "Explanation: A is far away.\n\nB",
    "A\nB",
)
_MARKS = (*"().:,`*'\"[]{}\n-/$\\+%", " ", " ", "  ", "\t", "\u00e9", "\u200b", "\uff22", "\u7b54\u6848")
_WORDS = (
    *("The answer is", "Answer:", "answer", "option", "is", "not", "or", "and", "a", "I", "the", "chair", "table", "m"),
    *("<answer>", "</answer>", "<think>", "</think>", "boxed{", "cm", "two", "ten", "hundred", "0.5", "1e1"),
)
_PIECES = st.sampled_from((*FILLERS[:12], *_MARKS, *_WORDS))
ANSWERS = st.one_of(st.lists(_PIECES, max_size=8).map("".join), st.lists(_PIECES, max_size=8).map(" ".join), st.text())


def odd_answers() -> list[str]:
    """Return the fixed list, each text once."""
    return list(dict.fromkeys([*(form.format(filler) for form in FORMS for filler in FILLERS), *PLAIN]))


@cache
def drawn_answers(number: int) -> tuple[str, ...]:
    """Return so many different texts, the same ones at every call."""
    found: dict[str, None] = {}

    @settings(
        max_examples=2 * number,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=(HealthCheck.too_slow,),
    )
    @given(ANSWERS)
    def draw(text: str) -> None:
        if text.isprintable() or "\n" in text:
            found.setdefault(text)

    draw()
    return tuple(found)[:number]
