"""Do answers follow the video: pairs of rows by hand."""

import pytest

from vsgrpo.data.pairs import find_pairs
from vsgrpo.data.row import RowError
from vsgrpo.data.rows import make_row
from vsgrpo.evaluation.benchmark import PromptSettings
from vsgrpo.evaluation.pair_scores import pair_lines, pair_outcomes, pair_scores
from vsgrpo.evaluation.scores import read_first
from vsgrpo.spatial.question import Question
from vsgrpo.spatial.question_types import QUESTION_TYPES


def count_row(name, answer, scene="demo0_00", **extra):
    return make_row(
        Question(QUESTION_TYPES["object_counting"], f"How many {name}?", None, answer, answer, (), extra),
        dataset="demo",
        split="dev",
        scene_name=scene,
        room=scene[:-3],
        video=f"videos/demo/{scene}-{name.replace(' ', '-')}.mp4",
        generator={},
    )


def near_row(scene, **extra):
    question = f"Which of these objects (desk, sofa) is the closest to the door?{' ' * len(extra)}"
    return make_row(
        Question(QUESTION_TYPES["object_rel_distance"], question, ("desk", "sofa"), "A", "desk", (), extra),
        dataset="demo",
        split="dev",
        scene_name=scene,
        room=scene[:-3],
        video=f"videos/demo/{scene}-{len(extra)}.mp4",
        generator={},
    )


ORIGINAL = count_row("chair", "3")
LINK = {"original": ORIGINAL.id, "old_answer": "3"}
REMOVED = count_row("chair, one removed", "2", pair={**LINK, "kind": "removal"})
DROPPED = count_row("chair, none shown", "0", pair={**LINK, "kind": "query_drop"})
PLACEBO = count_row("chair, a bin removed", "3", pair={**LINK, "kind": "placebo"})
LONELY = count_row("bed, one removed", "1", pair={"original": "no such row", "old_answer": "2", "kind": "removal"})
NEAR = near_row("demo0_00")
SAME = near_row("demo0_00", pair={"original": NEAR.id, "old_answer": "desk", "kind": "placebo"})
ROWS = [PLACEBO, ORIGINAL, REMOVED, LONELY, DROPPED]


def test_pairs_are_found_by_the_edited_row():
    found = find_pairs(ROWS)
    assert [(pair.kind, pair.edited.id) for pair in found] == [
        ("placebo", PLACEBO.id),
        ("removal", REMOVED.id),
        ("query_drop", DROPPED.id),
    ]
    assert [pair.answer_changes for pair in found] == [False, True, True]


@pytest.mark.parametrize("pair", ["removal", {"kind": "removal"}, {**LINK, "kind": "swap"}])
def test_a_pair_in_another_form_is_refused(pair):
    with pytest.raises(RowError, match=r"extra\.pair"):
        find_pairs([ORIGINAL, count_row("chair, edited", "2", pair=pair)])


def rates(**answers):
    rows = {"original": ORIGINAL, "removed": REMOVED, "dropped": DROPPED, "placebo": PLACEBO}
    read = read_first("official", ROWS, {rows[name].id: [text] for name, text in answers.items()}, PromptSettings())
    return pair_scores(pair_outcomes(ROWS, read))


def test_answers_that_follow_the_video():
    table = rates(original="3", removed="2", dropped="0", placebo="3.")
    assert table["removal"] == {
        "n": 1,
        "pair_accuracy": 1.0,
        "edited_accuracy": 1.0,
        "stale_rate": 0.0,
        "flip_rate": 1.0,
        "types": {},
    }
    assert table["query_drop"]["edited_accuracy"] == 1.0
    assert (table["placebo"]["flip_rate"], table["placebo"]["stale_rate"]) == (0.0, None)


def test_answers_that_stay_are_stale_but_for_the_placebo():
    table = rates(original="3", removed="3", dropped="3", placebo="3")
    assert (table["removal"]["pair_accuracy"], table["removal"]["stale_rate"]) == (0.0, 1.0)
    assert table["query_drop"]["stale_rate"] == 1.0
    assert table["placebo"]["pair_accuracy"] == 1.0


def test_rates_are_means_over_pairs_and_unanswered_rows_are_no_pairs():
    other = count_row("chair", "2", scene="demo1_00")
    link = {"original": other.id, "old_answer": "2", "kind": "removal"}
    edited = count_row("chair, one removed", "1", scene="demo1_00", pair=link)
    answers = {ORIGINAL.id: 3.0, REMOVED.id: None, other.id: 2.0, edited.id: 1.0}
    outcomes = pair_outcomes([*ROWS, other, edited], answers)
    assert {outcome.scene for outcome in outcomes} == {"demo/demo0", "demo/demo1"}
    table = pair_scores(outcomes)
    rates = {"n": 2, "pair_accuracy": 0.5, "edited_accuracy": 0.5, "stale_rate": 0.0, "flip_rate": 1.0, "types": {}}
    assert table == {"removal": rates}
    assert pair_scores([]) == {}


def test_placebo_pairs_of_several_types_have_rates_of_each():
    # The count stays, and so should the letter.
    said = {ORIGINAL.id: ["3"], PLACEBO.id: ["3"], NEAR.id: ["A. desk"], SAME.id: ["b"]}
    rows = [*ROWS, NEAR, SAME]
    table = pair_scores(pair_outcomes(rows, read_first("official", rows, said, PromptSettings())))
    assert (table["placebo"]["n"], table["placebo"]["flip_rate"], table["placebo"]["pair_accuracy"]) == (2, 0.5, 0.5)
    by_type = table["placebo"]["types"]
    assert {name: found["flip_rate"] for name, found in by_type.items()} == {
        "object_counting": 0.0,
        "object_rel_distance": 1.0,
    }
    assert "  object_rel_distance      1" in "\n".join(pair_lines(table))
    # C is none of two options: nothing is read of either answer
    unread = read_first("official", rows, {NEAR.id: ["C"], SAME.id: ["none"]}, PromptSettings())
    (outcome,) = pair_outcomes(rows, unread)
    assert not outcome.flipped and not outcome.edited_right


def test_answers_in_tags_are_read_as_the_scores_read_them():
    thinking = PromptSettings(mode="think", wording="train")
    said = {ORIGINAL.id: ["<think>2 here, 1 there</think><answer>3</answer>"], REMOVED.id: ["<answer>2</answer>"]}
    (outcome,) = pair_outcomes(ROWS, read_first("official", ROWS, said, thinking))
    assert outcome.both_right
