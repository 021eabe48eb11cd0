import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation_rows import official_rows
from vsgrpo.errors import DataError
from vsgrpo.evaluation.arms import derangement
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench
from vsgrpo.evaluation.predictions import (
    Ledger,
    VideoQuestions,
    append_lines,
    plan_chunks,
    read_answers,
    read_errors,
)


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """Three videos with three questions each."""
    path = tmp_path_factory.mktemp("rows") / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in official_rows(3)))
    rows = VsiBench.read(path).rows
    return [VideoQuestions(Path(f"{i}.mp4"), rows[3 * i : 3 * i + 3]) for i in range(3)]


def records(groups):
    return [
        {"id": row.id, "prediction": "ä 3", "prompt_mode": "vanilla", "num_tokens": 2} for g in groups for row in g.rows
    ]


def test_chunks_hold_whole_videos_up_to_the_batch_size(groups):
    assert [len(chunk) for chunk in plan_chunks(groups, 6)] == [2, 1]
    assert [len(chunk) for chunk in plan_chunks(groups, 5)] == [1, 1, 1]
    assert [len(chunk) for chunk in plan_chunks(groups, 1)] == [1, 1, 1]
    assert plan_chunks([], 4) == []


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000))
def test_a_file_cut_anywhere_is_resumed_at_a_whole_chunk(groups, tmp_path_factory, cut):
    chunks = plan_chunks(groups, 6)
    path = tmp_path_factory.mktemp("p") / "predictions.jsonl"
    append_lines(path, records(groups))
    whole = path.read_bytes()
    path.write_bytes(whole[: cut % (len(whole) + 1)])
    done = Ledger(path, chunks, 1).resume()
    assert whole.startswith(path.read_bytes())
    assert len(read_answers(path)) == sum(len(g.rows) for chunk in chunks[:done] for g in chunk)
    append_lines(path, records([g for chunk in chunks[done:] for g in chunk]))
    assert path.read_bytes() == whole


def test_nothing_to_resume_is_a_start(groups, tmp_path):
    assert Ledger(tmp_path / "none.jsonl", plan_chunks(groups, 3), 1).resume() == 0


def test_predictions_of_other_rows_are_refused_and_kept(groups, tmp_path):
    path = tmp_path / "predictions.jsonl"
    append_lines(path, records(groups[1:]))
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"predictions.jsonl:1: id=10: expected 0"):
        Ledger(path, plan_chunks(groups, 3), 1).resume()
    append_lines(path, records(groups))
    with pytest.raises(DataError, match=r"predictions.jsonl:7: more predictions than questions"):
        Ledger(path, plan_chunks(groups[1:], 3), 1).resume()
    path.write_bytes(b"rubbish\n" + before)
    with pytest.raises(DataError, match=r"predictions.jsonl:1: not a prediction"):
        Ledger(path, plan_chunks(groups, 3), 1).resume()
    assert path.read_bytes() == b"rubbish\n" + before


def test_samples_and_errors_are_read_back(tmp_path):
    path = tmp_path / "predictions.jsonl"
    append_lines(path, [{"id": "a", "sample": 0, "prediction": "1"}, {"id": "a", "sample": 1, "prediction": "2"}])
    append_lines(path, [{"id": "b", "prediction": None, "error": "b.mp4: no frames"}])
    assert read_answers(path) == {"a": ["1", "2"], "b": [None]}
    assert read_errors(path) == {"b": "b.mp4: no frames"}


def test_parts_of_several_processes_merge_into_the_bytes_of_one(groups, tmp_path):
    chunks = plan_chunks(groups, 3)
    whole = tmp_path / "whole.jsonl"
    for chunk in chunks:
        append_lines(whole, records(chunk))
    path = tmp_path / "p.jsonl"
    # Two processes; the second answered its chunk 1, the first died in the middle of chunk 0.
    ledgers = [Ledger(path, chunks, 1, rank, 2) for rank in range(2)]
    ledgers[0].merge()
    assert [ledger.pending() for ledger in ledgers] == [[0, 2], [1]]
    ledgers[1].add(records(chunks[1]))
    ledgers[0].add(records(chunks[0])[:2])
    # One process goes on: chunk 1 is kept, 0 and 2 are answered again.
    alone = Ledger(path, chunks, 1)
    alone.merge()
    assert alone.pending() == [0, 2]
    alone.add(records(chunks[0]))
    alone.add(records(chunks[2]))
    alone.merge()
    assert path.read_bytes() == whole.read_bytes()
    assert [file.name for file in tmp_path.glob("p*")] == ["p.jsonl"]
    assert Ledger(path, chunks, 1).pending() == []


def test_a_merge_keeps_what_does_not_follow_on_yet(groups, tmp_path):
    chunks = plan_chunks(groups, 3)
    path = tmp_path / "p.jsonl"
    ledgers = [Ledger(path, chunks, 1, rank, 3) for rank in range(3)]
    assert [ledger.pending() for ledger in ledgers] == [[0], [1], [2]]
    ledgers[2].add(records(chunks[2]))
    ledgers[0].add(records(chunks[0]))
    ledgers[0].merge()
    assert len(path.read_bytes().splitlines()) == 3
    assert [ledger.pending() for ledger in ledgers] == [[1], [], []]


@given(st.dictionaries(st.text(max_size=3), st.sampled_from("abcdef"), max_size=9))
def test_derangement_shows_everybody_another_room(rooms):
    largest = max(map(list(rooms.values()).count, rooms.values()), default=0)
    if len(rooms) < 2 or 2 * largest > len(rooms):
        with pytest.raises(ValueError, match="shuffling needs"):
            derangement(rooms)
        return
    partner = derangement(rooms)
    assert all(rooms[partner[name]] != rooms[name] for name in rooms)
    assert sorted(partner.values()) == sorted(rooms)


def test_derangement_by_hand():
    assert derangement({"c": "c", "a": "a", "b": "b"}) == {"a": "b", "b": "c", "c": "a"}
    # The next name of scene0_00 is another scan of its room: two places further.
    rooms = {"scene0_00": "scene0", "scene0_01": "scene0", "scene1_00": "scene1", "scene2_00": "scene2"}
    names = list(rooms)
    assert derangement(rooms) == dict(zip(names, [*names[2:], *names[:2]], strict=True))
