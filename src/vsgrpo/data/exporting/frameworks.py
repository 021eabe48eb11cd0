"""Formats of training frameworks: LLaMA-Factory, ms-swift, verl, EasyR1, Video-R1.

Sources, their readers of rows: LLaMA-Factory ff6d4d1, ms-swift 3602360, verl 1dda039, EasyR1 b44b311, Video-R1
59d65c3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vsgrpo.data.exporting.record import Exported, ExportFormat, one_file
from vsgrpo.spatial.question_types import counts_things


def _user(item: Exported) -> dict[str, str]:
    return {"role": "user", "content": item.prompt}


def _model(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _llamafactory(item: Exported) -> dict[str, Any]:
    if item.method == "dpo":
        pair = {"chosen": _model(item.target), "rejected": _model(item.rejected)}
        return {**item.columns, "messages": [_user(item)], **pair, "videos": [item.video]}
    return {**item.columns, "messages": [_user(item), _model(item.target)], "videos": [item.video]}


def _dataset_info(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry by which LLaMA-Factory finds the rows: `dataset: vsgrpo_<split>`, `dataset_dir: THIS FOLDER`."""
    split = settings["split"]
    columns = {"messages": "messages", "videos": "videos"}
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user"}
    tags |= {"assistant_tag": "assistant", "system_tag": "system"}
    entry: dict[str, Any] = {"file_name": f"{split}.json", "formatting": "sharegpt", "columns": columns, "tags": tags}
    if settings["method"] == "dpo":
        entry |= {"ranking": True, "columns": {**columns, "chosen": "chosen", "rejected": "rejected"}}
    return {"dataset_info.json": {f"vsgrpo_{split}": entry}}


def _swift(item: Exported) -> dict[str, Any]:
    videos: list[Any] = [list(item.frames)] if item.frames else [item.video]
    if item.method == "grpo":
        return {**item.columns, "messages": [_user(item)], "videos": videos, "solution": item.solution}
    messages = [_user(item), _model(item.target)]
    wrong = {"rejected_response": item.rejected} if item.method == "dpo" else {}
    return {**item.columns, "messages": messages, "videos": videos, **wrong}


def _verl(item: Exported) -> dict[str, Any]:
    return {
        "data_source": "vsgrpo",
        "prompt": [_user(item)],
        "videos": [{"video": item.video}],
        "ability": "spatial",
        "reward_model": {"style": "rule", "ground_truth": item.solution},
        "extra_info": {"split": item.split, "index": item.row.key, "question": item.row.question} | item.columns,
        **item.columns,
    }


def _easyr1(item: Exported) -> dict[str, Any]:
    return {**item.columns, "problem": item.prompt, "answer": item.solution, "videos": [item.video]}


def _video_r1(item: Exported) -> dict[str, Any]:
    row = item.row
    shown = row.ground_truth if row.answer_kind == "choice" else row.answer
    # Its reader appends the options and a sentence by type; "numerical" is compared exactly, "regression" by ratio.
    number = "numerical" if counts_things(row.question_type) else "regression"
    kinds = {"choice": "multiple choice", "number": number, "text": "free-form", "map": "free-form"}
    return {
        **item.columns,
        "problem_id": row.id,
        "problem": row.question,
        "problem_type": kinds[row.answer_kind],
        "options": item.options or [],
        "solution": f"<answer>{shown}</answer>",
        "path": f"./{item.video}",
        "data_type": "video",
        "data_source": row.dataset,
    }


LLAMAFACTORY = ExportFormat(
    _llamafactory,
    one_file("json"),
    "LLaMA-Factory ff6d4d1",
    "dataset_dir: this folder, dataset: vsgrpo_train (or vsgrpo_dev), media_dir: this folder",
    ("sft", "dpo"),
    more_files=_dataset_info,
)
SWIFT = ExportFormat(
    _swift,
    one_file("jsonl"),
    "ms-swift 3602360",
    "start it in this folder: --dataset train.jsonl; rewards get solution, question_type, answer_kind and unit",
    ("sft", "grpo", "dpo"),
    frame_lists=True,
)
VERL = ExportFormat(
    _verl,
    one_file("parquet"),
    "verl 1dda039",
    "start it in this folder: data.train_files=train.parquet data.video_key=videos; your reward: data_source vsgrpo",
    ("grpo",),
)
EASYR1 = ExportFormat(
    _easyr1,
    one_file("jsonl"),
    "EasyR1 b44b311",
    "data.train_files=DIR/train.jsonl data.prompt_key=problem data.answer_key=answer data.video_key=videos; "
    "start it in this folder",
    ("grpo",),
)
VIDEO_R1 = ExportFormat(
    _video_r1,
    one_file("json"),
    "Video-R1 59d65c3",
    "copy or link this folder to src/r1-v/Video-R1-data: its reader looks for videos there and adds the sentences",
    has_prompt=False,
)
