"""The checks of scripts/check_scorers.py: a benchmark of ours against a task of a harness, and the harness's rows."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from harness_rows import ROWS, Doc, write_rows
from vsgrpo.evaluation.benchmark import Benchmark, ReadOptions, find_benchmark
from vsgrpo.evaluation.export import Exported
from vsgrpo.evaluation.scores import score_rows
from vsgrpo.spatial.answers import SCORERS
from vsgrpo.spatial.scoring import score as vsibench_score
from vsgrpo.vision_r1.mathvista_extract import normalize

BOTH, PROMPTS, SCORES = ("prompts", "scores"), ("prompts",), ("scores",)
_MEDIA = ("images", "image", "image_1", "image_2", "image_3", "image_4")


def _plain(doc: Doc) -> Doc:
    """Return a row without its pictures, which no prompt or scorer looks at."""
    return {name: value for name, value in doc.items() if name not in _MEDIA}


def text_of(prompt: str) -> str:
    """Return the words of a prompt: media marks and the white space around them are left out."""
    return "".join(part.strip() for part in re.split("<(?:video|image)>", prompt))


@dataclass(frozen=True)
class Check:
    """One benchmark of ours against one task of a harness.

    Attributes:
        setting: ours: whose prompt and reader (`benchmark.harness`); of vsibench also the reader alone (`scorer`).
        claims: what must not differ: "prompts", "scores".
        doc: a row of our file -> the row as the harness's functions get it.
        every: take each n-th answer only, of a harness that is slow.
        deviates: answers that we read otherwise on purpose (a `Deviation:` in the code); they are counted.
        more: further answers, of a form that the harness looks for and the others have seldom.
    """

    benchmark: str
    setting: str
    harness: str
    task: str
    claims: tuple[str, ...] = BOTH
    doc: Callable[[Doc], Doc] = _plain
    deviates: Callable[[str], bool] | None = None
    every: int = 1
    more: tuple[str, ...] = ()


class Ours:
    """Our side of a check: the rows read as `vsgrpo eval` reads them."""

    def __init__(self, check: Check) -> None:
        self._check = check
        name = check.benchmark
        kind = find_benchmark(name)
        harness = check.setting if check.setting in kind.harnesses else "official"  # vsibench: a `scorer`
        options = ReadOptions(name=name, harness=harness)
        self._folder = tempfile.TemporaryDirectory()
        self._benchmark: Benchmark = kind.read(write_rows(name, Path(self._folder.name)), options)

    def docs(self) -> list[Doc]:
        """Return the rows as the harness gets them."""
        return [self._check.doc(row) for row in ROWS[self._check.benchmark]]

    def prompt(self, number: int) -> str:
        """Return our text of a row."""
        return self._benchmark.text(self._benchmark.rows[number])

    def score(self, number: int, answer: str) -> float:
        """Return our score of an answer to a row."""
        row = self._benchmark.rows[number]
        if self._check.benchmark == "vsibench" and self._check.setting in SCORERS:
            return vsibench_score(self._check.setting, row.question_type, answer, row.ground_truth)
        if self._check.benchmark == "mathvista":
            problem = self._benchmark.problems[row.id]  # type: ignore[attr-defined]
            return float(normalize(answer, problem) == problem.answer)
        return float(self._benchmark.score(row, answer))

    def drawn_right(self, part: int) -> list[str]:
        """Return an answer to each row: the right one, to every third another."""
        rows = enumerate(self._benchmark.rows)
        return [row.ground_truth if (number + part) % 3 else "A" for number, row in rows]

    def table(self, answers: Sequence[str]) -> dict[str, float]:
        """Return the metrics that `--export lmms` writes of an answer to each row."""
        benchmark, given = (
            self._benchmark,
            {row.id: text for row, text in zip(self._benchmark.rows, answers, strict=True)},
        )
        if self._check.benchmark == "vsibench":
            tables = score_rows(benchmark.rows, {name: [text] for name, text in given.items()}, benchmark.prompt).tables
            content = {"lmms": tables[self._check.setting]}
        else:
            content = benchmark.accuracy(given, "").to_json()
        found = Exported.of(benchmark, given, content, {})
        return {name: found.names.scale * value for name, value in found.metrics().items()}


def _is_blank(answer: str) -> bool:
    return not answer.strip()


def _whole_precision(doc: Doc) -> Doc:
    return {**doc, "precision": None if doc["precision"] is None else int(doc["precision"])}


def _empty_as_none(doc: Doc) -> Doc:
    return {name: value or None for name, value in _plain(doc).items()}


def _lettered(options: list[str]) -> dict[str, str]:
    return dict(zip("ABCDE", options, strict=False))


def _vlm(**names: Callable[[Doc], Any]) -> Callable[[Doc], Doc]:
    """Return what makes VLMEvalKit's row, whose columns have names of its own, of a row of the benchmark's file."""

    def made(doc: Doc) -> Doc:
        given = {"image_path": repr(["1.png"]), "video": "1.mp4", **_plain(doc)}
        return {**given, **{name: rule(doc) for name, rule in names.items()}}

    return made


def _mmsi_columns(doc: Doc) -> Doc:
    words = [part.partition(": ")[2] for part in doc["question"].partition("Options: ")[2].split(", ")]
    question = doc["question"].partition("\n")[0]
    return {"image_path": repr(["1.png"]), "question": question, "answer": doc["answer"], **_lettered(words)}


def _blink_columns(doc: Doc) -> Doc:
    given = {"image_path": repr(["1.png"]), "question": doc["question"], "answer": doc["answer"].strip("()")}
    return {**given, **_lettered(doc["choices"])}


_truth = {"answer": lambda doc: doc["ground_truth"]}
_options = {"candidates": lambda doc: doc["options"] and repr(doc["options"])}

_BRACKETED = tuple(
    f"{first} {second}{gap}{third}"
    for gap in (" ", "\n\n")
    for first, second, third in product(("so", "(A)", "(B)", "(C)", "B"), repeat=3)
)
"""Letters in brackets, in one paragraph or with the last of three words in one of its own."""

LMMS, VLM, AUTHORS = "lmms-eval", "VLMEvalKit", "authors"
CHECKS = (
    Check("vsibench", "official", "thinking-in-space", "vsibench"),
    Check("vsibench", "lmms", LMMS, "vsibench"),
    Check("vsibench", "official", LMMS, "vsibench", PROMPTS),
    Check("vsibench", "official", VLM, "VSI-Bench", (), _vlm(**_truth, **_options)),
    Check("vsibench", "easi", VLM, "VSI-Bench", doc=_vlm(**_truth, **_options)),
    Check("mathvista", "extracted", LMMS, "mathvista", SCORES, _whole_precision, _is_blank),
    Check("revsi", "official", LMMS, "revsi"),
    Check("revsi", "official", VLM, "ReVSI", doc=_vlm(), every=20),
    Check("mmsi", "official", AUTHORS, "MMSI-Bench", SCORES),
    Check("mmsi", "lmms", LMMS, "mmsi_bench"),
    Check("mmsi", "official", LMMS, "mmsi_bench", PROMPTS),
    Check("mmsi", "easi", VLM, "MMSIBench", doc=_mmsi_columns),
    Check("mindcube", "official", AUTHORS, "MindCube", SCORES),
    Check("mindcube", "official", LMMS, "mindcube_tiny"),
    Check("mindcube", "easi", VLM, "MindCubeBench", doc=_vlm(answer=lambda doc: doc["gt_answer"])),
    Check("viewspatial", "official", AUTHORS, "ViewSpatial-Bench", SCORES),
    Check("viewspatial", "official", LMMS, "viewspatial"),
    Check("viewspatial", "easi", VLM, "ViewSpatialBench", doc=_vlm(candidates=lambda doc: doc["choices"])),
    Check("blink", "official", AUTHORS, "BLINK_Benchmark", SCORES, more=_BRACKETED),
    Check("blink", "lmms", LMMS, "blink"),
    Check("blink", "official", LMMS, "blink", ()),
    Check("blink", "easi", VLM, "BLINK", doc=_blink_columns),
    Check("threedsr", "lmms", LMMS, "3dsrbench_circular", doc=_empty_as_none),
    Check("threedsr", "official", LMMS, "3dsrbench_circular", PROMPTS, _empty_as_none),
    Check("threedsr", "easi", VLM, "3DSRBench", doc=lambda doc: {**_empty_as_none(doc), "image_path": repr(["1.png"])}),
    Check("embspatial", "lmms", LMMS, "embspatial"),
    Check(
        "embspatial",
        "easi",
        VLM,
        "EmbSpatialBench",
        doc=_vlm(options=lambda doc: repr(doc["answer_options"]), answer=lambda doc: "ABCD"[doc["answer"]]),
    ),
    Check("site", "official", AUTHORS, "SITE-Bench"),
    Check("site", "official", LMMS, "site_bench_image"),
    Check("site", "easi", VLM, "SiteBenchImage", doc=_vlm(options=lambda doc: repr(doc["options"]))),
    Check("spar", "official", AUTHORS, "spar", SCORES, deviates=lambda answer: not answer),
    Check("spar", "official", LMMS, "sparbench", deviates=lambda answer: not answer),
    Check("spar", "easi", VLM, "SparBench", doc=_vlm()),
    Check("osi", "lmms", LMMS, "osi_bench"),
    Check("osi", "official", LMMS, "osi_bench", SCORES),
    Check("sti", "official", AUTHORS, "STI-Bench", SCORES, _plain, _is_blank),
    Check(
        "sti",
        "easi",
        VLM,
        "STI-Bench",
        SCORES,
        _vlm(
            question=lambda doc: doc["Question"],
            answer=lambda doc: doc["Answer"],
            options=lambda doc: repr(list(doc["Candidates"].values())),
        ),
    ),
    Check("vsi_super_recall", "official", LMMS, "vsr_10mins"),
    Check("vsi_super_recall", "easi", VLM, "VsiSuperRecall", SCORES, _vlm()),
    Check("vsi_super_count", "official", LMMS, "vsc_10mins"),
    Check("vsi_super_count", "easi", VLM, "VsiSuperCount", SCORES, _vlm()),
    Check("vsi_super_streaming", "official", LMMS, "vsc_streaming_10mins"),
    Check("mmsi_video", "official", AUTHORS, "MMSI-Video-Bench", SCORES),
    Check("mmsi_video", "lmms", LMMS, "mmsi_video"),
    Check("mmsi_video", "easi", VLM, "MMSIVideoBench", SCORES, _vlm(answer=lambda doc: doc["ground_truth"])),
    Check("video_mme", "official", AUTHORS, "parse_answer", SCORES),
    Check("video_mme", "lmms", LMMS, "videomme"),
    Check("spbench", "official", AUTHORS, "SpatialLadder", SCORES),
    Check("spbench", "easi", VLM, "SPBench", doc=_vlm(**_truth, candidates=lambda doc: doc["options"])),
)
