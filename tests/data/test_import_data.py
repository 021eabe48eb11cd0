"""import-data: each foreign form becomes our row, leaks and bad rows are left out and counted."""

import json

import numpy as np
import pytest

from vsgrpo.data.importing.answer_values import Refused
from vsgrpo.data.importing.dataset_folder import ImportSettings, parse_settings
from vsgrpo.data.importing.import_data import _AGAIN, _VAL, import_data
from vsgrpo.data.importing.record_to_row import record_to_row
from vsgrpo.data.leak_guard import read_checked_rows
from vsgrpo.data.manifest import read_manifest
from vsgrpo.data.rows import read_rows
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.video.writer import write_video

VLM3R = {
    "id": 7,
    "scene_name": "scene0000_00",
    "dataset": "scannet",
    "question_type": "object_rel_distance_v1",
    "video_path": "scannet/videos/train/scene0000_00.mp4",
    "category": "chair",
    "question": "Measuring from the closest point of each object, which of these objects (bed, sink, lamp, tv) is the "
    "closest to the chair?",
    "options": ["A. bed", "B. sink", "C. lamp", "D. tv"],
    "ground_truth": "sink",
    "mc_answer": "B",
}
SPACER = {
    "problem_id": 1,
    "problem": "Question:\nMeasuring from the closest point of each object, what is the direct distance between the "
    "door and the jacket (in meters)?",
    "data_type": "video",
    "problem_type": "regression",
    "solution": "<answer>0.3507</answer>",
    "path": "/mnt/videos/scene0024_02.mp4",
    "data_source": "SR_dataset",
}
VSI100K = {
    "scene_id": "scene0001_00",
    "question": "If I am standing by the desk and facing the shower is the bicycle to the left or the right of "
    "the shower?",
    "answer": "left",
}
TALK = {
    "id": "x",
    "video": "scannet/scene0002_00.mp4",
    "conversations": [
        {
            "from": "human",
            "value": "<image>\nThese are frames of a video.\nHow many chair(s) are in this room?\n"
            "Please answer the question using a single word or phrase.",
        },
        {"from": "gpt", "value": "4"},
    ],
}
OFFICIAL = {
    "id": 11,
    "dataset": "arkitscenes",
    "scene_name": "41069021",
    "question_type": "object_rel_direction_medium",
    "question": "If I am standing by the stove and facing the tv, is the sofa to my left, right, or back?\nAn object "
    "is to my back if I would have to turn at least 135 degrees in order to face it.",
    "ground_truth": "C",
    "options": ["A. left", "B. right", "C. back"],
}


def write_json(path, rows):
    path.write_text(json.dumps(rows))
    return path


def test_vlm3r_row():
    row = record_to_row(VLM3R, "imported").row
    assert (row.question_type, row.ground_truth, row.answer) == ("object_rel_distance", "B", "sink")
    assert row.options == ("bed", "sink", "lamp", "tv") and row.room == "scene0000"
    assert row.extra["category"] == "chair" and row.extra["source_id"] == 7
    assert row.media[0]["path"] == "videos/scannet/scene0000_00.mp4"


def test_spacer_row():
    row = record_to_row(SPACER, "imported").row
    assert (row.dataset, row.scene_name, row.question_type) == ("scannet", "scene0024_02", "object_abs_distance")
    assert (row.answer, row.answer_kind, row.unit) == ("0.3507", "number", "m")
    assert row.question.startswith("Measuring") and row.extra["problem_type"] == "regression"


def test_vsi100k_rows_get_their_candidates_from_the_sentence():
    row = record_to_row(VSI100K, "imported").row
    assert (row.question_type, row.options, row.ground_truth) == ("object_rel_direction_easy", ("left", "right"), "A")
    question = "Which of these objects (bed, sink, lamp, tv)is the closest to the chair?"
    row = record_to_row({**VSI100K, "question": question, "answer": "Lamp"}, "imported").row
    assert (row.options, row.ground_truth, row.answer) == (("bed", "sink", "lamp", "tv"), "C", "lamp")
    row = record_to_row(
        {**VSI100K, "question": "What is the size of this room (in square meters)?", "answer": 47.9}, "x"
    ).row
    assert (row.question_type, row.answer, row.unit) == ("room_size_estimation", "47.9", "m2")


def test_conversations_lose_their_wrapper_sentences():
    row = record_to_row(TALK, "imported").row
    assert (row.question, row.answer) == ("How many chair(s) are in this room?", "4")
    text = "<video>\nIs it far?\nOptions:\nA. yes\nB. no\n"
    text += "Answer with the option's letter from the given choices directly."
    listed = {**TALK, "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "B"}]}
    row = record_to_row(listed, "imported").row
    assert (row.question, row.options, row.answer, row.question_type) == ("Is it far?", ("yes", "no"), "no", "other")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ground_truth": "door", "mc_answer": None}, "none of its options"),
        ({"ground_truth": None, "mc_answer": None}, "no answer"),
        ({"question": ""}, "no question"),
        ({"scene_name": None, "video_path": None}, "no scene"),
        ({"options": ["A. bed", "B. bed"], "ground_truth": "bed"}, "options that are not"),
        ({"options": list("abcdefg"), "ground_truth": "a"}, "options that are not"),
        ({"question_type": "object_counting", "ground_truth": "-1", "options": None}, "an answer of 0"),
        ({"question_type": "object_counting", "ground_truth": "nan", "options": None}, "an answer of 0"),
        ({"question_type": "object_abs_distance", "ground_truth": "-1.5", "options": None}, "an answer of 0"),
        ({"question_type": "obj_appearance_order", "question": "Which first?", "options": None}, "without options"),
        ({"data_type": "image"}, "about images"),
    ],
)
def test_rows_that_cannot_be_taken_say_why(change, reason):
    with pytest.raises(Refused, match=reason):
        record_to_row({**VLM3R, **change}, "imported")


def test_numbers_lose_units_and_letters_become_values():
    counting = {**VLM3R, "question_type": "object_counting", "question": "How many chair(s)?"}
    assert record_to_row({**counting, "ground_truth": "B", "options": ["A. 2", "B. 3"]}, "x").row.answer == "3"
    room = {**VSI100K, "question": "What is the size of this room?", "answer": "1,047.5 square meters."}
    assert record_to_row(room, "x").row.answer == "1047.5"


def test_import_filters_leaks_counts_reasons_and_splits_rooms(tmp_path):
    good = [{**VLM3R, "scene_name": f"scene{k:04d}_00", "video_path": None} for k in (0, 1, 2, 3, 4, 5)]
    bad = [
        {**VLM3R, "scene_name": "scene0025_00"},  # a benchmark room
        {**VLM3R, "scene_name": "scene0000_00", "video_path": "x/scene0046_00.mp4"},  # ... in the path only
        {**VLM3R, "scene_name": "scene0011_00", "video_path": "x/scene0011_00.mp4"},  # room-safe val
        good[0],  # again
        {**good[1], "ground_truth": "door", "mc_answer": None},
    ]
    file = write_json(tmp_path / "rows.json", good + bad)
    settings = ImportSettings((file,), tmp_path / "out", dev_fraction=0.3)
    summary = import_data(settings)
    assert summary.num_read == 11 and sum(sum(part.values()) for part in summary.counts.values()) == 6
    assert sorted(summary.left_out.values()) == [1, 1, 1, 2] and summary.left_out["its room is in VSI-Bench"] == 2
    width, none = len(_VAL), "an answer that is none of its options"
    assert summary.table().splitlines()[-5:] == [  # the table that each file ends with
        f"{file}: 11 rows read, 6 taken, 5 refused",
        f"  refused  2  {'its room is in VSI-Bench':<{width}}  first: row 7: scene0025_00",
        f"  refused  1  {_VAL}  first: row 9: scene0011_00",
        f"  refused  1  {_AGAIN:<{width}}  first: row 10: scene0000_00",
        f"  refused  1  {none:<{width}}  first: row 11: 'door' of ['bed', 'sink', 'lamp', 'tv']",
    ]
    (told,) = summary.to_json()["files"]
    assert (told["file"], told["read"], told["taken"]) == (str(file), 11, 6)
    first = {"reason": "its room is in VSI-Bench", "rows": 2, "first": "row 7", "detail": "scene0025_00"}
    assert told["refused"][0] == first and len(told["refused"]) == 4
    train, verdict = read_checked_rows(tmp_path / "out" / "train.jsonl")
    dev = read_rows(tmp_path / "out" / "dev.jsonl")
    assert verdict == "clean" and not {row.room for row in train} & {row.room for row in dev}
    assert read_manifest(tmp_path / "out").rooms["train"] == sorted({row.room for row in train})
    with pytest.raises(DataError, match="holds a dataset already"):
        import_data(settings)
    allowed = ImportSettings((file,), tmp_path / "out", dev_fraction=0.0, allow_val_safe=True)
    assert sum(import_data(allowed, overwrite=True).counts["train"].values()) == 7


def test_import_links_videos_and_leaves_out_rows_without(tmp_path):
    (tmp_path / "mp4").mkdir()
    frames = np.zeros((3, 56, 56, 3), np.uint8)
    write_video(tmp_path / "mp4" / "scene0001_00.mp4", iter(frames), fps=2)
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(VSI100K) + "\n" + json.dumps(SPACER) + "\n")
    summary = import_data(ImportSettings((file,), tmp_path / "out", videos=tmp_path / "mp4"))
    assert (summary.num_videos, summary.num_missing) == (1, 1)
    (row,) = read_rows(tmp_path / "out" / "train.jsonl")
    assert row.video_path(tmp_path / "out").is_file() and row.scene_name == "scene0001_00"


def test_the_benchmark_is_for_evaluation_only(tmp_path):
    leak = {**OFFICIAL, "id": 12, "dataset": "scannet", "scene_name": "scene0025_00"}
    file = write_json(tmp_path / "test.json", [OFFICIAL, leak])
    with pytest.raises(
        DataError, match=r"2 of 2 rows: its room is in VSI-Bench\); 2 rooms: arkitscenes/381658, scene0025"
    ):
        import_data(ImportSettings((file,), tmp_path / "train"))
    import_data(ImportSettings((file,), tmp_path / "bench", format="vsibench"))
    rows = read_rows(tmp_path / "bench" / "test.jsonl")
    assert [(row.id, row.ground_truth, row.answer) for row in rows] == [("11", "C", "back"), ("12", "C", "back")]
    assert not (tmp_path / "bench" / "train.jsonl").exists()


def test_words_of_the_command_line(tmp_path):
    settings = parse_settings(["a.json", "b.jsonl", "output=o", "data.dev_fraction=0", "data.allow_val_safe=true"])
    assert [file.name for file in settings.files] == ["a.json", "b.jsonl"] and settings.allow_val_safe
    for words, says in [
        (["a.json"], "output: no value"),
        (["output=o"], "no file"),
        (["a.json", "outputs=o"], "unknown key"),
        (["a.json", "output=o", "format=spacer"], "format=spacer"),
        (["a.json", "output=o", "data.dev_fraction=much"], "a number"),
        (["a.json", "output=o", "videos=nowhere"], "no such folder"),
    ]:
        with pytest.raises(ConfigError, match=says):
            parse_settings(words)


@pytest.mark.parametrize("text", ["{", "3", '{"a": 1}'])
def test_files_that_are_no_lists_are_named(tmp_path, text):
    file = tmp_path / "rows.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"rows.json: not"):
        import_data(ImportSettings((file,), tmp_path / "out"))


def test_an_empty_import_says_so(tmp_path):
    file = write_json(tmp_path / "rows.json", [])
    with pytest.raises(DataError, match="no row can be taken"):
        import_data(ImportSettings((file,), tmp_path / "out"))
