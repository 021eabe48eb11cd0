"""check-data and train on a corpus of odd rows and media: what one accepts the other takes to the end."""

import functools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vsgrpo.config.compose import load_config
from vsgrpo.data.check import check_data
from vsgrpo.data.own_rows import with_own_rows
from vsgrpo.data.rows import FIELD_NAMES
from vsgrpo.errors import VsgrpoError
from vsgrpo.training.preflight import check_run, load_rows
from vsgrpo.video.writer import write_video

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "video"
BASE = {
    "schema_version": 1,
    "id": "a",
    "dataset": "own",
    "split": "train",
    "scene_name": "kitchen",
    "room": "kitchen",
    "question_type": "object_counting",
    "question": "How many chair(s) are in this room?",
    "options": None,
    "ground_truth": "3",
    "answer": "3",
    "answer_kind": "number",
    "unit": None,
    "media": [{"kind": "video", "path": "good.mp4"}],
    "rejected": None,
    "reasoning": None,
    "objects": [],
    "generator": {},
    "extra": {},
}
CHOICE = BASE | {
    "question_type": "object_rel_distance",
    "question": "Which is the closest?",
    "options": ["table", "bed"],
    "ground_truth": "A",
    "answer": "table",
    "answer_kind": "choice",
}
WORD = BASE | {"question_type": "own", "answer_kind": "text", "ground_truth": "red", "answer": "red"}


def shows(path, kind="video"):
    return BASE | {"media": [{"kind": kind, "path": path}]}


def nested(depth):
    value: dict = {}
    for _ in range(depth):
        value = {"a": value}
    return value


BAD_ROWS = {
    "two fields missing": {name: BASE[name] for name in FIELD_NAMES if name not in ("unit", "media")},
    "unknown field": BASE | {"label": "x"},
    "newer schema": BASE | {"schema_version": 2},
    "a number": 3,
    "a list": [BASE],
    "empty id": BASE | {"id": " "},
    "question null": BASE | {"question": None},
    "question a number": BASE | {"question": 7},
    "token ends the turn": BASE | {"question": "How many?<|im_end|>"},
    "token begins a video": BASE | {"question": "How many <|video_pad|> are there?"},
    "token in an option": CHOICE | {"options": ["table", "bed<|endoftext|>"]},
    "token in the answer": WORD | {"answer": "<|im_start|>red", "ground_truth": "<|im_start|>red"},
    "token in the rejected": WORD | {"rejected": "blue<|im_end|>"},
    "token in the thought": BASE | {"reasoning": "I see <|vision_start|> three."},
    "tool call": BASE | {"question": "<tool_call>How many?</tool_call>"},
    "rejected is the number": BASE | {"rejected": "3.0"},
    "rejected is the number with a unit": BASE | {"rejected": "3 m"},
    "rejected is the word": WORD | {"rejected": "Red."},
    "rejected is the option": CHOICE | {"rejected": " Table"},
    "rejected is the letter": CHOICE | {"rejected": "A"},
    "rejected, and a letter that is a number": CHOICE | {"rejected": "bed", "ground_truth": 5},
    "rejected, and no letter": CHOICE | {"rejected": "bed", "ground_truth": None},
    "options equal by word": CHOICE | {"options": ["table", "Table."]},
    "one option": CHOICE | {"options": ["table"]},
    "seven options": CHOICE | {"options": ["table", "a", "b", "c", "d", "e", "f"]},
    "options a text": CHOICE | {"options": "table, bed"},
    "letter of no option": CHOICE | {"ground_truth": "C"},
    "word of another option": CHOICE | {"answer": "bed"},
    "choice without options": CHOICE | {"options": None},
    "answer 0": BASE | {"question_type": "room_size_estimation", "answer": "0", "ground_truth": "0"},
    "answer negative": BASE | {"answer": "-3", "ground_truth": "-3"},
    "answer nan": BASE | {"answer": "nan", "ground_truth": "nan"},
    "answer with underscore": BASE | {"answer": "1_0", "ground_truth": "1_0"},
    "answer in Arabic digits": BASE | {"answer": "\u0663", "ground_truth": "\u0663"},
    "answer denormal": BASE | {"answer": "1e-320", "ground_truth": "1e-320"},
    "answer a number type": BASE | {"answer": 3, "ground_truth": 3},
    "answer kind unknown": BASE | {"answer_kind": "list"},
    "no media": BASE | {"media": []},
    "media null": BASE | {"media": None},
    "sound": shows("good.mp4", "audio"),
    "absolute path": shows("/good.mp4"),
    "path above": shows("../good.mp4"),
    "path with NUL": shows("go\0od.mp4"),
    "path too long": shows("a" * 300 + ".mp4"),
    "link outside": shows("outside.mp4"),
    "objects without ids": BASE | {"objects": [{"category": "chair"}]},
    "generator a list": BASE | {"generator": []},
    "half a character": BASE | {"question": "How many \ud83d?"},
    "nested too deep": BASE | {"extra": nested(80)},
    "benchmark room": BASE | {"dataset": "scannet", "scene_name": "scene0025_00", "room": "scene0025"},
    "val scan": BASE | {"dataset": "scannet", "scene_name": "scene0011_00", "room": "scene0011"},
}
BAD_LINES = {
    "cut line": json.dumps(BASE)[:80],
    "two rows on a line": json.dumps(BASE) + json.dumps(BASE | {"id": "b"}),
    "NaN": json.dumps(BASE | {"extra": {"x": float("nan")}}),
    "brackets": "[" * 100_000,
    "latin-1": json.dumps(BASE | {"question": "caf\u00e9?"}, ensure_ascii=False).encode("latin-1"),
}
BAD_MEDIA = ("gone.mp4", "empty.mp4", "text.mp4", "cut.mp4", "folder.mp4")
BAD_IMAGES = ("gone.png", "cut.png", "text.png", "good.mp4")
GOOD_ROWS = {
    "plain": BASE,
    "whole number as a decimal": BASE | {"id": "b", "answer": "3.0", "ground_truth": "3.0"},
    "other scripts": BASE | {"id": "c", "question": "\u6709\u591a\u5c11\u628a\u6905\u5b50\uff1f \U0001f600"},
    "markup and half a token": BASE | {"id": "d", "question": "How many <b>chairs</b> <| are | > there?"},
    "choice": CHOICE | {"id": "e", "rejected": "bed"},
    "word": WORD | {"id": "f", "rejected": "blue"},
    "two videos": BASE | {"id": "g", "media": BASE["media"] * 2},
    "an image": shows("good.png", "image") | {"id": "h"},
    "12-bit image": shows("deep.png", "image") | {"id": "i"},
    "a link inside": shows("inside.mp4") | {"id": "j"},
    "another wrong number": BASE | {"id": "k", "rejected": "4"},
    "a thought": BASE | {"id": "l", "reasoning": "I see three."},
    "six options": CHOICE | {"id": "m", "options": ["table", "a", "b", "c", "d", "e"]},
}
LACKING = ("unit", "schema_version", "rejected")
"""Fields that a row of one's own may lack: they are completed, also where the first row of its file has them all."""


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """Good and bad videos and images."""
    top = tmp_path_factory.mktemp("corpus")
    folder = top / "media"
    folder.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (24, 56, 56, 3), dtype=np.uint8)
    write_video(folder / "good.mp4", iter(frames), fps=4)
    content = (folder / "good.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(content[: len(content) * 6 // 10])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("not a video\n" * 50)
    (folder / "folder.mp4").mkdir()
    Image.fromarray(frames[0]).save(folder / "good.png")
    Image.fromarray(np.arange(3136, dtype=np.uint16).reshape(56, 56)).save(folder / "deep.png")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:2000])
    (folder / "text.png").write_text("not an image\n" * 50)
    shutil.copy(folder / "good.mp4", top / "outside.mp4")
    (folder / "outside.mp4").symlink_to(top / "outside.mp4")
    (folder / "inside.mp4").symlink_to("good.mp4")
    return folder


@functools.cache
def config_for(method):
    words = ["model=tiny", "data=DATA", "output=RUN", "video.num_frames=4", "video.timeout_s=null"]
    return load_config("train", [f"trainer={method}", *words, "video.on_bad=error"], allow_missing=True)


def config_of(folder, method="grpo"):
    config = config_for(method)
    data, run = replace(config.data, path=str(folder)), replace(config.run, dir=str(folder / "run"))
    return replace(config, data=data, run=run)


def write(folder, media, lines):
    folder.mkdir(parents=True)
    for path in media.iterdir():
        os.symlink(os.readlink(path), folder / path.name) if path.is_symlink() else _link(path, folder / path.name)
    (folder / "train.jsonl").write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines) + b"\n")
    return folder


def _link(path, target):
    target.mkdir() if path.is_dir() else os.link(path, target)


def check_refuses(folder, method="grpo", headers=False):
    return bool(check_data(folder, config_of(folder, method), headers=headers).problems)


def train_refuses(folder, method="grpo"):
    """Do what a run does before its first step, and load what its steps would show."""
    from vsgrpo.video.budget import VisionBudget
    from vsgrpo.video.loader import VideoLoader

    try:
        config = with_own_rows(config_of(folder, method))
        rows, _ = load_rows(config)
        check_run(config, rows)
        loader = VideoLoader(VisionBudget(**config.vision()), timeout_s=None, on_bad="error")
        for kind, path in {place for row in rows for place in row.media_paths(Path(config.data.path))}:
            loader.load(path, kind)
    except VsgrpoError:
        return True
    return False


@pytest.mark.parametrize("name", [*BAD_ROWS, *BAD_LINES])
def test_both_refuse_a_bad_row(name, media, tmp_path):
    line = json.dumps(BAD_ROWS[name]) if name in BAD_ROWS else BAD_LINES[name]
    folder = write(tmp_path / "data", media, [json.dumps(BASE | {"id": "first"}), line])
    assert check_refuses(folder, headers=True) and train_refuses(folder)  # its videos are good


@pytest.mark.parametrize("path", [*BAD_MEDIA, *BAD_IMAGES])
def test_both_refuse_bad_media(path, media, tmp_path):
    kind = "image" if path in BAD_IMAGES else "video"
    folder = write(tmp_path / "data", media, [json.dumps(shows(path, kind))])
    assert check_refuses(folder) and train_refuses(folder)


@pytest.mark.parametrize("name", ["zerotail.mp4", "cut_full.mkv", "cut_vp9.webm", "cut_mjpeg.avi", "audio.mp4"])
def test_both_refuse_real_files_that_break_late(name, media, tmp_path):
    if not (CASES / name).is_file():
        pytest.skip(f"needs ../shared/cases/video/{name}")
    folder = write(tmp_path / "data", media, [json.dumps(shows(name))])
    shutil.copy(CASES / name, folder / name)
    assert check_refuses(folder) and train_refuses(folder)


@pytest.mark.parametrize("form", ["plain", "byte order mark", "windows lines", "blank lines"])
def test_both_take_good_rows(form, media, tmp_path):
    text = "\n".join(map(json.dumps, GOOD_ROWS.values()))
    text = {"byte order mark": "\ufeff" + text, "windows lines": text.replace("\n", "\r\n")}.get(form, text)
    text = text.replace("\n", "\n\n  \n") if form == "blank lines" else text
    folder = write(tmp_path / "data", media, [text])
    assert not check_refuses(folder) and not train_refuses(folder)


@pytest.mark.parametrize("field", LACKING)
def test_both_complete_a_row_behind_complete_ones(field, media, tmp_path):
    lacking = {name: value for name, value in (BASE | {"id": "b"}).items() if name != field}
    folder = write(tmp_path / "data", media, [json.dumps(BASE), json.dumps(lacking)])
    assert not check_refuses(folder, headers=True) and not train_refuses(folder)


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_both_ask_for_what_the_method_needs(method, media, tmp_path):
    # The word has no wrong answer that could be drawn: DPO cannot use it, SFT can.
    folder = write(tmp_path / "data", media, [json.dumps(BASE), json.dumps(WORD | {"id": "b"})])
    assert check_refuses(folder, method) == train_refuses(folder, method) == (method == "dpo")


@pytest.mark.parametrize("words", [["data.split=train"], ["data.split=dev"], ["data.types=[object_counting]"]])
def test_what_the_method_needs_is_asked_of_the_rows_that_are_trained_on(words, media, tmp_path):
    """SFT in think mode: rows of the other file, or of types that are not asked for, need no thought."""
    good, bad = BASE | {"reasoning": "I see three."}, CHOICE | {"id": "b"}
    folder = write(tmp_path / "data", media, [json.dumps(good)])
    elsewhere = {"scene_name": "hall", "room": "hall", "split": "dev"}
    (folder / "dev.jsonl").write_text(json.dumps(CHOICE | elsewhere) + "\n")
    if "types" in words[0]:
        (folder / "train.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    if "dev" in words[0]:
        (folder / "train.jsonl").rename(folder / "swapped")
        (folder / "dev.jsonl").rename(folder / "train.jsonl")
        (folder / "swapped").rename(folder / "dev.jsonl")
    settings = ["model=tiny", f"data={folder}", f"output={tmp_path}/run", "prompt=think", "video.num_frames=4", *words]
    config = load_config("train", ["trainer=sft", *settings])
    assert check_data(folder, config, headers=True).problems == []
    check_run(config, load_rows(config)[0])


def test_a_row_that_the_run_cannot_use_is_no_good_row(media, tmp_path):
    """Of three words two have no wrong answer for DPO: one good row, and the videos of all are looked for."""
    rows = [WORD | {"rejected": "blue"}, WORD | {"id": "b"}, WORD | {"id": "c"} | {"media": shows("gone.mp4")["media"]}]
    folder = write(tmp_path / "data", media, map(json.dumps, rows))
    report = check_data(folder, config_of(folder, "dpo"), headers=True)
    assert report.files == {"train.jsonl": 1} and [line.count for line in report.answers["train.jsonl"]] == [1]
    assert [problem.rpartition(" (")[0] for problem in report.problems] == [
        f"{folder / 'train.jsonl'}: 2 rows: rejected=null: no wrong answer to 'red' can be told",
        f"{folder / 'gone.mp4'}: no such video",
    ]


def test_the_quick_look_says_how_far_it_is(media, tmp_path, capsys):
    folder = write(tmp_path / "data", media, [json.dumps(BASE)])
    check_data(folder, config_of(folder), headers=True)
    assert "videos and images 1/1" in capsys.readouterr().err


def test_rows_whose_room_cannot_be_told_are_one_note(media, tmp_path):
    other = BASE | {"id": "b", "dataset": "mine", "split": "dev", "scene_name": "hall", "room": "hall"}
    folder = write(tmp_path / "data", media, [json.dumps(BASE)])
    (folder / "dev.jsonl").write_text(json.dumps(other) + "\n")
    (note,) = check_data(folder, config_of(folder), headers=True).notes
    assert note.startswith("leak check: unknown: 2 of 2 rows name no scene that can be told")
    assert "1 of dataset own, 1 of dataset mine; the first: scene_name=kitchen" in note


def test_all_faults_of_all_rows_are_told_at_once_and_grouped(media, tmp_path):
    bad_unit = [BASE | {"unit": 3, "id": str(k)} for k in range(10)]
    twice_bad = BASE | {"unit": 3, "answer_kind": "list", "id": ""}
    cut = json.dumps(BASE)[:-1]  # names every field: the rows are complete ones
    lines = [json.dumps(BASE), *map(json.dumps, bad_unit), cut, json.dumps(twice_bad), json.dumps(shows("gone.mp4"))]
    folder = write(tmp_path / "data", media, lines)
    file = folder / "train.jsonl"
    assert check_data(folder, config_of(folder)).problems == [
        f"{file}: 11 rows: unit: must be null or a non-empty string (lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ...)",
        f"{file}:12: not JSON (Expecting ',' delimiter: line 2 column 1 (char {len(cut) + 1}))",
        f'{file}:13: id="": must be a non-empty string',
        f'{file}:13: answer_kind="list": must be one of number, choice, text, map',
        f"{file}:14: id: used before in this file",
        f"{folder / 'gone.mp4'}: no such video (row own/a)",
    ]


def test_the_same_faults_are_told_of_rows_of_ours_that_lack_fields(media, tmp_path):
    no_unit = [{name: BASE[name] for name in FIELD_NAMES if name != "unit"} | {"id": str(k)} for k in range(3)]
    twice_bad = no_unit[0] | {"answer_kind": "list", "id": ""}
    lines = [*map(json.dumps, no_unit), "{", json.dumps(twice_bad), json.dumps(shows("gone.mp4"))]
    folder = write(tmp_path / "data", media, lines)
    file = folder / "train.jsonl"
    assert check_data(folder, config_of(folder)).problems == [  # a unit is no fault: null is its default
        f"{file}:4: not JSON (Expecting property name enclosed in double quotes: line 2 column 1 (char 2))",
        f'{file}:5: id="": must be a non-empty string',
        f'{file}:5: answer_kind="list": must be one of number, choice, text, map',
        f"{file}:6: no such video: gone.mp4",
    ]


@pytest.mark.integration
@pytest.mark.parametrize("method", ["grpo", "sft", "dpo"])
def test_what_is_accepted_trains_to_the_end(method, media, tmp_path, tiny_folder):
    from vsgrpo.cli import run

    rows = {name: row for name, row in GOOD_ROWS.items() if row["answer_kind"] != "text" or row["rejected"]}
    folder = write(tmp_path / "data", media, [*map(json.dumps, rows.values())])
    assert not check_refuses(folder, method)
    size = ["trainer.per_device_train_batch_size=4", "trainer.gradient_accumulation_steps=1", "trainer.max_steps=-1"]
    size += ["trainer.num_train_epochs=1", "trainer.save_steps=100", "video.num_frames=4", "video.on_bad=error"]
    size += ["trainer.num_generations=2", "trainer.max_completion_length=4"] if method == "grpo" else []
    words = ["model=tiny", f"model.path={tiny_folder}", f"data={folder}", f"output={tmp_path / 'run'}", *size]
    assert run(["train", method, *words]) == 0
    assert (tmp_path / "run" / "final").is_dir()
