"""VSI-SUPER: rows of its own form, its prompts, its readers to the odd string, its table."""

import json

import pytest

from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmarks.vsi_super import (
    VsiSuperCount,
    VsiSuperRecall,
    VsiSuperStreaming,
    count_number,
    recall_letter,
    streamed_score,
)

OPTIONS = ["A. sofa, bed, door", "B. bed, sofa, door", "C. door, bed, sofa", "D. door, sofa, bed"]


def recall_row(kind="10mins", film="10mins/0.mp4", **more):
    row = {"question": " In which order did the bear appear? ", "options": OPTIONS, "answer": "B", "type": kind}
    return {**row, "video_path": film, **more}


def count_row(kind="10mins", answer: int | str | None = 12, film="10mins/0.mp4", **more):
    question = "How many different chairs are in the video?"
    return {"question": question, "answer": answer, "split": kind, "video_path": film, **more}


def streaming_row(kind="10mins_streaming", answers=(3, 5, 8), **more):
    return count_row(kind, None, answers=list(answers), query_times=[60, 300, 600], **more)


def write(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_prompts_are_theirs(tmp_path):
    (row,) = (recall := VsiSuperRecall.read(write(tmp_path / "r", [recall_row()]))).rows
    assert recall.text(row) == (
        "In which order did the bear appear?\nOptions:\nA. sofa, bed, door\nB. bed, sofa, door\nC. door, bed, sofa\n"
        "D. door, sofa, bed\nAnswer with the option's letter from the given choices directly."
    )
    assert (row.answer, row.ground_truth, row.question_type) == ("bed, sofa, door", "B", "10mins")
    (row,) = (count := VsiSuperCount.read(write(tmp_path / "c", [count_row()]))).rows
    asked = (
        "These are frames of a video.\nHow many different chairs are in the video?\n"
        "Please answer the question using a single word or phrase."
    )
    assert count.text(row) == asked
    (row,) = (stream := VsiSuperStreaming.read(write(tmp_path / "s", [streaming_row()]))).rows
    assert stream.text(row) == asked and row.media[0]["path"] == "10mins/0.mp4"


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("B", "B"), ("b. bed", "B"), ("chair", "C"), ("The answer is D", "A"), ("(d)", "D"), ("soft", ""), ("", "")],
)
def test_the_first_letter_of_the_text_in_capitals_counts(answer, letter):
    assert recall_letter(answer) == letter  # "The answer": A is its first of A to D


@pytest.mark.parametrize(
    ("answer", "number"), [("12 chairs", 12), ("about -3.50", -3.5), ("1,200", 1), ("twelve", 0), ("", 0), (".5", 5)]
)
def test_the_first_number_counts_and_none_is_zero(answer, number):
    assert count_number(answer) == number


def test_counts_are_scored_by_relative_accuracy(tmp_path):
    rows = [count_row(), count_row(answer="0", film="10mins/1.mp4"), streaming_row()]
    benchmark = VsiSuperCount.read(write(tmp_path, rows))
    twelve, nothing = benchmark.rows  # the streaming row is another benchmark's
    assert benchmark.num_rows == 2 and [row.answer_kind for row in benchmark.rows] == ["number", "text"]
    assert benchmark.score(twelve, "12") == 1
    # 1/6 off: thresholds .5 .55 .6 .65 .7 .75 .8 pass
    assert benchmark.score(twelve, "I see 10 of them") == pytest.approx(0.7)
    assert benchmark.score(twelve, "ten") == 0 and benchmark.score(twelve, "-12") == 0
    assert benchmark.score(nothing, "0") == 1 == benchmark.score(nothing, "none") and benchmark.score(nothing, "1") == 0
    easi = VsiSuperCount.read(write(tmp_path, rows), ReadOptions(harness="easi"))
    assert easi.score(twelve, "of 3 rooms, 12") == 1  # VLMEvalKit reads the last number
    assert easi.score(nothing, "none") == 0
    # VLMEvalKit's error of a truth of 0 is the number itself: 0.3 is within 1 - theta for theta .5 to .7, 5 of 10.
    assert (easi.score(nothing, "0.3"), easi.score(nothing, "0")) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("[3, 5, 8]", 1),
        (" [3,5,8]\n", 1),
        ('["3", 5.0, true]', 2 / 3),  # true is 1, 7/8 off
        ("[3]", 1),  # what is not said does not count: lmms-eval's rule
        ("[3, 5, 8, 99]", 1),
        ("[3, null, [8]]", 1 / 3),
        ("[6, 5, 8]", 2 / 3),  # 100 % off
        ("[]", 0),
        ("3, 5, 8", 0),
        ("[3, 5,", 0),
        ("8", 0),
        ("", 0),
    ],
)
def test_streams_are_a_json_list(answer, score):
    assert streamed_score(answer, [3.0, 5.0, 8.0]) == pytest.approx(score)


def test_the_table_has_a_column_per_length(tmp_path):
    kinds = [("10mins", "B"), ("10mins", "A"), ("240mins", "A")]
    rows = [recall_row(kind, f"{kind}/{n}.mp4", id=n, answer=truth) for n, (kind, truth) in enumerate(kinds)]
    benchmark = VsiSuperRecall.read(write(tmp_path, [*rows, recall_row("5mins", id=9)]))
    found = benchmark.accuracy({"0": "B", "1": "B", "2": "A"}, "")
    assert (found.cells["types"]["10mins"].mean, found.cells["types"]["240mins"].mean) == (0.5, 1.0)
    assert found.cells["means"]["macro"].mean == 0.75 == found.overall
    assert benchmark.unknown == {"9": "5mins"} and benchmark.remarks()[-1].endswith("is left out: 5mins (1)")


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        (VsiSuperRecall, recall_row(answer="E"), "answer='E': must be the letter of an option"),
        (VsiSuperRecall, {"question": "?"}, "options is missing"),
        (VsiSuperCount, count_row(answer=None), "answer is missing"),
        (VsiSuperCount, count_row(answer="many"), "ground truth 'many': must be a number"),
        (VsiSuperCount, streaming_row(), "no question in it"),
        (VsiSuperStreaming, streaming_row(answers=()), "must be a list of counts"),
        (VsiSuperStreaming, streaming_row(answers=[1, -2]), "must be counts"),
    ],
)
def test_what_is_not_of_its_form_is_refused(tmp_path, kind, row, message):
    with pytest.raises(DataError, match=message):
        kind.read(write(tmp_path, [row]))
