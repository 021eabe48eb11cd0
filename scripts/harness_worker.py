"""Prompts and scores of other evaluation harnesses, by their own code: the far side of scripts/check_scorers.py.

It runs in the environment of the harnesses and imports nothing of vsgrpo. One JSON object a line comes in:
{"harness", "task", "docs": [row, ...], "answers": [text, ...], "want": "scores" | "table"}; one goes out. "scores" asks
for the prompt of each row and the score of each answer to each row, "table" for the harness's own table over one answer
per row. An exception of the harness is an answer too: {"raised": "IndexError: ..."}.

    python scripts/harness_worker.py DIR    # DIR holds lmms-eval/, VLMEvalKit/, thinking-in-space/, STI-Bench/, ...
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import inspect
import json
import logging
import os
import random
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from harness_authors import AuthorsTask

_DRAWS = 8
"""Times that an answer is scored, each with another seed: a harness may draw a letter where it reads none."""

# Where lmms-eval's result of a question holds its score.
LMMS_TASKS: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "vsibench": ("vsibench/vsibench.yaml", lambda r: _numeric(r["vsibench_overall"], "accuracy", "MRA:.5:.95:.05")),
    "revsi": ("revsi/revsi_16_frame.yaml", lambda r: r["overall_acc"]["acc"]),
    "mmsi_bench": ("mmsi_bench/msr_bench.yaml", lambda r: r["average"]["score"]),
    "mmsi_video": ("mmsi_video/mmsi_video_u50.yaml", lambda r: r["overall_accuracy"]["score"]),
    "mindcube_tiny": ("mindcube/mindcube_tiny.yaml", lambda r: r["overall_accuracy"]["score"]),
    "viewspatial": ("viewspatial/viewspatial.yaml", lambda r: r["overall_accuracy"]["score"]),
    "site_bench_image": ("sitebench/site_image.yaml", lambda r: r["accuracy"]["overall"]),
    "sparbench": (
        "sparbench/sparbench.yaml",
        lambda r: _numeric(r["sparbench_score"], "accuracy", "MRA:.5:.95:.05", "vci_metric"),
    ),
    "osi_bench": ("osi_bench/osi_bench.yaml", lambda r: r["overall"]["score"]),
    "blink": ("blink/blink_counting.yaml", lambda r: r["blink_acc"]["is_correct"]),
    "3dsrbench_circular": ("3dsrbench/3dsrbench_circular.yaml", lambda r: r["vanilla_accuracy"]["score"]),
    "embspatial": ("embspatial/embspatial.yaml", lambda r: r["embspatial_acc"]["is_correct"]),
    "vsr_10mins": ("vsisuper/recall/vsr_10mins.yaml", lambda r: r["accuracy"]),
    "vsc_10mins": ("vsisuper/count/vsc_10mins.yaml", lambda r: r["mra"]),
    "vsc_streaming_10mins": ("vsisuper/count_streaming/vsc_streaming_10mins.yaml", lambda r: r["mra"]),
    "videomme": ("videomme/videomme.yaml", lambda r: r["videomme_perception_score"]["score"]),
}

# VLMEvalKit: module, class, and the rule that reads answers: of utils/spatial_bench ("mcq" or "na", as the type of a
# question says), of utils/multiple_choice without a judge ("matching"), or the class's own ("evaluate").
VLM_TASKS: dict[str, tuple[str, str, str]] = {
    "VSI-Bench": ("vsibench", "VsiBench", "spatial"),
    "VsiSuperRecall": ("vsibench", "VsiSuperRecall", "mcq"),
    "VsiSuperCount": ("vsibench", "VsiSuperCount", "na"),
    "ReVSI": ("revsi", "ReVSI", "evaluate"),
    "MMSIBench": ("mmsibench", "MMSIBench", "mcq"),
    "MMSIVideoBench": ("mmsibench", "MMSIVideoBench", "mcq"),
    "MindCubeBench": ("mindcubebench", "MindCubeBench", "mcq"),
    "ViewSpatialBench": ("viewspatialbench", "ViewSpatialBench", "mcq"),
    "SiteBenchImage": ("sitebench", "SiteBenchImage", "mcq"),
    "SparBench": ("sparbench", "SparBench", "spatial"),
    "STI-Bench": ("stibench", "STIBench", "mcq"),
    "SPBench": ("spbench", "SPBench", "spatial"),
    "EmbSpatialBench": ("embspatialbench", "EmbSpatialBench", "mcq"),
    "BLINK": ("image_mcq", "ImageMCQDataset", "matching"),
    "3DSRBench": ("image_mcq", "_3DSRBench", "matching"),
}


def _numeric(result: Mapping[str, Any], *names: str) -> Any:
    """Return the first of these fields that a result has."""
    return next(result[name] for name in names if name in result)


class LmmsTask:
    """A task of lmms-eval: the functions that its YAML names, called as lmms_eval/api/task.py calls them."""

    def __init__(self, root: Path, name: str) -> None:
        file, self._score = LMMS_TASKS[name]
        path = root / "lmms_eval" / "tasks" / file
        self._config = _lmms_yaml(path, root)
        kwargs = dict(self._config.get("lmms_eval_specific_kwargs") or {})
        kwargs.update(kwargs.get("default") or {})
        self._kwargs = kwargs

    def prompt(self, doc: dict[str, Any]) -> str:
        return self._config["doc_to_text"](copy.deepcopy(doc), self._kwargs)

    def score(self, doc: dict[str, Any], answer: str) -> float:
        return float(self._score(self._config["process_results"](copy.deepcopy(doc), [answer])))

    def table(self, docs: Sequence[dict[str, Any]], answers: Sequence[str]) -> dict[str, float]:
        found: dict[str, list[Any]] = defaultdict(list)
        for doc, answer in zip(docs, answers, strict=True):
            for name, value in self._config["process_results"](copy.deepcopy(doc), [answer]).items():
                found[name].append(value)
        rules = {item["metric"]: item["aggregation"] for item in self._config["metric_list"]}
        rules = {name: statistics.fmean if rule == "mean" else rule for name, rule in rules.items()}
        return {name: float(rules[name](values)) for name, values in found.items() if callable(rules.get(name))}


def _lmms_yaml(path: Path, root: Path) -> dict[str, Any]:
    """Return a task's YAML with what it includes; `!function module.name` becomes the function."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
        module, name = str(loader.construct_scalar(node)).rsplit(".", 1)
        return getattr(importlib.import_module(".".join((*path.parent.relative_to(root).parts, module))), name)

    Loader.add_constructor("!function", function)
    config = yaml.load(path.read_text(), Loader) or {}
    if include := config.pop("include", None):
        config = {**_lmms_yaml((path.parent / include).resolve(), root), **config}
    return config


class OfficialVsi:
    """VSI-Bench by its authors' code (thinking-in-space)."""

    def __init__(self, root: Path) -> None:
        file = root / "lmms_eval" / "tasks" / "vsibench" / "utils.py"
        spec = importlib.util.spec_from_file_location("official_vsibench", file)
        assert spec is not None and spec.loader is not None
        self._code = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self._code)
        self._kwargs = _plain_yaml(file.with_name("vsibench.yaml"))["lmms_eval_specific_kwargs"]["default"]

    def prompt(self, doc: dict[str, Any]) -> str:
        return self._code.vsibench_doc_to_text(copy.deepcopy(doc), self._kwargs)

    def score(self, doc: dict[str, Any], answer: str) -> float:
        result = self._code.vsibench_process_results(copy.deepcopy(doc), [answer])["vsibench_score"]
        return float(_numeric(result, "accuracy", "MRA:.5:.95:.05"))

    def table(self, docs: Sequence[dict[str, Any]], answers: Sequence[str]) -> dict[str, float]:
        results = [
            self._code.vsibench_process_results(copy.deepcopy(doc), [answer])["vsibench_score"]
            for doc, answer in zip(docs, answers, strict=True)
        ]
        return {"vsibench_overall": self._code.vsibench_aggregate_results(results)["overall"] / 100}


def _plain_yaml(path: Path) -> dict[str, Any]:
    """Return a task's YAML without its functions."""
    import yaml

    lines = [line for line in path.read_text().splitlines() if "!function" not in line]
    return yaml.safe_load("\n".join(lines))


class VlmTask:
    """A benchmark of VLMEvalKit: its class's `build_prompt`, and the rule that reads answers without a judge.

    The class is made without its constructor, which would download the benchmark.
    """

    def __init__(self, name: str) -> None:
        self._rules = importlib.import_module("vlmeval.dataset.utils.spatial_bench.cal_scores")
        self._matching = importlib.import_module("vlmeval.dataset.utils.multiple_choice")
        module, kind, self._rule = VLM_TASKS[name]
        self._data: Any = object.__new__(getattr(importlib.import_module(f"vlmeval.dataset.{module}"), kind))
        self._data.meta_only, self._data.use_cot = True, False
        self._data.dataset_name, self._data.data_root, self._data.video_path = name, "", str

    def prompt(self, doc: dict[str, Any]) -> str:
        import pandas as pd

        self._data.data = pd.DataFrame([doc])
        named = {"video_llm": True} if "video_llm" in inspect.signature(self._data.build_prompt).parameters else {}
        line = 0 if self._rule == "evaluate" else self._data.data.iloc[0]
        parts = self._data.build_prompt(line, **named)
        return "".join(part["value"] if part["type"] == "text" else f"<{part['type']}>" for part in parts)

    def score(self, doc: dict[str, Any], answer: str) -> float:
        import pandas as pd

        rule, line = self._rule, {**doc, "prediction": str(answer)}
        frame = pd.DataFrame([line])
        if rule == "matching":
            item = {name: value for name, value in line.items() if value is not None}
            return float(self._matching.extract_answer_from_item(None, item)["opt"] == doc["answer"])
        if rule == "evaluate":
            with tempfile.TemporaryDirectory() as folder:
                frame.to_pickle(f"{folder}/answers.pkl")
                return float(self._data.evaluate(f"{folder}/answers.pkl")["overall_accuracy"])
        if rule == "spatial":
            kind = next(doc[name] for name in ("task", "question_type") if name in doc)
            rule = str(self._data.get_task_type(kind)).lower()
        if rule == "special":
            return float(self._data.compute_special_score(frame)["vci_metric"].iloc[0])
        scored = self._rules.compute_na_score(frame) if rule == "na" else self._rules.compute_mcq_score(frame)
        return float(scored["MRA:.5:.95:.05" if rule == "na" else "hit"].iloc[0])


class MathVista:
    """MathVista as lmms-eval brings an extracted answer into the form of the truth and compares it."""

    def __init__(self) -> None:
        self._code = importlib.import_module("lmms_eval.tasks.mathvista.mathvista_evals").MathVistaEvaluator()

    def prompt(self, doc: dict[str, Any]) -> str:
        raise NotImplementedError("its prompt has examples of its own; ours is the `query` of the file")

    def score(self, doc: dict[str, Any], answer: str) -> float:
        kind = (doc["choices"], doc["question_type"], doc["answer_type"], doc["precision"])
        return float(self._code.safe_equal(self._code.normalize_extracted_answer(answer, *kind), doc["answer"]))


@cache
def _task(root: Path, harness: str, name: str) -> Any:
    if harness == "thinking-in-space":
        return OfficialVsi(root / harness)
    if harness == "authors":
        return AuthorsTask(root, name)
    if name == "mathvista":
        return MathVista()
    return LmmsTask(root / harness, name) if harness == "lmms-eval" else VlmTask(name)


def _tried(call: Callable[[], Any]) -> Any:
    """Return a harness's value, or what it raised: any exception of its code is a finding."""
    try:
        return call()
    except Exception as error:
        return {"raised": f"{type(error).__name__}: {error}"[:200]}


def _scored(task: Any, doc: dict[str, Any], answer: str) -> Any:
    """Return the score of an answer, "drawn" where another seed gives another one."""
    scores = []
    for seed in range(_DRAWS):
        random.seed(seed)
        scores.append(_tried(lambda: task.score(doc, answer)))
        if not seed and not _may_draw(task):
            break
    return scores[0] if all(score == scores[0] for score in scores) else "drawn"


def _may_draw(task: Any) -> bool:
    """Tell whether the module of a task draws letters at random."""
    if isinstance(task, AuthorsTask):
        return task.draws
    rule = getattr(task, "_config", {}).get("process_results")
    return rule is not None and "random" in vars(sys.modules[rule.__module__])


def _reply(root: Path, asked: dict[str, Any]) -> dict[str, Any]:
    task = _tried(lambda: _task(root, asked["harness"], asked["task"]))
    if isinstance(task, dict):
        return {"error": task["raised"]}
    docs, answers = asked["docs"], asked["answers"]
    if asked["want"] == "table":
        return {"table": _tried(lambda: task.table(docs, answers))}
    return {
        "prompts": [_tried(lambda doc=doc: task.prompt(doc)) for doc in docs],
        "scores": [[_scored(task, doc, answer) for answer in answers] for doc in docs],
    }


def main() -> None:
    """Answer requests until the input ends."""
    root, out = Path(sys.argv[1]), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a harness prints does not mix with the replies
    os.environ.setdefault("HF_HOME", str(root / "hf"))
    os.environ.setdefault("OPENAI_API_KEY", "none: a client is made on import and never used")
    sys.path[:0] = [str(root / "lmms-eval"), str(root / "VLMEvalKit")]
    logging.disable(logging.CRITICAL)
    with contextlib.suppress(ImportError):
        from loguru import logger

        logger.remove()
    for line in sys.stdin:
        print(json.dumps(_reply(root, json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main()
