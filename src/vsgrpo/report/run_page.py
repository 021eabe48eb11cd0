"""`vsgrpo report RUN...`: the page of training runs, for the eye.

Curves of all runs overlaid, alarms, phase seconds, evaluation tables, and completions of some steps, with questions and
frames where the dataset is still there.
"""

from __future__ import annotations

import fnmatch
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from vsgrpo.data.row import Row
from vsgrpo.errors import ConfigError
from vsgrpo.records import MAYBE_NUMBER
from vsgrpo.report.evaluation_page import papers_of
from vsgrpo.report.page import NUM_COLORS, TEMPLATES, Curve, lines_svg, phases_svg, render, write_page
from vsgrpo.report.run_folder import (
    COMPLETION,
    Run,
    alarms,
    end_mean,
    question_files,
    read_completions,
    read_questions,
    read_run,
    spread,
    tokens_saved,
)
from vsgrpo.report.shown_media import pictures
from vsgrpo.spatial.question_types import table_columns

REPORT_NAME = "report.html"
COMPARE_NAME = "compare.html"
_SAMPLE = {**COMPLETION, "question_type": str, "answer": str, "advantage?": MAYBE_NUMBER}
_NUM_STEPS_COUNTED = 48
"""Steps of which the most frequent completion is counted."""
_NUM_STEPS_SHOWN = 4
_MAX_TEXTS = 8
_MAX_CHARS = 400
_PHASES = ("decode", "vision", "prefill", "generate", "reward", "reference", "update", "optimizer", "save")

# Section -> (metric or a pattern of metrics, title, what it says); {} is what the * of the pattern matches.
_CHARTS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "Reward": (
        ("reward", "Reward", "mean over the completions, all reward functions weighted"),
        ("reward/*", "{}", "reward of this question type"),
        ("rewards/*/mean", "{}", "mean of this reward function"),
        ("dev_score", "Score on dev.jsonl", "greedy answers on rooms that are not trained on, at every checkpoint"),
        ("reward_std", "Spread within groups", "standard deviation of the rewards of one question"),
        ("frac_reward_zero_std", "Groups without spread", "share whose completions all earn the same: no gradient"),
        ("rewards/chosen", "Chosen", "implicit reward of the right answers"),
        ("rewards/rejected", "Rejected", "implicit reward of the wrong answers"),
        ("rewards/margins", "Margin", "chosen less rejected"),
        ("rewards/accuracies", "Preference accuracy", "share of pairs where the right answer is preferred"),
    ),
    "Policy": (
        ("loss", "Loss", "as the optimizer sees it"),
        ("kl", "KL to the start", "per token, estimated; only with trainer.beta above 0"),
        ("entropy", "Entropy", "nats per token"),
        ("grad_norm", "Gradient norm", "before clipping"),
        ("clip_ratio/region_mean", "Clipped ratios", "share of tokens outside the trust region"),
        ("sampling/gap", "Distance from servers", "log-probs of vLLM servers and ours, mean distance per token"),
        ("sampling/importance_sampling_ratio/mean", "Correction", "mean factor of a token that a server drew"),
        ("learning_rate", "Learning rate", ""),
        ("vision_learning_rate", "Learning rate of the tower", "with trainer.vision_learning_rate"),
    ),
    "Completions": (
        ("completions/mean_length", "Length", "mean tokens of a completion"),
        ("completions/clipped_ratio", "Cut off", "share that reached trainer.max_completion_length"),
        ("parse_failure/number", "Unreadable numbers", "share of answers to number questions without a number"),
        ("parse_failure/map", "Unreadable maps", "share of answers to questions for maps without a map"),
        ("parse_failure/text", "Empty words", "share of answers to word questions that are empty"),
        ("parse_failure/tags", "Missing tags", "share of completions without answer tags"),
        ("alarm/copied_question", "Alarm: copied question", "share that repeats the question"),
        ("alarm/empty_thought", "Alarm: empty thoughts", "share with a blank think or observe block"),
        ("alarm/repeated_tags", "Alarm: repeated tags", "share with a tag more than once"),
        ("alarm/truncated", "Alarm: truncated", "share cut off at trainer.max_completion_length"),
        ("thought/words", "Words of thought", "mean words of a think or observe block"),
        ("thought/commonest", "Most frequent thought", "share of the thoughts that are the same, most frequent one"),
        ("thought/across_videos", "Thoughts equal across videos", "share of pairs of thoughts about different videos"),
        ("thought/unrelated", "Unrelated thoughts", "share with neither the answer nor a word of the question"),
        (
            "top_share/*",
            "{}: most frequent answer",
            "share of the most frequent completion of this type: 1 is one answer for every video",
        ),
    ),
    "Time": (
        ("seconds_per_step", "Seconds per step", "sum of the phases"),
        ("tokens_saved", "Tokens saved", "share of a plain step's tokens that were not computed: shared prefixes"),
        ("skipped_microbatches", "Skipped updates", "share of microbatches without any advantage"),
    ),
}


@dataclass(frozen=True)
class RunReport:
    """A report and the alarms in it.

    Attributes:
        alarms: name of the run -> sentences.
    """

    path: Path
    alarms: dict[str, list[str]]

    def table(self) -> str:
        """Return the path and the alarms as lines."""
        return "\n".join(
            [str(self.path), *(f"{name}: {text}" for name, found in self.alarms.items() for text in found)]
        )


def write_report(
    folders: Sequence[Path], output: Path | None = None, sweep: Mapping[str, Any] | None = None
) -> RunReport:
    """Write the report of one run (RUN/report.html) or of several (compare.html in the folder they share).

    Args:
        sweep: the table of all runs of a sweep, see `sweep_page`; it stands first.

    Raises:
        ConfigError: no run, or more runs than colours.
        DataError: a folder is no run; `output` is there and no page.
    """
    if not 1 <= len(folders) <= NUM_COLORS:
        raise ConfigError(f"report of {len(folders)} runs: 1 to {NUM_COLORS} fit", hint="give fewer run folders")
    names = _names([folder.resolve() for folder in folders])
    runs = [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]
    samples = {}
    for run in runs:
        samples[run.name], top_share = read_samples(run.folder, run.config)
        run.curves.update({f"top_share/{kind}": curve for kind, curve in top_share.items()})
    shared = Path(os.path.commonpath([folder.resolve().parent for folder in folders]))
    path = output or (folders[0] / REPORT_NAME if len(folders) == 1 else shared / COMPARE_NAME)
    write_page(path, _render(runs, samples, sweep))
    return RunReport(path, {run.name: alarms(run) for run in runs})


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest path ends that tell the folders apart."""
    for length in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    raise ConfigError(f"{folders[0]}: given twice", hint="name each run folder once")


def read_samples(folder: Path, config: dict[str, Any]) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Curve]]:
    """Return by question type the completions to show and the share of the most frequent completion over time.

    Both are empty for a run without completions (SFT, DPO). `config` of the run says where its rows are, and how it
    read videos.
    """
    steps: dict[int, dict[str, list[dict[str, Any]]]] = {}
    top_share: dict[str, Curve] = {}
    for step, records in read_completions(folder, _SAMPLE, _NUM_STEPS_COUNTED).items():
        kinds = steps[step] = {}
        for record in records:
            kinds.setdefault(record["question_type"], []).append(record)
        for kind, part in kinds.items():
            most = Counter(record["completion"] for record in part).most_common(1)[0][1]
            top_share.setdefault(kind, []).append((step, most / len(part)))
    shown = [part for step in spread([*steps], _NUM_STEPS_SHOWN) for part in steps[step].values()]
    rows = read_questions(question_files(config), [part[0]["id"] for part in shown])
    samples: dict[str, list[dict[str, Any]]] = {}
    for part in shown:
        first = [record for record in part if record["id"] == part[0]["id"]]
        samples.setdefault(part[0]["question_type"], []).append(_sample(first, rows, config.get("video") or {}))
    return dict(sorted(samples.items())), top_share


def _sample(
    records: list[dict[str, Any]], rows: Mapping[str, tuple[Row, Path]], reader: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what to show of the completions of one question at one step."""
    head = records[0]
    mark = "reward" if head.get("reward") is not None else "advantage"
    texts = []
    for text, count in Counter(record["completion"] for record in records).most_common(_MAX_TEXTS):
        marks = [item[mark] for item in records if item["completion"] == text and item.get(mark) is not None]
        texts.append((text[:_MAX_CHARS], count, fmean(marks) if marks else None))
    row, folder = rows.get(head["id"], (None, Path()))
    frames, problems = pictures([] if row is None else row.media_paths(folder), reader)
    return {
        "step": head["step"],
        "key": head["id"],
        "answer": head["answer"],
        "texts": texts,  # (completion, how often, mean reward or advantage), most frequent first
        "num_completions": len(records),
        "has_rewards": mark == "reward",
        "row": row,
        "frames": frames,
        "problems": problems,
    }


def _render(runs: Sequence[Run], samples: Mapping[str, Mapping[str, Any]], sweep: Mapping[str, Any] | None) -> str:
    seconds = [{phase: end_mean(curve) or 0.0 for phase, curve in run.phases.items()} for run in runs]
    phases = [phase for phase in _PHASES if any(part.get(phase) for part in seconds)]
    bars = phases_svg([(run.name, part) for run, part in zip(runs, seconds, strict=True)], phases)
    return render(
        TEMPLATES / "run.html",
        title=" · ".join(run.name for run in runs),
        sweep=sweep,
        runs=[{"run": run, "facts": _facts(run), "alarms": alarms(run)} for run in runs],
        differences=_differences(runs),
        sections=[(name, _section(runs, wanted)) for name, wanted in _CHARTS.items()],
        phases=phases,
        bars=bars,
        samples=[(name, kinds.items()) for name, kinds in samples.items() if kinds],
        evaluations=_evaluations(runs),
    )


def _section(runs: Sequence[Run], wanted: Sequence[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Return the charts of a section that have something to draw."""
    known = {name for run in runs for name in run.curves}
    last = max(run.num_steps for run in runs)
    charts = []
    for pattern, title, note in wanted:
        for metric in sorted(fnmatch.filter(known, pattern)):
            name = title.format(metric.removesuffix("/mean").partition("/")[2])
            curves = [(i, run.name, run.curves.get(metric, [])) for i, run in enumerate(runs)]
            if svg := lines_svg(curves, name, last):
                charts.append({"metric": metric, "title": name, "note": note, "svg": svg})
    return charts


def _facts(run: Run) -> list[tuple[str, str]]:
    trainer, video = run.config["trainer"], run.config["video"]
    facts = [
        ("status", str(run.status.get("status", "unknown"))),
        ("method", str(trainer["name"])),
        ("steps", str(run.num_steps)),
        ("model", str(run.config["model"]["path"])),
        ("data", str(run.config["data"]["path"])),
        ("frames", f"{video['num_frames']} of at most {video['max_pixels']} pixels"),
        ("seed", str(run.config["run"]["seed"])),
    ]
    if saved := tokens_saved(run):
        share = f"{saved[1] / saved[0]:.1f} times fewer than plain: {saved[0]:,.0f} of {saved[1]:,.0f}"
        facts.append(("tokens computed", share))
    reward = run.curves.get("reward")
    if reward:
        facts.insert(3, ("reward at the end", f"{end_mean(reward) or 0:.3f}"))
    return facts


def _differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Return the settings that are not equal in all runs: (dotted key, one value per run)."""
    flat = [_flat(run.config) for run in runs]
    keys = dict.fromkeys(key for part in flat for key in part)
    rows = [(key, [part.get(key, "-") for part in flat]) for key in keys if key not in ("run.dir", "run.name")]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in config.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
    return found


def _evaluations(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Return tasks and lines (name, CSS class, scores, intervals): evaluations, controls, the paper's rows."""
    lines: list[tuple[str, str, Mapping[str, float], Mapping[str, Sequence[float]]]] = []
    others: dict[str, Mapping[str, float]] = {}
    notes: dict[str, list[str]] = {}
    for run in runs:
        for name, result in run.evaluations:
            title = f"{run.name}/{name}"
            shuffled = result.get("video") == "shuffled"  # a control as a whole evaluation
            shown = f"{title}: videos of other rooms" if shuffled else title
            lines.append((shown, "soft" if shuffled else "own", result["scores"], result.get("intervals", {})))
            for control, scores in result.get("controls", {}).items():
                own = control in (
                    "blind",
                    "blank",
                    "timing",
                    "first_frame",
                    "shuffled",
                )  # of this model; others are of the rows
                others[f"{title}: {control}" if own else f"{control} on {result['title']}"] = scores
            what = f"{result['title']}, {result['scorer']} scorer, leak: {result['leak']['verdict']}"
            notes.setdefault(what, []).append(title)
            others |= {f"{paper} (paper, whole VSI-Bench)": scores for paper, scores in papers_of(result)}
    if not lines:
        return None
    lines.sort(key=lambda line: line[1] != "own")
    lines += [(name, "soft", scores, {}) for name, scores in others.items()]
    columns = table_columns()
    tasks = [task for task in columns if any(task in scores for _, _, scores, _ in lines)]
    return {
        "tasks": tasks,
        "columns": columns,
        "lines": lines,
        "notes": [f"{', '.join(n)}: {w}" for w, n in notes.items()],
    }
