"""data.mix draws by weight, check-data finds every fault."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsgrpo.config.compose import load_config
from vsgrpo.config.train import MixSource
from vsgrpo.data.check import check_data
from vsgrpo.data.mix import draw_mix, expect_mix, mix_counts, mix_lines, shares
from vsgrpo.data.rows import make_row, read_rows, rebase, row_to_dict, write_rows
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
    even = [MixSource("large", 1.0, None), MixSource("small", 1.0, None)]
    drawn, found = draw_mix([large, small], even, seed=3)
    counts = Counter(row.key for row in drawn)
    assert len(drawn) == 100
    assert sum(counts[row.key] for row in small) == 50 and {counts[row.key] for row in small} == {5}
    assert {counts[row.key] for row in large} == {0, 1}
    assert drawn == draw_mix([large[::-1], small], even, seed=3)[0] != draw_mix([large, small], even, seed=4)[0]
    assert [(item.rows, item.drawn, item.different, item.most) for item in found] == [(90, 50, 50, 1), (10, 50, 10, 5)]
    assert found == expect_mix([90, 10], even)
    first_half = sum(row in small for row in drawn[:50])
    assert 10 < first_half < 40  # mixed, not one after the other


def test_a_cap_makes_the_mix_smaller_and_keeps_the_shares():
    spatial, general = MixSource("spatial", 1.0, None), MixSource("general", 1.0, 20)
    # equal shares of 90 + 60 rows would be 75 each; at most 20 general rows at an equal share are 40 rows in all
    assert mix_counts([90, 60], [spatial, general]) == [20, 20]
    # weights 3 to 1: at most 20 general rows are 80 rows in all
    assert mix_counts([90, 60], [spatial._replace(weight=3.0), general]) == [60, 20]
    # a cap that is not reached changes nothing, and of two the stricter one holds: 8 / (1/4) = 32 rows in all
    assert mix_counts([90, 60], [spatial, general._replace(cap=75)]) == [75, 75]
    assert mix_counts([90, 60], [spatial._replace(weight=3.0, cap=30), general._replace(cap=8)]) == [24, 8]
    rows, found = draw_mix([rows_of("chair", 90), rows_of("bed", 60)], [spatial, general], seed=3)
    assert len({row.key for row in rows}) == len(rows) == 40 and found == expect_mix([90, 60], [spatial, general])
    head, first, second = mix_lines(found)
    assert head.split() == ["rows", "from", "rows", "weight", "cap", "drawn", "share", "different", "most", "often"]
    assert first.split() == ["spatial", "90", "1", "-", "20", "50.0", "%", "20", "1x"]
    assert second.split() == ["general", "60", "1", "20", "20", "50.0", "%", "20", "1x"]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 300), st.floats(0.01, 10), st.none() | st.integers(1, 300)), min_size=1, max_size=5
    )
)
def test_no_source_gives_more_than_its_cap_and_shares_are_within_a_row(given_sources):
    sources = [MixSource(str(k), weight, cap) for k, (_, weight, cap) in enumerate(given_sources)]
    counts = mix_counts([size for size, _, _ in given_sources], sources)
    assert all(source.cap is None or count <= source.cap for count, source in zip(counts, sources, strict=True))
    total, weights = sum(counts), sum(source.weight for source in sources)
    assert 1 <= total <= sum(size for size, _, _ in given_sources)
    assert all(abs(c - total * s.weight / weights) < 2 + 1e-6 for c, s in zip(counts, sources, strict=True))


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
    for wrong in (
        "{weight: 2}",
        "{path: x, weight: 0}",
        "{path: x, wieght: 1}",
        "{path: x, cap: 0}",
        "{path: x, cap: 1.5}",
    ):
        with pytest.raises(ConfigError, match=r"data.mix\[0\]"):
            load_config("train", [*common, f"data.mix=[{wrong}]"])


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


def test_check_data_reads_every_folder_of_a_mix_and_says_what_a_run_would_draw(tmp_path):
    for name, number, scene in (("own", 6, "scene0000_00"), ("general", 4, "scene0001_00")):
        folder_with_videos(tmp_path / name, rows_of(name, number, scene), [scene])
    mix = f"data.mix=[{{path: {tmp_path / 'general'}, cap: 2}}]"
    report = checked(tmp_path / "own", mix)
    general = str(tmp_path / "general" / "train.jsonl")
    assert report.files == {"train.jsonl": 6, general: 4} and not report.problems and report.num_videos == 2
    own, other = (note.split()[1:] for note in report.notes if "drawn" not in note)
    assert own[1:6] == ["6", "1", "-", "2", "50.0"] and other[1:6] == ["4", "1", "2", "2", "50.0"]
    write_rows(general, rows_of("bed", 2, scene="scene0025_00"))
    report = checked(tmp_path / "own", mix)
    assert report.verdict == "leak" and any(
        problem.startswith(f"{general}: 2 rows show") for problem in report.problems
    )
    with pytest.raises(DataError, match=r"data\.mix\[0\]\.path=.*nothing"):
        checked(tmp_path / "own", f"data.mix=[{{path: {tmp_path / 'nothing'}}}]")


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
        "share 1 room (e.g. scene0000)",
        "scene0025_00.mp4",  # cut off
        "scene0011_00.mp4: no such video",
        "problem: 1 row of val scans",
    ):
        assert says in text, says
    assert report.verdict == "leak"
    with pytest.raises(DataError, match=r"problems, the first"):
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
