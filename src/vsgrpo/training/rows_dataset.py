"""Checked rows as the flat table that TRL's trainers read.

Flat on purpose: Arrow fills nested dicts with nulls, and Qwen's chat template takes a null `video` entry of a text
part for a video. Messages are built from these columns inside the trainer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset

from vsgrpo.data.prompts import question_text, target_text, wrong_answer
from vsgrpo.data.row import Row

COLUMNS = ("prompt", "system", "row_key", "media", "video", "dataset", "scene_name", "question_type", "question")
COLUMNS += ("options",)
COLUMNS += ("ground_truth", "answer", "answer_kind", "unit", "prompt_mode")


def rows_to_dataset(
    rows: Sequence[Row],
    base: Path,
    *,
    mode: str,
    wording: str,
    show_options: bool,
    system: str | None = None,
    targets: bool = False,
    rejected_seed: int | None = None,
) -> Dataset:
    """Return one table row per question, in order.

    Columns: `prompt` (the text after the media), `system`, `row_key` (dataset/id, with `#k` where a row occurs again:
    sampling noise is keyed by it), `media` (a list of {kind, path}), `video` (its paths, one a line: rows that show the
    same stand together), `prompt_mode`, and of the row what reward functions may ask for.

    Args:
        base: the folder of the row file; media paths are relative to it.
        system: system turn of every prompt, see `modeling.prompt.encode_prompt`.
        targets: add the column `target`, the text SFT and DPO train the model to say.
        rejected_seed: add the column `rejected`, the text of a wrong answer: the row's own, or drawn with this seed.

    Raises:
        DataError: (targets in a tagged mode) without reasoning, or (rejected) without a wrong
            answer.
    """
    columns: dict[str, list] = {name: [] for name in COLUMNS}
    seen: Counter[str] = Counter()
    for row in rows:
        occurrence = seen[row.key]
        seen[row.key] += 1
        columns["prompt"].append(question_text(row, mode, wording, show_options))
        columns["row_key"].append(row.key if occurrence == 0 else f"{row.key}#{occurrence}")
        media = [{"kind": kind, "path": str(path)} for kind, path in row.media_paths(base)]
        columns["system"].append(system)
        columns["media"].append(media)
        columns["video"].append("\n".join(item["path"] for item in media))
        columns["options"].append(None if row.options is None else list(row.options))
        columns["prompt_mode"].append(mode)
        for name in ("dataset", "scene_name", "question_type", "question", "ground_truth", "answer", "answer_kind"):
            columns[name].append(getattr(row, name))
        columns["unit"].append(row.unit)
    if targets:
        columns["target"] = [target_text(row, mode, show_options) for row in rows]
    if rejected_seed is not None:
        wrong = [wrong_answer(row, rejected_seed) for row in rows]
        columns["rejected"] = [target_text(row, mode, show_options, w) for row, w in zip(rows, wrong, strict=True)]
    return Dataset.from_dict(columns)
