"""Forms of other projects are taken if they hold all that is needed: turns, frame lists, JSON strings."""

import json

import pytest

from vsgrpo.cli import run
from vsgrpo.data.importing.answer_values import Refused
from vsgrpo.data.importing.record_to_row import record_to_row
from vsgrpo.data.rows import read_rows
from vsgrpo.errors import DataError

ROOM = "What is the size of this room (in square meters)?"
CHAIRS = "How many chair(s) are in this room?"
FRAMES = [f"scannet/posed_images/scene0001_00/{k:05d}.jpg" for k in range(4)]
LABELLED = "".join(f"Image-{k + 1}: <image>\n" for k in range(4))


def turns(question, answer=None, *, roles=("user", "assistant"), keys=("role", "content"), system=None):
    said = [] if system is None else [("system", system)]
    said += [(roles[0], question)] + ([] if answer is None else [(roles[1], answer)])
    return [{keys[0]: role, keys[1]: text} for role, text in said]


VIDEO = "clips/scannet/scene0001_00.mp4"
PARTS = [{"type": "video", "video": VIDEO, "fps": 2.0}, {"type": "text", "text": ROOM}]
LLAVA = {"roles": ("human", "gpt"), "keys": ("from", "value")}
FORMS = {
    "llama-factory": {"messages": turns(f"<video>{ROOM}", "23.4", system="Be brief."), "videos": [VIDEO]},
    "ms-swift grpo": {"messages": turns(f"<video>{ROOM}"), "solution": "23.4", "videos": [VIDEO]},
    "verl": {
        "data_source": "mine",
        "prompt": turns(f"<video>{ROOM}"),
        "videos": [{"video": VIDEO, "fps": 2.0, "max_frames": 64}],
        "ability": "spatial",
        "reward_model": {"style": "rule", "ground_truth": "<answer>23.4</answer>"},
        "extra_info": {"split": "train", "index": 0, "answer": "the room is large"},
    },
    "easyr1": {"problem": f"<video>{ROOM}", "answer": "23.4", "videos": [VIDEO]},
    "trl parts": {"messages": [{"role": "user", "content": PARTS}, {"role": "assistant", "content": "23.4"}]},
    "llava": {"conversations": turns(f"<image>\n{ROOM}", "23.4", **LLAVA), "video": VIDEO},
    "llava as text": {"conversations": json.dumps(turns(f"<image>\n{ROOM}", "23.4", **LLAVA)), "video": VIDEO},
    "alpaca": {"instruction": f"<video>{ROOM}", "input": "", "output": "23.4", "videos": [VIDEO]},
    "alpaca in two": {"instruction": "<video>", "input": ROOM, "output": "23.4", "videos": [VIDEO]},
    "query and response": {"query": f"<video>{ROOM}", "response": "23.4", "videos": VIDEO},
    "qwen tokens": {"question": f"<|vision_start|><|video_pad|><|vision_end|>{ROOM}", "answer": 23.4, "video": VIDEO},
    "a thought": {
        "messages": turns(f"<video>{ROOM}", "<think>Large.</think>\n<answer>23.4</answer>"),
        "solution": "23.4 m2",
        "videos": [VIDEO],
    },
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_training_frameworks(name):
    row = record_to_row(FORMS[name], "imported").row
    assert (row.question, row.answer, row.question_type, row.unit) == (ROOM, "23.4", "room_size_estimation", "m2")
    assert (row.dataset, row.scene_name) == ("scannet", "scene0001_00")
    assert row.media == ({"kind": "video", "path": "videos/scannet/scene0001_00.mp4"},)
    assert row.reasoning == ("Large." if name == "a thought" else None)
    assert row.extra.get("system") == ("Be brief." if name == "llama-factory" else None)


@pytest.mark.parametrize(
    "row",
    [
        {"image": FRAMES, "conversations": turns(f"{LABELLED}{ROOM}", "23.4", **LLAVA)},
        {"images": FRAMES, "messages": turns(f"{'<image>' * 4}{ROOM}", "23.4")},
        {"videos": [FRAMES], "messages": turns(f"<video>{ROOM}", "23.4")},
        {
            "images": [{"path": path} for path in FRAMES],
            "question": LABELLED.replace("Image", "Frame") + ROOM,
            "answer": "23.4",
        },
        {
            "messages": [{"role": "user", "content": [*({"type": "image", "image": f} for f in FRAMES), PARTS[1]]}],
            "answer": 23.4,
        },
    ],
    ids=["vlaser", "images", "frames in videos", "objects", "parts"],
)
def test_frame_lists_are_taken_in_order(row):
    taken = record_to_row(row, "imported").row
    assert (taken.question, taken.answer, taken.scene_name) == (ROOM, "23.4", "scene0001_00")
    assert [item["path"] for item in taken.media] == [f"images/{path}" for path in FRAMES]
    assert {item["kind"] for item in taken.media} == {"image"} and taken.extra["frames"] is True


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": turns(ROOM, "3") * 2, "video": VIDEO}, "several rounds"),
        ({"messages": turns("", "3", roles=("tool", "assistant")), "video": VIDEO}, "several rounds"),
        ({"messages": turns(ROOM), "video": VIDEO}, "no answer"),
        ({"conversations": "[{", "video": VIDEO}, "no list of turns"),
        ({"question": ROOM, "answer": "3", "videos": [VIDEO, "b.mp4"]}, "several videos"),
        ({"question": ROOM, "answer": "3", "video": VIDEO, "images": FRAMES}, "a video and images"),
        ({"question": f"<image><image>{ROOM}", "answer": "3", "images": FRAMES}, "media tokens"),
        ({"question": ROOM, "answer": "3", "images": ["a/1.jpg", "b/1.jpg"]}, "no scene"),
        ({"question": ROOM, "answer": "3", "image": "frames/1.jpg"}, "no scene"),
        ({"question": ROOM, "answer": "3", "video": "data:video/mp4;base64,AAAA"}, "no paths"),
        ({"messages": [{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}]}]}, "neither text, image"),
    ],
)
def test_what_does_not_hold_all_is_refused(row, reason):
    with pytest.raises(Refused, match=reason):
        record_to_row(row, "imported")


def test_the_system_turn_may_be_of_typed_parts():
    parts = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Count."}]
    turns = [{"role": "system", "content": parts}, {"role": "user", "content": ROOM}]
    turns.append({"role": "assistant", "content": "23.4"})
    row = record_to_row({"messages": turns, "video": "scene0001_00.mp4"}, "imported").row
    assert row.extra["system"] == "Be brief.\nCount." and row.question == ROOM


def test_frames_are_linked_into_the_dataset_folder(tmp_path, capsys):
    for path in FRAMES:
        (tmp_path / "frames" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "frames" / path).write_bytes(path.encode())
    rows = [{"image": FRAMES[:k], "conversations": turns(ROOM, "23.4", **LLAVA)} for k in (2, 3)]
    rows.append({"image": [*FRAMES, "scannet/posed_images/scene0001_00/gone.jpg"], "question": CHAIRS, "answer": "4"})
    (tmp_path / "rows.jsonl").write_text("\ufeff" + "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["import-data", str(tmp_path / "rows.jsonl"), f"output={tmp_path / 'out'}", "data.dev_fraction=0"]
    assert run([*words, f"images={tmp_path / 'frames'}"]) == 0
    assert "refused 1  no such image in" in capsys.readouterr().out
    two, three = read_rows(tmp_path / "out/train.jsonl")  # one question, other frames: two rows
    assert [path.read_bytes().decode() for _, path in three.media_paths(tmp_path / "out")] == FRAMES[:3]
    assert len(two.media) == 2 and two.id != three.id


def test_a_byte_order_mark_is_no_part_of_a_row(tmp_path, capsys):
    row = {"question": CHAIRS, "answer": "4", "video": VIDEO}
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    assert run(["import-data", str(tmp_path / "rows.json"), f"output={tmp_path / 'out'}"]) == 0
    file = tmp_path / "out/train.jsonl"
    plain = read_rows(file)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read_rows(file) == plain
    file.write_bytes(file.read_bytes()[3:] + b"[" * 200_000)
    with pytest.raises(DataError, match=r"train\.jsonl:2: not JSON \(nested too deeply\)"):
        read_rows(file)
