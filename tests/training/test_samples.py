from dataclasses import replace
from pathlib import Path

from tiny_runs import make_rows

from vsgrpo.training.samples import COLUMNS, rows_to_dataset


def table(rows, **changes):
    settings = {"mode": "vanilla", "wording": "train", "show_options": False, **changes}
    return rows_to_dataset(rows, Path("data"), **settings)


def test_rows_become_flat_columns():
    dataset = table(make_rows(0))
    assert set(dataset.column_names) == set(COLUMNS)
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
