"""MindCube: questions about a scene seen in 2 to 4 images from around it (full), and a part of them (tiny).

Row files as downloaded: data/raw/MindCube_tinybench.jsonl and MindCube.jsonl {id, question ("... A. left B. right"),
images, gt_answer, category, type, ...}; or the same rows with the authors' `input_prompt`, as their
generate_prompts.py writes them; `<image>` in it is where an image is shown. Images are below the folder data/, which
holds other_all_image/. The setting (among, around, rotation) is read from the id; the mean over questions is the score.
Questions of the setting "translation" are not part of it.

The data was corrected on 2026-03-23: scores of before and after differ.

benchmark.harness:
- official (lmms-eval has the same): the last "X.", else the last letter by a list of phrases.
- easi: the same prompt; `easi_letter`.

Source: arXiv 2506.21458; mll-lab-nu/MindCube commit 6d8fd9a, src/evaluation/core/extractors.py and
src/prompt_generation/templates.py; VLMEvalKit e8e78f05, vlmeval/dataset/mindcubebench.py.
"""

from __future__ import annotations

import re
from typing import Any

from vsgrpo.data.row import Row
from vsgrpo.evaluation.accuracy import Published
from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.evaluation.export_names import ExportNames, suffixed
from vsgrpo.evaluation.row_files import Version, letter_of, question_row, text_of, texts_of
from vsgrpo.spatial.vlmevalkit_answers import easi_letter

LETTERS = "ABCDE"
_INSTRUCTION = (
    "[Task]\nYour task is to analyze the spatial arrangement of objects in the scene by examining the provided images, "
    "which show the scene from different viewpoints.\n[Answer Instruction]\nYou only need to provide *ONE* correct "
    "answer selecting from the options listed below. For example, if you think the correct answer is 'A. Above' from "
    "'A. Above B. Under C. Front D. Behind', your response should **only** be '<answer>A. Above</answer>'.\n\n"
    "[Question]\n"
)
_IMAGE = "<image>"
_BEFORE_PERIOD = re.compile(r"([A-E])\.")
_SECTION = re.compile(r"<Answer>(.*?)(?:<|$)", re.DOTALL)
_IN_SECTION = tuple(map(re.compile, (r"[Mm]y answer is ([A-E])", r"[Tt]he answer is ([A-E])", r"\b([A-E])\b")))
_PHRASES = tuple(
    map(
        re.compile,
        (
            r"(?:^|\n)(?:Answer: )?([A-E])(?:$|\s)",
            r"[*\"]([A-E])[*\"]",
            r"\bAnswer:?\s*([A-E])\b",
            r"[Mm]y answer is ([A-E])",
            r"answer is ([A-E])",
        ),
    )
)
_ALONE = re.compile(r"\b([A-E])\b")
_OPTION = re.compile(r"(?:^|\s)([A-E])\.\s+(.*?)(?=\s+[A-E]\.\s|$)", re.DOTALL)
_PAPER = "arXiv 2506.21458"
_EASI = "EASI 0c1a41e, docs/Benchmark_Verification.md"


_METRICS = suffixed("question_types", ("among", "around", "rotation"), "_accuracy")


class MindCube(Benchmark):
    """MindCube's own prompt and reader; see the module's docstring."""

    title = "MindCube"
    media_in_text = True
    suffixes = (".jsonl",)
    columns = ("id", "question", "images", "gt_answer")
    question_types = ("rotation", "among", "around", "other")
    harnesses = ("official", "easi")
    headline = "micro"
    scorer = "the last letter before a period, else by MindCube's list of phrases"
    export_names = (
        ExportNames(
            "mindcube_tiny",
            "overall_accuracy",
            metrics=_METRICS,
            easi="mindcube_tiny",
            easi_scores={metric: metric for metric in _METRICS},
        ),
        ExportNames("mindcube_full", "overall_accuracy", metrics=_METRICS, part="full"),
    )
    versions = (
        Version("tiny at 9c941b46", 1050, "0289eb82d81ff9aa0201ae75f86da7fd1924cf23dc202856d0579a0effd22ac8"),
        Version("tiny", 1050),
        Version("full", 21154),
    )
    published = (
        Published("Qwen2.5-VL-3B, tiny", 0.3781, f"{_PAPER}, as {_EASI} has it"),
        Published("Qwen2.5-VL-3B, tiny, by VLMEvalKit", 0.3788, _EASI),
        Published("Qwen2.5-VL-3B, tiny, by lmms-eval", 0.3686, _EASI),
        Published("Qwen2.5-VL-3B, full", 0.3321, f"{_PAPER}; 0.3608 by the authors' code"),
        Published("Qwen2.5-VL-7B, full", 0.2926, f"{_PAPER}; 0.3112 by the authors' code"),
    )

    @classmethod
    def row(cls, data: dict[str, Any], where: str) -> Row:
        """Return the row of a record; its options are those that the question's text lists, if it does."""
        name, question = text_of(data, "id", where), text_of(data, "question", where)
        letter = letter_of(data, "gt_answer", LETTERS, where)
        options = options_of(question)
        if options and letter not in LETTERS[: len(options)]:
            options = None  # the text lists them in another form
        return question_row(
            name,
            question,
            options[LETTERS.index(letter)] if options else letter,
            [("image", path) for path in texts_of(data, "images", where)],
            dataset="mindcube",
            question_type=setting_of(name),
            options=options,
            ground_truth=letter,
            extra={"input_prompt": data["input_prompt"]} if data.get("input_prompt") else {},
        )

    def official_text(self, row: Row) -> str:
        """Return the authors' `input_prompt`, or what they make of a raw row: task, how to answer, question.

        As in the harnesses, blanks around the places of images are left out.
        """
        prompt = row.extra.get("input_prompt") or f"{_INSTRUCTION}{row.question}"
        parts = prompt.split(_IMAGE)
        return _IMAGE.join(part.strip() for part in parts) if len(parts) > 1 else prompt

    def read_answer(self, row: Row, answer: str) -> str | None:
        """Return the letter that the harness reads."""
        read = easi_letter if self.harness == "easi" else mindcube_letter
        return read(answer) or None


def setting_of(name: str) -> str:
    """Return the setting of a question by its id: the first of these words in it, else other."""
    words = ("around", "rotation", "translation", "among")
    return next((word for word in words if word in name.lower()), "other")


def options_of(question: str) -> tuple[str, ...] | None:
    """Return the options that the text of a question lists (" A. left B. right"), None for another form."""
    found = _OPTION.findall(question)
    letters, options = "".join(letter for letter, _ in found), tuple(option.strip() for _, option in found)
    return options if len(options) > 1 and letters == LETTERS[: len(options)] and all(options) else None


def mindcube_letter(answer: str) -> str:
    """Return the letter A to E that MindCube reads; "" for none.

    The last letter before a period; else, behind `<Answer>`, the last of the first phrase that is there; else the same
    in the whole text; else the first letter alone in the lowest line that has one.
    """
    if found := _BEFORE_PERIOD.findall(answer):
        return found[-1]
    section = _SECTION.search(answer)
    for text, patterns in ((section[1] if section else "", _IN_SECTION), (answer, _PHRASES)):
        for pattern in patterns:
            if found := pattern.findall(text):
                return found[-1]
    lines = (_ALONE.search(line) for line in reversed(answer.split("\n")))
    return next((line[1] for line in lines if line), "")
