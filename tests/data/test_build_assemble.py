"""Balancing: hand-made rows, shares by arithmetic, nothing changes but what was asked for."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsgrpo.config.build import BalanceSection
from vsgrpo.data.build.balance import balance_rows, share_limits, with_answer_at
from vsgrpo.data.row import LETTERS, check_row
from vsgrpo.data.row_scan import answer_lines, answer_table
from vsgrpo.data.rows import make_row
from vsgrpo.spatial.question import ObjectRef, Question
from vsgrpo.spatial.question_types import QUESTION_TYPES

WORDS = ("chair", "bed", "sink", "lamp")


def choice_row(number, right=0, words=WORDS, question_type="object_rel_distance"):
    if question_type == "object_rel_distance":
        text = f"Which of these objects ({', '.join(words)})is the closest to the door {number}?"
        objects = (ObjectRef("door", 99), *(ObjectRef(word, k) for k, word in enumerate(words)))
    else:
        text, objects = f"Is {number} to the left or the right?", ()
    question = Question(QUESTION_TYPES[question_type], text, words, LETTERS[right], words[right], objects)
    return made(question, f"demo{number:06d}_00")


def number_row(number, answer, question_type="object_counting"):
    question = Question(QUESTION_TYPES[question_type], f"How many {number}?", None, answer, answer, ())
    return made(question, f"demo{number:06d}_00")


def made(question, scene):
    return make_row(
        question,
        dataset="demo",
        split="train",
        scene_name=scene,
        room=scene[:-3],
        video=f"videos/demo/{scene}.mp4",
        generator={"mode": "vsi100k"},
    )


def balanced_rows(rows, **given):
    settings = {"mode": "text", "letters": True, "caps": {}, "weights": {}, "max_share": {}, **given}
    return balance_rows(rows, BalanceSection(**settings), seed=0)


def test_letters_are_spread_evenly_and_answers_stay():
    rows = [choice_row(number) for number in range(101)]  # the right one is always A
    balanced, dropped = balanced_rows(rows)
    counts = Counter(row.ground_truth for row in balanced)
    assert max(counts.values()) - min(counts.values()) <= 1 and len(counts) == 4 and not dropped
    assert [row.answer for row in balanced] == ["chair"] * 101
    for row in balanced:
        check_row(row, "row")
        assert f"({', '.join(row.options)})" in row.question
        assert [item["category"] for item in row.objects] == ["door", *row.options]
        # instance ids travel with their categories: chair is 0, bed 1, sink 2, lamp 3
        assert all(item["instance_id"] == WORDS.index(item["category"]) for item in row.objects[1:])
    assert len({row.id for row in balanced}) == 101


def test_a_question_that_does_not_list_its_options_keeps_text_and_id():
    row = choice_row(1, words=("left", "right"), question_type="object_rel_direction_easy")
    moved = with_answer_at(row, 1)
    assert (moved.question, moved.id) == (row.question, row.id)
    assert (moved.options, moved.ground_truth, moved.answer) == (("right", "left"), "B", "left")
    assert with_answer_at(moved, 0) == row


def test_shares_by_hand():
    # 80 x "2", 20 x "3": at most half each -> 20 and 20. At most 0.75: 60 of 80, since 60 / (60 + 20) = 0.75.
    assert share_limits({"2": 80, "3": 20}, 0.5) == {"2": 20, "3": 20}
    assert share_limits({"2": 80, "3": 20}, 0.75) == {"2": 60, "3": 20}
    assert share_limits({"2": 80, "3": 20}, 0.8) == {"2": 80, "3": 20}
    # A share no spread can reach is taken as the even one; few rows and a single answer are left alone.
    assert share_limits({"2": 80, "3": 20}, 0.1) == {"2": 20, "3": 20}
    assert share_limits({"2": 40, "3": 1}, 0.5) == {"2": 40, "3": 1}
    assert share_limits({"2": 400}, 0.5) == {"2": 400}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=2, max_size=6), st.floats(0.05, 1.0))
def test_no_answer_is_above_its_share_and_one_more_would_break_it(numbers, share):
    counts = {str(k): n for k, n in enumerate(numbers)}
    kept = share_limits(counts, share)
    assert all(0 < kept[k] <= counts[k] for k in counts)
    if sum(numbers) >= 50:
        bound = max(share, 1 / len(numbers))
        assert max(kept.values()) <= bound * sum(kept.values()) + 1e-6


def test_max_share_drops_rows_of_the_frequent_answer_only_and_says_so():
    rows = [number_row(k, "2") for k in range(80)] + [number_row(100 + k, "3") for k in range(20)]
    balanced, dropped = balanced_rows(rows, max_share={"object_counting": 0.5})
    assert Counter(row.answer for row in balanced) == {"2": 20, "3": 20}
    assert dropped == {"object_counting: balance.max_share": 60}
    order = [row.key for row in rows]
    assert [row.key for row in balanced] == sorted((row.key for row in balanced), key=order.index)


def test_weights_keep_about_their_share_and_the_same_rows_whoever_else_is_there():
    rows = [number_row(k, "2") for k in range(1000)]
    kept, dropped = balanced_rows(rows, weights={"object_counting": 0.3})
    # 1000 draws of p = 0.3: standard deviation sqrt(1000 x 0.3 x 0.7) = 14.5
    assert abs(len(kept) - 300) < 60 and dropped == {"object_counting: balance.weights": 1000 - len(kept)}
    part, _ = balanced_rows(rows[::2], weights={"object_counting": 0.3})
    assert {row.key for row in part} == {row.key for row in kept} & {row.key for row in rows[::2]}


def test_defaults_change_no_number_row():
    rows = [number_row(k, "2") for k in range(60)]
    assert balanced_rows(rows)[0] == rows


def test_the_answer_table_shows_shortcuts():
    rows = [number_row(k, "2") for k in range(3)] + [choice_row(10 + k, right=k) for k in range(2)]
    counting, distance = answer_lines(rows)
    assert (counting.count, counting.entropy, counting.best, counting.score) == (3, 0.0, "2", 1.0)
    # chair and bed once each: one bit, the best word is right half the time
    assert (distance.entropy, distance.best, distance.score) == (pytest.approx(1.0), "bed", 0.5)
    assert distance.letters == (1, 1, 0, 0)
    text = "\n".join(answer_table([counting, distance]))
    assert "object_counting" in text and "100.0" in text and "1/1/0/0" in text
