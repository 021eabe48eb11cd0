"""The text-only audit: slots, predictors by hand, planted giveaways, files of any make, the benchmark's dev half."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsgrpo.audit.choices import ChoiceTexts
from vsgrpo.audit.folds import scene_folds, scene_interval
from vsgrpo.audit.measure import audit_rows, share_of
from vsgrpo.audit.numbers import NumberTexts, candidates, score_table
from vsgrpo.audit.rows import AuditRow, slots_of
from vsgrpo.audit.transfer import transfer_text
from vsgrpo.cli import run
from vsgrpo.data.audit_rows import read_audit_rows
from vsgrpo.errors import DataError
from vsgrpo.spatial.scoring import mra

DEV_HALF = Path(__file__).parents[3] / "shared/data/vsibench_dev/test_dev.jsonl"
WORDS = ("bed", "chair", "desk", "lamp", "rug", "sofa", "stool", "table")


def number(category, value, scene="a", kind="object_counting"):
    name = f"{scene}/{category}"
    return AuditRow(name, kind, scene, f"How many {category}(s) are in this room?", None, str(value), None)


def choice(anchor, words, right, scene="a", kind="object_rel_distance", place=0):
    text = f"which of these objects ({', '.join(words)}) is the closest to the {anchor}?"
    return AuditRow(f"{scene}/{anchor}/{place}", kind, scene, text, tuple(words), words[right], right)


# --- slots ---


@pytest.mark.parametrize(
    ("question", "slots"),
    [
        ("How many coffee table(s) are in this room?", {"a": "coffee table"}),
        ("How many chair(s)in the room?", {"a": "chair"}),
        ("How many chair(s) and stool(s) are in the scene in total?", {"a": "chair", "b": "stool"}),
        ("What is the distance between the Bed and the tv (in meters)?", {"a": "bed", "b": "tv"}),
        ("Which of these objects (a, b, c, d) is the farthest from the sofa?", {"anchor": "sofa"}),
        (
            "If I am standing by the bed and facing the tv, is the door to my left, right, or back?\nAn object is ...",
            {"standing": "bed", "facing": "tv", "target": "door"},
        ),
        (
            "If I am standing by the bed with the tv behind me, is the door to my left, right, or back?",
            {"standing": "bed", "facing": "tv", "target": "door"},
        ),
        ("What will be the first-time appearance order of the following categories in the video: a, b?", {}),
    ],
)
def test_slots_of_known_wordings(question, slots):
    assert slots_of([question]) == [slots]


def test_slots_of_other_wordings_are_what_the_questions_do_not_share():
    asked = [f"In frame {k} of 32, how far is the camera from the {word}?" for k, word in enumerate(WORDS)]
    found = slots_of(asked)
    assert [list(slots.values()) for slots in found] == [[word] for word in WORDS]
    assert len({tuple(slots) for slots in found}) == 1  # one place, whatever the number of the frame


# --- numbers ---


@given(st.floats(0, 1e4), st.one_of(st.just(0.0), st.floats(0.1, 1e4)))
@pytest.mark.filterwarnings("ignore:a relative accuracy")
def test_the_table_of_scores_is_the_score(prediction, truth):
    assert score_table(np.array([prediction]), np.array([truth]))[0, 0] == mra(prediction, truth)


def test_candidates():
    assert candidates(np.array([2.0, 5.0])).tolist() == [2, 3, 4, 5]
    metres = candidates(np.array([0.5, 8.0]))
    assert (metres[0], metres[-1]) == (0.5, 8.0)
    assert candidates(np.array([0.0, 0.0])).tolist() == [0.0]
    assert candidates(np.array([0.0, 2.5, 500.5]))[0] == 0.0


def test_a_number_follows_its_category():
    rows = [number("chair", 8, s) for s in "abcd"] + [number("lamp", 2, s) for s in "abcdef"]
    rows += [number("chair", 8, "z"), number("lamp", 2, "z"), number("stool", 2, "z")]
    texts = NumberTexts(rows)
    fit, use = np.arange(10), np.arange(10, 13)
    scores = texts.predict(texts.truth, fit, use)
    # constant: 2 is right for 6 of 10 and worth nothing for an 8 (error .75); 8 is right for 4 of 10.
    assert scores["constant"].tolist() == [0.0, 1.0, 1.0]
    # chair: weight 1 for each 8, 3/10 for any: 4 + 1.2 against 1.8. stool is new: as the constant.
    assert scores["category"].tolist() == [1.0, 1.0, 1.0]


def test_a_pair_learns_from_questions_that_share_a_name():
    def pair(first, second, metres, scene):
        text = f"What is the distance between the {first} and the {second} (in meters)?"
        return AuditRow(f"{scene}{first}{second}", "object_abs_distance", scene, text, None, str(metres), None)

    rows = [pair("bed", "tv", 4.0, "a"), pair("lamp", "rug", 1.0, "a"), pair("lamp", "desk", 1.0, "b")]
    rows += [pair("tv", "bed", 4.0, "z"), pair("rug", "desk", 1.0, "z")]
    texts = NumberTexts(rows)
    counted = texts._counted(np.array([1, 0, 0, 0, 0]), np.arange(3), 2)
    # bed and tv in either order: itself once. rug and desk: two questions that share one name each, 0.1 each.
    assert counted[texts.key_of[3]].tolist() == pytest.approx([0.0, 1.0])
    assert counted[texts.key_of[4]].tolist() == pytest.approx([0.2, 0.0])


def test_chance_of_numbers_is_the_answer_of_another_row():
    texts = NumberTexts([number("chair", n, str(n)) for n in (2, 2, 4)])
    # ordered pairs: 2 for 2 twice, 1 each; 4 for 2 (error 1) 0; 2 for 4 (error .5: only the threshold .5) .1: 2 each
    assert texts.chance(texts.truth) == pytest.approx((2 + 2 * 0.0 + 2 * 0.1) / 6)


# --- choices ---


def test_rates_of_being_right_by_hand():
    rows = [choice("bed", ("rug", "lamp"), 0, s) for s in "ab"] + [choice("bed", ("lamp", "rug"), 0, "z")]
    texts = ChoiceTexts(rows)
    rates = texts._rates(texts.is_right(texts.truth), texts.options_of(np.arange(2)), texts._codes)
    # each of three keys (word, options, anchor): rug was right 2 of 2: (2 + 4/2) / (2 + 4) - 1/2 = 1/6; lamp -1/6
    assert rates[-2:].tolist() == pytest.approx([3 * -1 / 6, 3 * 1 / 6])
    scores = texts.predict(texts.truth, np.arange(2), np.array([2]))
    assert scores["category"].tolist() == [0.0]  # it says rug; lamp is right
    assert scores["constant"].tolist() == [1.0]  # A was right twice


def test_without_letters_the_constant_is_a_word():
    rows = [replace(choice("bed", ("rug", "lamp"), 0, s), has_letters=False) for s in "ab"]
    rows.append(replace(choice("bed", ("lamp", "rug"), 0, "z"), has_letters=False))
    scores = ChoiceTexts(rows).predict(np.array([0, 0, 0]), np.arange(2), np.array([2]))
    assert scores["constant"].tolist() == [0.0]


def test_orders_are_compared_by_precedence():
    def order(scene, right):
        words = ("bed, rug, tv", "tv, rug, bed", "rug, bed, tv")
        return AuditRow(scene, "obj_appearance_order", scene, "appearance order of the following categories",
                        words, words[right], right)  # fmt: skip

    texts = ChoiceTexts([order("a", 0), order("b", 0), order("z", 2)])
    assert texts.is_order
    score = texts._precedence(texts.truth, np.arange(2))[-3:]
    # seen twice: bed<rug, bed<tv, rug<tv: log 3 each. bed,rug,tv: 3 log 3; turned round: -3 log 3; rug,bed,tv: log 3
    assert score.tolist() == pytest.approx([3 * np.log(3), -3 * np.log(3), np.log(3)])


def test_probabilities_add_up():
    rows = [choice("bed", WORDS[k % 4 : k % 4 + 4], k % 3, f"s{k}") for k in range(20)]
    beliefs = ChoiceTexts(rows).beliefs(np.array([r.right for r in rows]), np.arange(10), np.arange(10, 20))
    assert [len(p) for p in beliefs] == [4] * 10
    assert [p.sum() for p in beliefs] == pytest.approx([1.0] * 10)


# --- folds, intervals, audits ---


@given(st.lists(st.integers(0, 40), min_size=5, max_size=200))
def test_a_fold_holds_whole_scenes(numbers):
    scenes = [f"s{n}" for n in numbers]
    folds = scene_folds(scenes, 0)
    assert len({(s, f) for s, f in zip(scenes, folds.tolist(), strict=True)}) == len(set(scenes))
    again = dict(zip(reversed(scenes), scene_folds(scenes[::-1], 0).tolist(), strict=True))
    assert again == dict(zip(scenes, folds.tolist(), strict=True))  # whatever the order of the rows


def test_an_interval_of_one_value_is_that_value():
    assert scene_interval(np.full(6, 0.25), list("aabbcc")) == (0.25, 0.25)


def test_shares():
    assert share_of(0.625, 0.25) == pytest.approx(0.5)
    assert share_of(1.0, 1.0) == 0.0


def planted(num_scenes, find_right, seed=0):
    """Return four relative distances a scene; `find_right` says which option is right."""
    rng = np.random.default_rng(seed)
    rows = []
    for scene in range(num_scenes):
        for k in range(4):
            anchor, *words = rng.permutation(WORDS)[:5].tolist()
            rows.append(choice(anchor, words, find_right(words, rng), f"s{scene}", place=k))
    return rows


def test_a_giveaway_is_found_and_noise_is_not():
    told = audit_rows(planted(100, lambda words, rng: words.index(min(words))))  # the first of the alphabet
    given_away = told.types["object_rel_distance"]
    assert given_away.text > 0.9 and given_away.text_share > 0.85 and given_away.prior_share < 0.05
    assert given_away.null is not None and abs(given_away.null - 0.25) < 0.06
    noise = audit_rows(planted(100, lambda words, rng: int(rng.integers(4)))).types["object_rel_distance"]
    assert abs(noise.text - 0.25) < 0.08 and noise.interval[0] < 0.27
    assert told.exploitable[0].score == 1.0 and len(told.row_scores) == 400
    assert told.mean("text") == given_away.text
    assert audit_rows(planted(100, lambda words, rng: words.index(min(words)))) == told


def test_near_fixed_categories_are_named():
    rows = [number("bed", 200 + k, f"s{k}") for k in range(20)] + [
        number("rug", 20 * k + 20, f"s{k}") for k in range(20)
    ]
    found = audit_rows(rows, null=False).near_fixed
    assert [(item.category, item.count) for item in found] == [("bed", 20)]
    assert found[0].score > 0.9


def test_too_few_rows_or_scenes_are_said_and_not_scored():
    few_rows = planted(7, lambda words, rng: 0)
    few_scenes = [
        replace(row, question_type="other", scene=f"s{k % 4}") for k, row in enumerate(planted(9, lambda *_: 0))
    ]
    audit = audit_rows([*few_rows, *few_scenes])
    assert audit.types == {} and audit.interval is None and audit.mean("text") == 0.0
    assert audit.not_scored == {
        "object_rel_distance": "28 rows, 30 are needed",
        "other": "4 scenes, 5 are needed",
    }


# --- transfer ---


def test_a_training_set_teaches_its_giveaway_and_shared_scenes_are_left_out():
    rows = planted(60, lambda words, rng: words.index(min(words)), seed=1)
    train = [replace(row, scene=f"t{row.scene}") for row in planted(60, lambda words, rng: words.index(min(words)))]
    both = transfer_text([*train, *rows], rows)
    found = both.types["object_rel_distance"]
    assert found.text > 0.85 and found.train_n == 240
    assert (both.shared_scenes, both.left_out) == (60, 240)
    assert found.above == pytest.approx(found.text - found.floor)
    assert both.micro is not None and both.micro.above_interval[0] > 0.5
    answers = planted(60, lambda words, rng: int(rng.integers(4)), seed=2)  # nothing to learn about these
    noise = transfer_text(train, answers).micro
    assert noise is not None and abs(noise.above) < 0.1
    assert np.mean(list(transfer_text(train, answers).above_by_row.values())) == pytest.approx(noise.above)


def test_types_of_one_set_only_are_said():
    rows = planted(20, lambda words, rng: 0)
    counts = [number("bed", 2, f"t{k}") for k in range(40)]
    found = transfer_text(counts, rows)
    assert found.types == {} and found.micro is None
    assert found.not_scored == {"object_rel_distance": "the training set does not ask it"}


# --- files ---


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_of_other_projects_and_what_is_left_out(tmp_path):
    rows = [
        {"id": 7, "dataset": "scannet", "scene_name": "scene0000_00", "question_type": "object_counting",
         "question": "How many chair(s) are in this room?", "ground_truth": "4", "options": None},
        {"id": 8, "dataset": "arkitscenes", "scene_name": "41159525", "question_type": "object_rel_distance",
         "question": "which of these objects (bed, rug) is the closest to the tv?",
         "options": ["A. bed", "B. rug"], "ground_truth": "B"},
        {"conversations": [{"from": "human", "value": "<image>\nWhere is the bed?\nA. left\nB. right"},
                           {"from": "gpt", "value": "A"}], "video": "scannet/scene0191_00.mp4"},
        {"question": "How many chair(s) are in this room?", "answer": "4", "question_type": "object_counting"},
        {"question": "Describe it.", "answer": "A nice room.", "scene": "scene0191_00"},
    ]  # fmt: skip
    found = read_audit_rows(write(tmp_path / "foreign.jsonl", rows))
    assert [(row.id, row.scene, row.right) for row in found.rows] == [
        ("7", "scannet/scene0000", None),
        ("8", "arkitscenes/381879", 1),  # the room that this video visits
        ("2", "scannet/scene0191", 0),
    ]
    assert found.left_out == {"no scene and no video named": 1, "an answer of free text": 1}


def test_a_folder_gives_its_train_rows(tmp_path):
    row = {"scene": "scene0191_00", "question": "How many chair(s) are in this room?", "answer": 4}
    for name in ("train", "dev"):
        write(tmp_path / f"{name}.jsonl", [row])
    (tmp_path / "manifest.json").write_text("{}")
    assert read_audit_rows(tmp_path).file == tmp_path / "train.jsonl"
    (tmp_path / "train.jsonl").unlink()
    assert read_audit_rows(tmp_path).file == tmp_path / "dev.jsonl"
    write(tmp_path / "other.jsonl", [row])
    with pytest.raises(DataError, match=r"which rows\? \(there: dev.jsonl, other.jsonl\)"):
        read_audit_rows(tmp_path)


def test_no_row_to_audit(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"question": "How many chair(s) are in this room?", "answer": "4"}])
    with pytest.raises(DataError, match=r"no row can be audited \(1 row: no scene and no video named\)"):
        read_audit_rows(path)


@pytest.mark.integration
def test_the_command(tmp_path, capsys):
    rows = [
        {"id": row.id, "dataset": "scannet", "scene_name": row.scene, "question_type": row.question_type,
         "question": row.question, "options": [f"{c}. {w}" for c, w in zip("ABCD", row.options, strict=True)],
         "ground_truth": "ABCD"[row.right]}
        for row in planted(40, lambda words, rng: words.index(min(words)))
    ]  # fmt: skip
    path = write(tmp_path / "rows.jsonl", rows)
    assert run(["audit", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["object_rel_distance"]["n"] == 160 and found["object_rel_distance"]["text"] > 0.8
    assert found["micro"] == found["macro"] == found["object_rel_distance"]["text"]
    assert run(["audit", str(path), "--train", str(path)]) == 0
    out = capsys.readouterr().out
    assert "not compared: object_rel_distance: the training set does not ask it" in out
    assert "left out: 160 training rows of 40 scenes in both sets" in out
    assert run(["audit", str(tmp_path / "none.jsonl")]) == 2
    assert capsys.readouterr().err.startswith("error:")


@pytest.mark.integration
@pytest.mark.skipif(
    not DEV_HALF.is_file(), reason="needs the development half of VSI-Bench, which is not in the repository"
)
def test_the_development_half_scores_as_published():
    audit = audit_rows(read_audit_rows(DEV_HALF).rows)
    assert audit.interval is not None and audit.interval[0] < 0.429 < audit.interval[1]
    intervals = {
        "object_counting": (58, 66), "object_abs_distance": (31, 36), "object_size_estimation": (62, 66),
        "room_size_estimation": (28, 35), "object_rel_distance": (32, 42), "object_rel_direction_easy": (40, 46),
        "object_rel_direction_medium": (45, 52), "object_rel_direction_hard": (41, 50), "route_planning": (30, 43),
        "obj_appearance_order": (32, 41),
    }  # fmt: skip
    for name, (low, high) in intervals.items():  # of both halves: the half's own interval must meet them
        own = audit.types[name].interval
        assert 100 * own[0] <= high and low <= 100 * own[1], (name, own)
    size = audit.types["object_size_estimation"]
    assert size.text_share > 0.4 and audit.types["object_counting"].text_share < 0.02


def test_questions_about_the_camera_are_taken_apart_by_their_objects_and_the_time_between():
    asked = [
        "How far apart (in meters) are the places of the camera in frame 3 of 16 and in frame 10 of 16?",
        "How far apart (in meters) are the places of the camera at 3.2 s and at 8.1 s?",
        "Compared with the view at 1.0 s, by how many degrees (0-180) has the camera turned at 8.4 s?",
        "Compared with the view in frame 1 of 16, has the camera turned to the left or to the right in frame 2 of 16?",
        "In frame 2 of 16, is the trash bin to the left or to the right of the chair as the camera sees them?",
        "At 2.0 s, how far (in meters) is the camera from the closest point of the sofa?",
        "When is the tv first seen (seconds from the start)?",
    ]
    gaps = [{"gap": gap} for gap in ("7", "5", "7", "1")]  # 8.1 - 3.2 = 4.9 s, 8.4 - 1.0 = 7.4 s
    assert slots_of(asked) == [*gaps, {"a": "trash bin", "b": "chair"}, {"a": "sofa"}, {"a": "tv"}]
