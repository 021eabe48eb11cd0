import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation_rows import official_rows
from vsgrpo.audit.measure import Audit, TypeAudit
from vsgrpo.audit.transfer import Transfer, TypeTransfer
from vsgrpo.config.compose import load_config
from vsgrpo.data.build.dataset import build_dataset
from vsgrpo.data.manifest import TrainingManifest, write_training_manifest
from vsgrpo.data.rows import read_rows, write_rows
from vsgrpo.data.scene_files import scenes_of
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench
from vsgrpo.evaluation.trust.lamps import lamps_of
from vsgrpo.evaluation.trust.revsi_rules import judge_rows, rule_table
from vsgrpo.evaluation.trust.sets import num_pruned, pruned_by_text, row_sets
from vsgrpo.evaluation.trust.training import TrainingRows, training_rows
from vsgrpo.evaluation.trust.untrue import untrue_rows
from vsgrpo.families.vision_record import write_vision
from vsgrpo.files import file_sha256
from vsgrpo.spatial.directions import DIRECTION
from vsgrpo.spatial.question import ObjectRef, Question
from vsgrpo.spatial.question_types import QUESTION_TYPES
from vsgrpo.spatial.questions import ABS_DISTANCE, REL_DISTANCE, ROOM, SIZE, with_distance
from vsgrpo.spatial.revsi import RULES, fault_of

NEAR, COUNT = "object_rel_distance", "object_counting"


def of_type(text, interval, *, chance=0.25, constant=0.25):
    floor = max(chance, constant)
    share = (text - floor) / (1 - floor)
    return TypeAudit(100, 20, chance, constant, text, text, interval, 0.0, share, None, None)


def audit(types, row_scores=None):
    return Audit(types, {}, row_scores or {}, (), (), None)


@pytest.fixture
def rows(write_benchmark):
    return VsiBench.read(write_benchmark(official_rows(4))).rows


def test_pruning_by_hand():
    # Means of what is left: all 2.6 / 5 = .52, without the first 1.6 / 4 = .4, then .6 / 3 = .2.
    assert num_pruned([1.0, 1.0, 0.5, 0.1, 0.0], 0.4) == 1
    assert num_pruned([1.0, 1.0, 0.5, 0.1, 0.0], 0.39) == 2
    assert num_pruned([1.0, 1.0, 0.5, 0.1, 0.0], 0.6) == 0
    assert num_pruned([1.0, 1.0], 0.5) == 2  # text has every row right


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0, 1))
def test_what_is_left_has_no_more_than_the_floor_and_one_row_more_would(scores, floor):
    ordered = sorted(scores, reverse=True)
    number = num_pruned(ordered, floor)
    left = ordered[number:]
    assert not left or sum(left) / len(left) <= floor + 1e-9
    if number:
        more = ordered[number - 1 :]
        assert sum(more) / len(more) > floor - 1e-9


def test_each_type_is_pruned_to_its_own_floor(rows):
    near = [row.key for row in rows if row.question_type == NEAR]
    count = [row.key for row in rows if row.question_type == COUNT]
    scores = dict(zip([*near, *count], [1.0, 1.0, 0.0, 0.0, 0.9, 0.9, 0.9, 0.9], strict=True))
    found = audit({NEAR: of_type(0.5, (0.4, 0.6)), COUNT: of_type(0.9, (0.9, 0.9), constant=0.9)}, scores)
    # Of the four choices (mean .5, floor .25): without one 1 / 3, without two 0. Counts have no more than the constant.
    assert pruned_by_text(rows, found) == {*near[:2]}


def test_sets_that_leave_nothing_out_are_not_shown(rows):
    every = [row.id for row in rows]
    assert [item.name for item in row_sets(rows, audit({}), 16)] == ["full"]
    said = [replace(row, extra={"judged_at": [8, 16], "true_at": [16]}) for row in rows]
    assert [item.name for item in row_sets(said, audit({}), 16)] == ["full"]  # all of them are true
    assert [item.name for item in row_sets(said, audit({}), 8)] == ["full"]  # none is: nothing to score
    mixed = [replace(rows[0], extra={"judged_at": [8], "true_at": []}), *said[1:3], *rows[3:]]
    full, true = row_sets(mixed, audit({}), 16)
    assert (full.ids, true.name) == (frozenset(every), "frame-true at 16")
    # The first was not judged at 16, the last nine do not say at all: none of them is known to be true.
    assert true.ids == {*every[1:3]} and "10 rows do not say" in true.about
    benchmark = [replace(row, extra={"pruned": number % 3 == 0}) for number, row in enumerate(rows)]
    assert row_sets(benchmark, audit({}), 16)[1].ids == {*every[1:3], *every[4:6], *every[7:9], *every[10:12]}


def test_rows_that_are_not_true_and_why(rows):
    said = [replace(row, extra={"judged_at": [16], "true_at": [16]}) for row in rows]
    said[0] = replace(said[0], extra={"judged_at": [16], "true_at": [], "answer_at": {"16": "2"}})
    said[1] = replace(said[1], extra={"judged_at": [16], "true_at": []})
    said[3] = replace(said[3], extra={"judged_at": [16], "true_at": []})
    said[4] = rows[4]
    found = untrue_rows(said, 16)
    assert found["types"][COUNT] == {"true": 2, "untrue": 2, "unknown": 0}
    assert found["types"]["room_size_estimation"] == {"true": 2, "untrue": 1, "unknown": 1}
    # The types in turn: the second count comes after the room.
    assert [(row["id"], row["why"]) for row in found["rows"]] == [
        (rows[0].id, "16 frames show 2"),
        (rows[1].id, "the frames do not span the floor"),
        (rows[3].id, "not every instance is visible"),
    ]


def transfer(above, interval):
    item = TypeTransfer(100, 200, 0.25, 0.3, 0.28, 0.3 + above, (0.2, 0.4), above, interval)
    return Transfer({NEAR: item}, {}, 0, 0, item)


def status(train, found=None, moved=None):
    return [lamp.status for lamp in lamps_of(train, found, moved)]


def test_lamps_by_hand(rows):
    unknown = TrainingRows((), "", "runs/x: no config.yaml of its run")
    lamps = lamps_of(unknown, None, None)
    assert {(lamp.status, lamp.value, lamp.number) for lamp in lamps} == {("unknown", None, unknown.problem)}
    assert all("trust.train=DIR" in lamp.mend for lamp in lamps)
    true = [replace(row, extra={"judged_at": [16], "true_at": [16]}) for row in rows]
    good = TrainingRows(tuple(true), "data/train.jsonl", frames=16)
    # Text share: (.28 - .25) / .75 = 4 %, upper end (.285 - .25) / .75 = 4.7 %; above: 2 points, 4.9 at most.
    fine = audit({NEAR: of_type(0.28, (0.27, 0.285)), COUNT: of_type(0.9, (0.9, 0.9))})
    assert status(good, fine, transfer(0.02, (-0.01, 0.049))) == ["green"] * 3
    # An interval across the limit tells nothing; a number beyond it does.
    wide = audit({NEAR: of_type(0.28, (0.2, 0.29))})
    assert status(good, wide, transfer(0.02, (-0.01, 0.051))) == ["unknown", "green", "unknown"]
    bad = audit({NEAR: of_type(0.3, (0.29, 0.31)), "route_planning": of_type(0.2, (0.19, 0.21))})
    red = lamps_of(good, bad, transfer(0.06, (0.04, 0.08)))
    assert [lamp.status for lamp in red] == ["red", "green", "red"]
    # (.3 - .25) / .75 = 6.7 %, in relative distance and not in routes.
    assert "6.7 % in object_rel_distance" in red[0].number and "6 points above (4 to 8)" in red[2].number
    # Without choices the counts: (.4 - .25) / .75 = 20 %; (.26 - .25) / .75 = 1.3 %, (.28 - .25) / .75 = 4 % at most.
    counts = lamps_of(good, audit({COUNT: of_type(0.4, (0.3, 0.5))}), None)[0]
    assert counts.status == "red" and "counts" in counts.name
    assert counts.number.startswith(
        "they ask no choices; text share 20 % in object_counting, the highest of 1 counting"
    )
    assert status(good, audit({COUNT: of_type(0.26, (0.24, 0.28))}), None)[0] == "green"
    # Sizes are knowledge, not what gives itself away.
    sizes = lamps_of(good, audit({"object_size_estimation": of_type(0.4, (0.3, 0.5))}), None)[0]
    assert (sizes.status, sizes.mend) == ("unknown", "")
    assert sizes.number.startswith(
        "they ask no choices and no counts; of the numbers text gives most away in object_size"
    )


def test_the_lamp_of_true_rows(rows):
    def lamp(num_true, num_false, num_silent, **more):
        extras = [{"true_at": [16]}] * num_true + [{"true_at": [8]}] * num_false + [{}] * num_silent
        made = tuple(replace(rows[0], extra=extra) for extra in extras)
        return lamps_of(TrainingRows(made, "x", **{"frames": 16, **more}), None, None)[1]

    assert (lamp(19, 1, 0).status, lamp(19, 1, 0).value) == ("green", 0.95)
    assert lamp(18, 2, 0).status == "red"
    assert lamp(19, 0, 1).status == "green"  # 19 of 20 whatever the last one is
    assert lamp(18, 0, 2).status == "unknown"
    assert lamp(0, 2, 18).status == "red"  # at most 18 of 20
    assert lamp(18, 2, 0, drops_untrue=True).status == "green"  # 18 of the 18 that it was trained on
    assert "left 2 rows out" in lamp(18, 2, 0, drops_untrue=True).number
    assert lamp(20, 0, 0, frames=None).status == "unknown"


@pytest.fixture
def trained(tmp_path, rows):
    """A run folder beside the data it was trained on."""
    data, final = tmp_path / "data", tmp_path / "run" / "final"
    data.mkdir()
    final.mkdir(parents=True)
    write_rows(data / "train.jsonl", rows)
    config = {"data": {"path": str(data), "split": "train", "types": [COUNT], "frame_true": "drop"}}
    (tmp_path / "run" / "config.yaml").write_text(json.dumps(config))
    hashes = {"train.jsonl": file_sha256(data / "train.jsonl")}
    write_training_manifest(final, TrainingManifest(hashes=hashes, num_rows=4))
    write_vision(final, {"num_frames": 8, "min_pixels": 3136, "max_pixels": 50176}, "published")
    return data, final


def test_training_rows_are_those_of_the_run(trained, rows, tmp_path):
    data, final = trained
    found = training_rows(str(final), None, None)
    assert [row.id for row in found.rows] == [row.id for row in rows if row.question_type == COUNT]
    assert (found.frames, found.drops_untrue, found.problem) == (8, True, "")
    assert training_rows("Qwen/Qwen2-VL-2B-Instruct", str(final), None).rows == found.rows  # an adapter's run
    given = training_rows(str(final), None, str(data))
    assert len(given.rows) == 12 and not given.drops_untrue
    with pytest.raises(DataError, match=r"trust\.train="):
        training_rows(str(final), None, str(tmp_path / "nowhere"))
    write_rows(data / "train.jsonl", rows[:3])
    assert "not the file that was trained on" in training_rows(str(final), None, None).problem
    (data / "train.jsonl").unlink()
    assert "not there any more" in training_rows(str(final), None, None).problem
    assert "no training_manifest.json" in training_rows(str(tmp_path), None, None).problem


def near_miss(question, answer, kind, options=None, **more):
    entry = {"question_type": kind, "question": question, "ground_truth": answer, "options": options, **more}
    return {"dataset": "scannet", "scene_name": "scene0000_00", **entry}


def test_rules_of_revsi_by_the_text_of_a_row(write_benchmark):
    distance, nearest = (with_distance(text, "closest_point") for text in (ABS_DISTANCE, REL_DISTANCE["vsibench"]))
    size = SIZE["vsibench"]
    asked = [
        near_miss(distance.format(first="bag", second="desk"), "0.9", "object_abs_distance"),
        near_miss(distance.format(first="bed", second="desk"), "1.0", "object_abs_distance"),
        near_miss(size.format(category="toilet"), "70", "object_size_estimation"),
        near_miss(size.format(category="desk"), "120", "object_size_estimation"),
        near_miss(
            nearest.format(options="lamp, shoes", category="bed"),
            "A",
            NEAR,
            ["A. lamp", "B. shoes"],
        ),
        near_miss(
            DIRECTION["easy"].format(standing="bed", facing="desk", target="lamp"),
            "A",
            "object_rel_direction_easy",
            ["A. left", "B. right"],
        ),
        near_miss(ROOM["vsibench"], "20.0", "room_size_estimation"),
    ]
    rows = VsiBench.read(write_benchmark([{"id": number, **row} for number, row in enumerate(asked)])).rows
    verdicts = judge_rows(rows, {})
    name, near, known, large, apart = (rule.name for rule in RULES)
    assert verdicts == {
        "0": {name: True, near: True},
        "1": {name: False, near: False},
        "2": {name: False, known: True},
        "3": {name: False, known: False},
        "4": {name: True},
        "5": {name: False, large: None, apart: None},  # no boxes
        "6": {},
    }
    _, obeys = row_sets(rows, audit({}), 16, verdicts)
    assert (obeys.name, obeys.ids) == ("ReVSI rules", frozenset("1356"))
    assert "2 a name that means many things, 1 a distance below 1 m" in obeys.about
    assert "1 row without what a rule needs" in obeys.about
    assert rule_table(verdicts)[3] == {"rule": large, "n": 1, "broken": 0, "unknown": 1}


def test_rows_of_our_own_are_judged_by_their_boxes(tmp_path):
    build_dataset(
        load_config(
            "build_data",
            [
                *("source=demo", "source.preset=furnished", "source.num_scenes=2", "video.source=none"),
                *("data.mode=vsibench", "data.dev_fraction=0", "build.num_workers=1", f"output={tmp_path}"),
            ],
        )
    )
    rows = read_rows(tmp_path / "train.jsonl")
    scenes = scenes_of(rows, tmp_path)
    assert len(scenes) == len(rows)
    found = judge_rows(rows, scenes)
    # the builder's own removal, asked about the same question
    for row in rows:
        refs = tuple(ObjectRef(**item) for item in row.objects)
        kind = QUESTION_TYPES[row.question_type]
        question = Question(kind, row.question, row.options, row.ground_truth, row.answer, refs)
        first = next((rule for rule, broken in found[row.id].items() if broken), None)
        assert first == fault_of(scenes[row.key], question)
    table = {item["rule"]: item for item in rule_table(found)}
    assert not any(item["unknown"] for item in table.values())
    assert table["a size that everybody knows"]["broken"] and table["standing by an object of more than 1 m2"]["broken"]
