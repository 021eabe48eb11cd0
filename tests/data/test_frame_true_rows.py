"""Rows that are not true for the frames shown are counted and left out, in build-data, check-data, train and eval."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from build_roots import demo_config, scannet_config
from test_build_order_route import full_scan_module

from vsgrpo.cli import run
from vsgrpo.config.compose import load_config
from vsgrpo.data.build.assemble import BuildSummary
from vsgrpo.data.build.dataset import build_dataset
from vsgrpo.data.build.scan import ScanJob, build_scan
from vsgrpo.data.check import check_data
from vsgrpo.data.frame_true import check_fields, named_frames, row_at, true_rows, truth_lines, truth_of
from vsgrpo.data.manifest import read_manifest
from vsgrpo.data.row import RowError
from vsgrpo.data.rows import make_row, read_rows, write_rows
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.scans.demo.plan import scan_id_of
from vsgrpo.scans.demo.source import write_demo_labels
from vsgrpo.scans.meta_info import read_scene_json
from vsgrpo.spatial.question import Question
from vsgrpo.spatial.question_types import QUESTION_TYPES
from vsgrpo.training.preflight import load_rows
from vsgrpo.video.budget import frame_indices
from vsgrpo.video.writer import write_video

EXTRAS = (
    {"judged_at": [8, 16], "true_at": [8, 16]},
    {"judged_at": [8, 16], "true_at": [16]},
    {"judged_at": [8, 16], "true_at": [16], "answer_at": {"8": "3"}},
    {"judged_at": [8, 16], "true_at": []},
    {},
)


def rows_with(*extras, rejected=None):
    return [
        make_row(
            Question(QUESTION_TYPES["object_counting"], f"How many chair {k}?", None, "4", "4", (), dict(extra)),
            dataset="demo",
            split="train",
            scene_name="demo0_00",
            room="demo0",
            video="videos/demo/demo0_00.mp4",
            generator={},
            rejected=rejected,
        )
        for k, extra in enumerate(extras)
    ]


def test_a_run_keeps_what_is_true_or_unknown():
    rows = rows_with(*EXTRAS, rejected="3")
    found = true_rows(rows, 8, "drop", "rows")
    assert [row.id for row in found.rows] == [rows[k].id for k in (0, 2, 4)]
    assert (found.dropped, found.answered, found.unknown) == ({"object_counting": 2}, 1, 1)
    other = found.rows[1]
    assert (other.answer, other.ground_truth) == ("3", "3") and other.rejected != "3"
    assert [row.id for row in true_rows(rows, 16, "drop", "rows").rows] == [rows[k].id for k in (0, 1, 2, 4)]
    assert true_rows(rows, 12, "drop", "rows").unknown == 5  # nobody judged 12 frames
    off = true_rows(rows, 8, "off", "rows")
    assert off.rows == rows and off.sentences() == []


def test_a_map_that_a_row_carries_is_judged_by_itself():
    carried = {"map": {"bed": [[1, 2]]}, "map_judged_at": [8, 16], "map_true_at": [16]}
    (row,) = rows_with({"judged_at": [8, 16], "true_at": [8, 16], **carried})
    row = replace(row, reasoning='<map>{"bed": [[1, 2]]}</map> I see four.')
    found = true_rows([row], 8, "drop", "rows")
    (kept,) = found.rows
    assert kept.extra == {"judged_at": [8, 16], "true_at": [8, 16]} and kept.reasoning == "I see four."
    assert found.maps == found.to_json()["maps"] == 1 and found.answered == 0 and "1 row loses" in found.sentences()[0]
    with pytest.raises(RowError, match=r'extra\.map_true_at="16": must be a list of numbers of frames'):
        true_rows([replace(row, extra={**row.extra, "map_true_at": "16"})], 8, "drop", "rows")
    for frames, mode in ((16, "drop"), (32, "drop"), (8, "off")):  # true, not judged, not asked
        assert true_rows([row], frames, mode, "rows").rows == [row]


def test_a_list_without_the_budgets_that_were_judged_is_taken_as_whole():
    (row,) = rows_with({"true_at": [16, 32]})
    assert row_at(row, 8) is None and row_at(row, 16) is row


def test_what_is_left_out_is_said_with_the_way_out():
    dropped, answered, unknown = true_rows(rows_with(*EXTRAS), 8, "drop", "rows").sentences()
    assert "2 of 5 rows left out: not true for the 8 frames shown (object_counting 2)" in dropped
    assert "data.frame_true=off" in dropped and "1 row has another answer" in answered
    assert "1 of 3 rows do not say" in unknown
    with pytest.raises(DataError, match="none of 1 row is true for the 8 frames") as error:
        true_rows(rows_with(EXTRAS[3]), 8, "drop", "rows")
    assert "data.frame_true=off" in error.value.hint


NAMED = (
    {"frames_shown": 16, "moment": [{"frame": 3, "time_s": 2.0}], "judged_at": [8, 16], "true_at": [16]},
    {"frames_shown": 16, "moment": [{"frame": 3, "time_s": 2.0}]},
)


def test_rows_that_name_frames_are_asked_with_so_many_frames_alone():
    rows = rows_with(*NAMED, {})
    assert true_rows(rows, 16, "drop", "rows").rows == rows
    for mode in ("drop", "off"):  # "frame 3 of 16" is another frame among 12, which nobody judged
        found = true_rows(rows, 12, mode, "rows")
        assert found.rows == rows[2:] and found.to_json()["named"] == {16: 2}
        assert "video.num_frames=16 keeps 2 that name frames of 16" in found.sentences()[0]
        assert "data.frame_true=off" not in found.sentences()[0]
    mixed = true_rows([*rows, *rows_with(EXTRAS[3])], 8, "drop", "rows").sentences()[0]
    assert "data.frame_true=off keeps 1, video.num_frames=16 keeps 2" in mixed
    with pytest.raises(DataError, match="none of 2 rows") as error:
        true_rows(rows[:2], 8, "off", "rows")
    assert error.value.hint == "set video.num_frames=16"
    tally = truth_of(rows)
    assert [tally.lost_at(k) for k in (8, 12, 16)] == [{"object_counting": 2}, {"object_counting": 2}, {}]


def test_frames_that_a_row_names_are_numbers_of_those_shown():
    extras = (NAMED[0], {"moment": "noon"}, {**NAMED[0], "frames_shown": 2}, {**NAMED[0], "frames_shown": None}, {})
    assert [named_frames(row) for row in rows_with(*extras)] == [(3,), (), (), (), ()]
    check_fields(rows_with({"moment": "noon"})[0], "row")  # a column of another project


def test_shares_by_type_and_what_a_run_loses():
    tally = truth_of(rows_with(*EXTRAS))
    (entry,) = tally.table().values()
    assert (entry["n"], entry["unknown"]) == (5, 1)
    assert entry["true_at"] == {
        "8": {"true": 1, "judged": 4, "share": 0.25},
        "16": {"true": 3, "judged": 4, "share": 0.75},
    }
    assert tally.lost_at(8) == {"object_counting": 2}  # 4 judged, 1 true, 1 with another answer
    assert tally.lost_at(16) == {"object_counting": 1} and tally.lost_at(12) == {}
    assert [line.split() for line in truth_lines(tally.table())] == [
        ["true", "at", "(frames)", "rows", "8", "16"],
        ["object_counting", "5", "25", "%", "75", "%"],
    ]
    assert truth_lines(truth_of(rows_with({})).table()) == []


@pytest.mark.parametrize(
    ("extra", "rule"),
    [
        ({"true_at": "16"}, "extra.true_at"),
        ({"true_at": [16.5]}, "extra.true_at"),
        ({"true_at": [16], "judged_at": [True]}, "extra.judged_at"),
        ({"true_at": [16], "answer_at": {"8": 3}}, "extra.answer_at"),
        ({"true_at": [16], "answer_at": {"x": "3"}}, "extra.answer_at"),
        ({"frames_shown": "16"}, "extra.frames_shown"),
        ({"frames_shown": 16, "moment": {"frame": 3}}, "extra.moment"),
        ({"frames_shown": 16, "moment": [{"frame": 0, "time_s": 1.0}]}, "extra.moment"),
    ],
)
def test_fields_in_another_form_are_refused_by_name(extra, rule):
    (row,) = rows_with(extra)
    with pytest.raises(RowError, match=rule):
        check_fields(row, "row")


@pytest.fixture
def folder(tmp_path):
    out = tmp_path / "data"
    write_rows(out / "train.jsonl", rows_with(*EXTRAS))
    frames = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), dtype=np.uint8)
    write_video(out / "videos/demo/demo0_00.mp4", iter(frames), fps=2)
    return out


def train_config(folder, *overrides):
    given = [f"data={folder}", "model=tiny", "launch=cpu", "video.num_frames=8", f"output={folder}/run"]
    return load_config("train", ["trainer=grpo", *given, *overrides])


def test_train_reads_the_rows_of_its_frames(folder):
    said = []
    assert len(load_rows(train_config(folder), said.append)[0]) == 3
    assert said[0].startswith("train.jsonl: frame-true: 2 of 5 rows left out")
    assert len(load_rows(train_config(folder, "video.num_frames=16"))[0]) == 4
    assert len(load_rows(train_config(folder, "data.frame_true=off"))[0]) == 5
    with pytest.raises(ConfigError, match=r"data\.frame_true=keep"):
        train_config(folder, "data.frame_true=keep")


def test_check_data_says_what_a_run_would_lose_and_refuses_other_forms(folder):
    report = check_data(folder, train_config(folder))
    assert report.problems == []
    assert any("video.num_frames=8 leaves out 2 of 5 rows (object_counting 2)" in note for note in report.notes)
    assert report.frame_true["train.jsonl"]["object_counting"]["true_at"]["16"]["true"] == 3
    assert "75 %" in report.table()
    rows = rows_with({"true_at": [16]}, {"true_at": "16"})
    write_rows(folder / "train.jsonl", rows)
    assert ["extra.true_at" in problem for problem in check_data(folder, train_config(folder)).problems] == [True]


@pytest.mark.integration
def test_eval_leaves_out_and_counts_rows_that_its_frames_do_not_make_true(folder, capfd):
    (folder / "train.jsonl").rename(folder / "dev.jsonl")
    command = ["eval", "model=tiny", f"benchmark.path={folder}", "benchmark.split=dev", "video.num_frames=8"]
    assert run([*command, f"output={folder}/eval"]) == 0
    assert "2 of 5 rows left out: not true for the 8 frames shown" in capfd.readouterr().err
    lines = (folder / "eval/predictions.jsonl").read_text().splitlines()
    assert len(lines) == 3
    counts = json.loads((folder / "eval/results.json").read_text())["frame_true"]
    assert counts == {"frames": 8, "dropped": {"object_counting": 2}, "answered": 1, "unknown": 1}
    assert run([*command, f"output={folder}/all", "data.frame_true=off"]) == 0
    assert len((folder / "all/predictions.jsonl").read_text().splitlines()) == 5


MESH = ("source.preset=furnished", "video.source=mesh", "video.walk_width=112", "video.walk_height=84")
MESH += ("video.budgets=[2,4,8,32]",)


def built(tmp_path, mode) -> tuple[BuildSummary, list]:
    out = tmp_path / mode
    types = "data.types=[object_counting,room_size_estimation,object_abs_distance]"
    summary = build_dataset(demo_config(out, *MESH, "data.mode=vsibench", types, f"video.frame_true={mode}", scenes=2))
    return summary, read_rows(out / "train.jsonl")


@pytest.mark.integration
def test_a_build_flags_drops_or_answers(tmp_path):
    summary, flagged = built(tmp_path, "flag")
    assert all(row.extra["judged_at"] == [2, 4, 8] for row in flagged)  # 32 are more than the walk's 31 frames
    never = [row for row in flagged if not row.extra["true_at"]]
    assert never and not any("answer_at" in row.extra for row in flagged)
    table = read_manifest(tmp_path / "flag").counts["frame_true"]["train"]
    assert table == summary.frame_true["train"] == truth_of(flagged).table()
    assert "true at (frames)" in summary.table()
    dropped, rows = built(tmp_path, "drop")
    assert [row.id for row in rows] == [row.id for row in flagged if row.extra["true_at"]]
    assert sum(n for why, n in dropped.dropped.items() if why.endswith("video.frame_true")) == len(never)
    _, answered = built(tmp_path, "answer")
    assert {row.id for row in rows} <= {row.id for row in answered}
    others = [row for row in answered if "answer_at" in row.extra]
    assert all(row.question_type == "object_counting" and row.extra["answer_at"] for row in others)


def test_recorded_demo_rooms_say_whether_their_frames_show_the_floor(tmp_path):
    """Eight frames look to four sides, the first and the last to two of them: half of the floor."""
    config = demo_config(tmp_path, "source.seed=1", "video.budgets=[2,8]", "data.types=[room_size_estimation]")
    write_demo_labels(tmp_path / "root")
    found = {}
    for index in (0, 70):
        outcome = build_scan(ScanJob(config, tmp_path / "root", tmp_path, scan_id_of(1, index), "train"))
        (row,) = outcome.rows
        found[index] = (row.extra, read_scene_json(tmp_path / f"scenes/demo/{row.scene_name}.json").footage.areas)
    assert found[0][0] == {"seen": True, "judged_at": [2, 8], "true_at": [8]}
    assert 0.4 < found[0][1][2] < 0.6 and found[0][1][8] > 0.99
    # In room 70 a plant of 1.9 m stands a metre from the camera: a march along each ray finds 6.1 % of the floor behind
    # it with frames of 224 x 224 pixels, 6.5 % with these of 56 x 56.
    assert found[70][0] == {"seen": True, "judged_at": [2, 8], "true_at": []}
    assert found[70][1][8] == pytest.approx(0.937, abs=0.01)


@pytest.mark.parametrize("value", ["[7]", "[8,8]", "[0]"])
def test_budgets_are_different_even_numbers(tmp_path, value):
    with pytest.raises(ConfigError, match=r"video\.budgets"):
        demo_config(tmp_path, f"video.budgets={value}")


@pytest.mark.integration
def test_no_frame_shown_contradicts_an_order(tmp_path):
    """In every order row of generated scans, at every budget where it is true and in the walk as a whole."""
    budgets, made = [8, 16, 32, 62], 0
    for index in range(2):
        root, out = tmp_path / f"root{index}", tmp_path / f"out{index}"
        truth = full_scan_module().write_full_scan(root, index, num_vertices=20_000, num_objects=22, most_stacked=1)
        given = ["data.mode=vsibench", "data.types=[obj_appearance_order]", "video.source=mesh", "video.walk_frames=63"]
        size = ["video.walk_width=224", "video.walk_height=168", f"video.budgets={budgets}".replace(" ", "")]
        outcome = build_scan(ScanJob(scannet_config(root, out, *given, *size), root, out, truth.scan_id, "train"))
        scene = read_scene_json(out / "scenes/scannet" / f"{truth.scan_id}.json")
        total = len(next(iter(scene.pixels.values())))
        for row in outcome.rows:
            made += 1
            shown = {0: range(total), **{k: sorted(set(frame_indices(total, k))) for k in row.extra["true_at"]}}
            for frames in shown.values():
                for least in (13, 25, 50):  # 50 of 448 x 336 pixels are 12.5 of 224 x 168
                    first = [first_sight(scene, name, frames, least) for name in row.answer.split(", ")]
                    assert all(a <= b for a, b in pairwise(first)), (row.answer, first, least)
    assert made >= 10


def first_sight(scene, category, frames, least) -> int:
    ids = [item.instance_id for item in scene.objects if item.category == category]
    return next((k for k in frames if sum(scene.pixels[i][k] for i in ids) >= least), 999)


def test_rows_of_a_walk_carry_the_fields_into_json(tmp_path):
    row = replace(rows_with(EXTRAS[2])[0])
    write_rows(tmp_path / "train.jsonl", [row])
    extra = json.loads((tmp_path / "train.jsonl").read_text())["extra"]
    assert extra == {"judged_at": [8, 16], "true_at": [16], "answer_at": {"8": "3"}}
