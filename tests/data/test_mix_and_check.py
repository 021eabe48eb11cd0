"""data.mix draws by weight, check-data finds every fault."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsgrpo.config.compose import load_config
from vsgrpo.data.check import check_data
from vsgrpo.data.rows import draw_mix, make_row, read_rows, rebase, row_to_dict, shares, write_rows
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.spatial.question import Question
from vsgrpo.spatial.question_types import QUESTION_TYPES
from vsgrpo.training.preflight import load_rows, row_files
from vsgrpo.video.writer import write_video


def rows_of(name, number, scene="scene0000_00", dataset="scannet"):
    return [
        make_row(
            Question(QUESTION_TYPES["object_counting"], f"How many {name} {k}?", None, "2", "2", ()),
            dataset=dataset,
            split="train",
            scene_name=scene,
            room=scene[:-3],
            video=f"videos/{dataset}/{scene}.mp4",
            generator={},
        )
        for k in range(number)
    ]


def test_shares_by_hand():
    assert shares(10, [1.0, 1.0]) == [5, 5]
    assert shares(10, [2.0, 1.0]) == [7, 3]  # 6.67 and 3.33: the larger remainder gets the last one
    assert shares(3, [1.0, 1.0, 1.0]) == [1, 1, 1]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 500), st.lists(st.floats(0.01, 10), min_size=1, max_size=5))
def test_shares_add_up_and_are_within_one(total, weights):
    counts = shares(total, weights)
    assert sum(counts) == total
    assert all(abs(count - total * w / sum(weights)) < 1 + 1e-6 for count, w in zip(counts, weights, strict=True))


def test_a_mix_has_its_weights_and_repeats_a_small_source_evenly():
    large, small = rows_of("chair", 90), rows_of("bed", 10)
    drawn = draw_mix([(large, 1.0), (small, 1.0)], seed=3)
    counts = Counter(row.key for row in drawn)
    assert len(drawn) == 100
    assert sum(counts[row.key] for row in small) == 50 and {counts[row.key] for row in small} == {5}
    assert {counts[row.key] for row in large} == {0, 1}
    assert (
        drawn == draw_mix([(large[::-1], 1.0), (small, 1.0)], seed=3) != draw_mix([(large, 1.0), (small, 1.0)], seed=4)
    )
    first_half = sum(row in small for row in drawn[:50])
    assert 10 < first_half < 40  # mixed, not one after the other


def test_media_paths_lead_to_the_other_folder(tmp_path):
    (row,) = rebase(rows_of("chair", 1), tmp_path / "b", tmp_path / "a")
    assert row.media[0]["path"] == "../b/videos/scannet/scene0000_00.mp4"
    assert row.video_path(tmp_path / "a").resolve() == tmp_path / "b" / "videos" / "scannet" / "scene0000_00.mp4"


@pytest.mark.parametrize("base", ["a", "."])  # "." holds the other folder: the link stays inside it
def test_a_link_out_of_the_other_folder_is_not_followed(tmp_path, base):
    for name in ("a", "b/videos/scannet"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "secret.mp4").write_bytes(b"film")
    (tmp_path / "b/videos/scannet/scene0000_00.mp4").symlink_to(tmp_path / "secret.mp4")
    with pytest.raises(DataError, match="is a link to a place outside"):
        rebase(rows_of("chair", 2), tmp_path / "b", tmp_path / base)


def test_train_reads_the_mix_through_the_leak_guard(tmp_path):
    write_rows(tmp_path / "a" / "train.jsonl", rows_of("chair", 6))
    write_rows(tmp_path / "b" / "train.jsonl", rows_of("bed", 6))
    mix = f"data.mix=[{{path: {tmp_path / 'b'}, weight: 2}}]"
    common = ["trainer=grpo", f"data={tmp_path / 'a'}", "output=o"]
    config = load_config("train", [*common, mix])
    rows, verdict = load_rows(config)
    assert verdict == "clean" and Counter("bed" in row.question for row in rows) == {True: 8, False: 4}
    assert [file.parent.name for file in row_files(config)] == ["a", "b"]
    write_rows(tmp_path / "b" / "train.jsonl", rows_of("bed", 2, scene="scene0025_00"))
    with pytest.raises(DataError, match="VSI-Bench"):
        load_rows(config)
    for wrong in ("[{weight: 2}]", "[{path: x, weight: 0}]", "[{path: x, wieght: 1}]"):
        with pytest.raises(ConfigError, match=r"data.mix\[0\]"):
            load_config("train", [*common, f"data.mix={wrong}"])


def checked(path, *words, **options):
    return check_data(path, load_config("train", ["trainer=grpo", *words], allow_missing=True), **options)


def folder_with_videos(tmp_path, rows, scenes):
    write_rows(tmp_path / "train.jsonl", rows)
    for scene in scenes:
        write_video(tmp_path / "videos" / "scannet" / f"{scene}.mp4", iter(np.zeros((4, 56, 56, 3), np.uint8)), fps=2)


def test_check_data_passes_a_good_folder(tmp_path):
    folder_with_videos(tmp_path, rows_of("chair", 3), ["scene0000_00"])
    report = checked(tmp_path)
    assert not report.problems and report.verdict == "clean" and report.frames == (4, 4)
    assert "all is well" in report.table()
    report.raise_if_bad()


def test_check_data_names_every_fault(tmp_path):
    own = rows_of("chair", 2) + rows_of("bed", 1, scene="scene0025_00") + rows_of("lamp", 1, scene="scene0011_00")
    folder_with_videos(tmp_path, own, ["scene0000_00", "scene0025_00"])
    broken = tmp_path / "videos" / "scannet" / "scene0025_00.mp4"
    broken.write_bytes(broken.read_bytes()[:300])
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    zero = json.dumps({**row_to_dict(own[0]), "id": "zero", "answer": "-1", "ground_truth": "-1"})
    (tmp_path / "train.jsonl").write_text("\n".join([*lines, zero, lines[0]]) + "\n")
    write_rows(tmp_path / "dev.jsonl", [replace(own[1], split="dev")])
    report = checked(tmp_path)
    text = report.table()
    for says in (
        "train.jsonl:5: ground_truth",  # the answer -1
        "used before in this file",
        "rooms of VSI-Bench (scene0025_00)",
        "share 1 rooms (e.g. scene0000)",
        "scene0025_00.mp4",  # cut off
        "scene0011_00.mp4: no such video",
        "problem: 1 rows of val scans",
    ):
        assert says in text, says
    assert report.verdict == "leak"
    with pytest.raises(DataError, match=r"problem\(s\), the first"):
        report.raise_if_bad()


@pytest.mark.integration
def test_a_hundred_odd_answers_among_ten_thousand_rows_are_grouped_and_named(tmp_path):
    row = row_to_dict(rows_of("chair", 1)[0])
    rows = [{**row, "id": str(number)} for number in range(10_000)]
    odd = ("", "a lot", "NaN", "-3", "1e999")
    for place in range(100):  # lines 100, 200, ... 10,000
        rows[100 * place + 99] |= {"ground_truth": odd[place % 5], "answer": odd[place % 5]}
    folder_with_videos(tmp_path, [], ["scene0000_00"])
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(data) + "\n" for data in rows))
    report = checked(tmp_path)
    assert report.files == {"train.jsonl": 9_900}
    lines = "(lines 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, ...)"
    empty = "(lines 100, 600, 1100, 1600, 2100, 2600, 3100, 3600, 4100, 4600, ...)"
    assert [problem for problem in report.problems if problem.endswith(lines)] == [
        f"{file}: 100 rows: ground_truth: must be a number in plain digits, above 0 (relative errors divide by it), "
        f"1e-100 to 1e+100 {lines}"
    ]
    for name in ("ground_truth", "answer"):
        assert f"{file}: 20 rows: {name}: must be a non-empty string {empty}" in report.problems
    assert len(report.problems) == 3
    with pytest.raises(DataError, match=r"train.jsonl:100: ground_truth="):  # training takes all rows or none
        read_rows(file)


def test_check_data_of_nothing(tmp_path):
    with pytest.raises(DataError, match=r"has no train\.jsonl"):
        checked(tmp_path)
    with pytest.raises(DataError, match="no such folder or file"):
        checked(tmp_path / "no.jsonl")
