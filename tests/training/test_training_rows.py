from dataclasses import replace
from pathlib import Path

from tiny_runs import make_rows

from vsgrpo.config.evaluate import PromptSection
from vsgrpo.training.rows import ROW_COLUMNS, rows_to_dataset


def table(rows, mode="vanilla", **changes):
    prompt = PromptSection(mode=mode, wording="train", show_options=False, system=None, vision_marks=None)
    return rows_to_dataset(rows, Path("data"), prompt, **changes)


def test_rows_become_flat_columns():
    dataset = table(make_rows(0))
    shown = {"prompt", "system", "row_key", "media", "video", "options", "prompt_mode", "row_columns"}
    assert set(dataset.column_names) == shown | set(ROW_COLUMNS)
    first = dataset[0]
    assert first["row_key"] == "demo/count0" and first["video"] == "data/videos/0.mp4"
    assert first["prompt"].startswith("How many chair(s) are in this room?\nPlease provide the short answer")
    assert first["options"] is None and first["prompt_mode"] == "vanilla"


def test_a_row_that_occurs_again_has_a_key_of_its_own():
    rows = make_rows(0)
    keys = table([rows[0], rows[1], rows[0], rows[0]])["row_key"]
    assert list(keys) == ["demo/count0", "demo/area0", "demo/count0#1", "demo/count0#2"]


def test_targets_are_what_sft_says():
    row = replace(make_rows(0)[0], reasoning="Two by the table.")
    assert table([row], targets=True)[0]["target"] == "1"
    think = table([row], mode="think", targets=True)[0]["target"]
    assert think == "<think>Two by the table.</think><answer>1</answer>"
