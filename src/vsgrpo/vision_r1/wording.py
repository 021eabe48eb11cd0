"""What the generators are asked, step by step.

Source: arXiv 2503.06749 section 3.2 for what each step is given and writes. Deviation: the paper prints its prompts
as figures; the sentences here are ours.
"""

from __future__ import annotations

from vsgrpo.data.prompts import option_lines
from vsgrpo.data.row import Row

VERSION = 1
"""Counts up with every change of a sentence: it is part of the cache key."""

_SHOWN = {"image": "the image", "images": "the images", "video": "the video (frames of it in order)"}


def shown_name(row: Row) -> str:
    """Return image, images or video: what the row's question is about."""
    if any(media["kind"] == "video" for media in row.media):
        return "video"
    return "image" if len(row.media) == 1 else "images"


def question_lines(row: Row) -> str:
    """Return the question and, of a choice question, its lettered options."""
    if row.answer_kind == "choice" and row.options is not None:
        return "\n".join([row.question, "Options:", *option_lines(row.options)])
    return row.question


def pseudo_cot_text(row: Row) -> str:
    """Step a: caption and reasoning from the pictures, the question and its right answer."""
    return (
        f"Question about {_SHOWN[shown_name(row)]}:\n{question_lines(row)}\n\nThe right answer is: {row.answer}\n\n"
        "First write a caption of everything in the picture that bears on the question. Then reason step by step from "
        "what is seen to the answer. Use the headings Caption: and Reasoning:."
    )


def description_text(row: Row, pseudo_cot: str) -> str:
    """Step b: a description that lets someone answer who sees nothing."""
    return (
        f"Question about {_SHOWN[shown_name(row)]}:\n{question_lines(row)}\n\nDraft of a solution:\n{pseudo_cot}\n\n"
        f"Write a detailed description of {_SHOWN[shown_name(row)]} for someone who cannot see it and has to answer "
        "the question from your words alone: every object, label, number, length, angle, position and relation that is "
        "needed. Describe only; do not solve the question and do not state its answer."
    )


def reasoning_text(row: Row, description: str) -> str:
    """Step c: the chain of thought by a reasoner that sees no picture."""
    name = shown_name(row)
    final = {
        "number": f"a number{_unit_words(row.unit)}, digits only",
        "choice": "the letter of the right option",
        "text": "the answer alone, a letter for a multiple-choice question",
    }[row.answer_kind]
    return (
        f"What is seen in the {name}:\n{description}\n\nQuestion:\n{question_lines(row)}\n\n"
        f"Think step by step, as if you were looking at the {name} yourself: speak of the {name}, never of a "
        "description, a text, a list or given data. Put your thinking between <think> and </think>, then give "
        f"{final}, between <answer> and </answer>. Answer in English."
    )


def _unit_words(unit: str | None) -> str:
    words = {"m": " of metres", "m2": " of square metres", "cm": " of centimetres"}
    return words.get(unit or "", "")
