"""Readers of answers that benchmarks' authors published, called as their scripts call them; part of harness_worker.py.

Their scripts load models or read results when they are imported, so the functions alone are taken from the file, as
they stand there, and run. Prompts are made within most of those scripts and cannot be called.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import pandas as pd

Reader = Callable[[Mapping[str, Any], dict[str, Any], str], float]


def _sti(code: Mapping[str, Any], doc: dict[str, Any], answer: str) -> float:
    """Score as the column `correct` of opensource_test.py."""
    said = code["extract_answer"](answer) or answer.strip()
    return float(said[-1] in "ABCDE" and said[-1] == doc["Answer"])


def _spbench(code: Mapping[str, Any], doc: dict[str, Any], answer: str) -> float:
    """Score as vsibench_eval, whose mode is "thinking" unless another is given."""
    said = code["extract_answer_text"](answer) if "<answer>" in answer else answer
    scored = code["vsibench_process_results"]({**doc, "predicted_answer": said})
    return float(scored["accuracy"] if "accuracy" in scored else scored["MRA:.5:.95:.05"])


def _mmsi(code: Mapping[str, Any], doc: dict[str, Any], answer: str) -> float:
    """Score by the function of the README; None, where they ask a model, is wrong. It compares small letters."""
    return float(code["extract_single_choice_with_word_boundary"](answer, doc["answer"]) or 0.0)


def _mmsi_video(code: Mapping[str, Any], doc: dict[str, Any], answer: str) -> float:
    """Score as the loop of evaluation.py."""
    said = code["extract_answer"](answer)
    return float(said in ("A", "B", "C", "D", "E", "F") and said == doc["ground_truth"])


def _mindcube(code: Mapping[str, Any], doc: dict[str, Any], answer: str) -> float:
    return float(code["extract_answer"](answer) == doc["gt_answer"])


def _spar(code: Mapping[str, Any], doc: dict[str, Any], answer: str) -> float:
    scored = code["sparbench_process_results"](doc, [answer])["sparbench_score"]
    return float(next(scored[name] for name in ("accuracy", "MRA:.5:.95:.05", "vci_metric") if name in scored))


def _viewspatial(code: Mapping[str, Any], doc: dict[str, Any], answer: str) -> float:
    """Score as the loop of evaluate.py, which looks at the last line."""
    return float(code["extract_option"](answer.split("\n")[-1]) == code["extract_option"](doc["answer"]))


def _blink(code: Mapping[str, Any], doc: dict[str, Any], answer: str) -> float:
    """Score as eval_task: the prediction is the whole of the answer, "(A)".

    Raises:
        LookupError: their rule finds no letter, and they ask a model.
    """
    letters = [f"({letter})" for letter in "ABCDE"[: len(doc["choices"])]]
    said = code["analyze_answer"](doc, answer, letters)
    if said is None:  # the model's function is not there
        raise LookupError("no letter: a model is asked")
    return float(said == doc["answer"])


def _site(code: Mapping[str, Any], doc: dict[str, Any], answer: str) -> float:
    return float(code["spatial_process_results"](doc, [answer])["accuracy"]["overall"])


def _site_prompt(code: Mapping[str, Any], doc: dict[str, Any]) -> str:
    """Return the prompt of an image question with the closing sentence of site_image.yaml."""
    sentence = "Give me the answer letter directly. The best answer is:"
    return code["spatial_doc_to_text_image"](doc, {"post_prompt": sentence})


def _video_mme(code: Mapping[str, Any], doc: dict[str, Any], answer: str) -> float:
    """Score as eval_your_results, which leaves a question without a letter out of its accuracy."""
    return float(code["extract_characters_regex"](answer) == doc["answer"])


AUTHORS: dict[str, tuple[tuple[str, ...], Reader]] = {
    "STI-Bench": (("opensource_test.py",), _sti),
    "SpatialLadder": (("eval_spld/utils.py", "eval_spld/data_utils/vsi_utils.py"), _spbench),
    "MMSI-Bench": (("README.md",), _mmsi),
    "MMSI-Video-Bench": (("evaluation.py",), _mmsi_video),
    "MindCube": (("src/evaluation/core/extractors.py",), _mindcube),
    "spar": (("lmms-eval/lmms_eval/tasks/sparbench/utils.py",), _spar),
    "ViewSpatial-Bench": (("evaluate.py",), _viewspatial),
    "BLINK_Benchmark": (("eval/test_benchmark.py",), _blink),
    "SITE-Bench": (("eval_scripts/sitebench/utils.py",), _site),
    "parse_answer": (("eval_your_results.py",), _video_mme),
}
"""Repository -> the files with its readers, and how its scripts call them."""
PROMPTS: dict[str, Callable[[Mapping[str, Any], dict[str, Any]], str]] = {"SITE-Bench": _site_prompt}
"""Repository -> its prompt, where a function makes it."""


class AuthorsTask:
    """A benchmark by its authors' functions.

    Attributes:
        draws: they pick a letter at random where they read none.
    """

    def __init__(self, root: Path, name: str) -> None:
        files, self._score = AUTHORS[name]
        self._prompt = PROMPTS.get(name)
        self.draws = name == "SITE-Bench"
        self._code: dict[str, Any] = {"re": re, "pd": pd, "np": np, "partial": partial}
        self._code |= {"random": random, "UpperLetters": list(ascii_uppercase)}
        for file in files:
            exec(compile(_definitions(root / name / file), str(file), "exec"), self._code)

    def prompt(self, doc: dict[str, Any]) -> str:
        if self._prompt is None:
            raise NotImplementedError("made within a script that loads a model")
        return self._prompt(self._code, doc)

    def score(self, doc: dict[str, Any], answer: str) -> float:
        return self._score(self._code, dict(doc), answer)


def _definitions(file: Path) -> ast.Module:
    """Return the functions of a file, and its constants that are plain values; of a .md the functions in its fences."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        text = "\n".join(part for part in text.split("```") if part.lstrip().startswith("def "))
    body = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) or _is_plain(node)]
    return ast.Module(body, [])


def _is_plain(node: ast.stmt) -> bool:
    if not isinstance(node, ast.Assign):
        return False
    return not any(isinstance(part, ast.Call | ast.Attribute | ast.Name) for part in ast.walk(node.value))
