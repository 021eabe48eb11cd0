"""Rooms are found in every usual spelling of a scene id, and in nothing that only looks like one."""

import json
import random
from pathlib import Path
from urllib.parse import quote

import pytest

from vsgrpo import tables
from vsgrpo.data.leak_guard import denied_in_data
from vsgrpo.data.room_ids import _HINT, Found, _may_name, dataset_of_path, room_of, rooms_in, rooms_in_data

DEV = Path(__file__).resolve().parents[3] / "shared" / "data" / "vsibench_dev" / "test_dev.jsonl"
FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")

SPELLINGS = {
    "name": lambda s: s,
    "upper case": str.upper,
    "file": lambda s: f"{s}.mp4",
    "folder of frames": lambda s: f"color/{s}/000120.jpg",
    "frame name": lambda s: f"{s}_3607.189.png",
    "clip": lambda s: f"{s}_4959",
    "Windows": lambda s: f"D:\\videos\\{s}\\a.mp4",
    "absolute": lambda s: f"/mnt/data/val/{s}.mp4",
    "percent": lambda s: quote(f"videos of mine/{s}.mp4", safe=""),
    "every character": lambda s: "".join(f"%{ord(char):02X}" for char in s),
    "twice encoded": lambda s: "".join(f"%25{ord(char):02X}" for char in s),
    "full-width digits": lambda s: s.translate(FULL_WIDTH),
    "zero width": lambda s: "\u200b".join(s),
    "soft hyphen": lambda s: f"{s[:4]}\u00ad{s[4:]}",
    "behind a word": lambda s: f"video-{s}",
    "url": lambda s: f"https://example.org/v/{s}.mp4?download=1",
    "in brackets": lambda s: f"[{s}]",
}
SCANNET_SPELLINGS = {
    "apart": lambda s: f"scene_{s[5:]}",
    "hyphens": lambda s: f"Scene-{s[5:9]}-{s[10:]}",
    "room": lambda s: s[:9],
    "space": lambda s: f"scene {s[5:9]}",
    "number in its folder": lambda s: f"ScanNet/{s[5:]}.mp4",
    "room's number": lambda s: f"scannet_v2/{s[5:9]}.mp4",
    "room's number behind the name": lambda s: f"ScanNet_{s[5:9]}",
    "derived file": lambda s: f"{s}_vh_clean_2.ply",
    "Cyrillic": lambda s: s.replace("e", "\u0435"),
    "Greek capitals": lambda s: s.upper().replace("E", "\u0395").replace("N", "\u039d"),
    "Greek": lambda s: s.replace("n", "\u03b7").replace("c", "\u03f2"),
    "small capitals": lambda s: s.replace("scene", "\ua731\u1d04\u1d07\u0274\u1d07"),
    "decomposed": lambda s: s.replace("e", "e\u0301"),
    "ScanNet's folders": lambda s: f"scans_test/{s[5:]}.sens",
    "without zeros": lambda s: f"scannet/scene{int(s[5:9])}_{int(s[10:])}.mp4",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_denied_scene_is_found_in_every_spelling(spelling):
    for (dataset, scene), room in list(tables.denied_scenes().items())[::3]:
        text = SPELLINGS[spelling](scene)
        assert Found(dataset, room, scene, True) in rooms_in(text), text


@pytest.mark.parametrize("spelling", SCANNET_SPELLINGS)
def test_spellings_of_scannet(spelling):
    for (dataset, scene), room in tables.denied_scenes().items():
        if dataset == "scannet":
            text = SCANNET_SPELLINGS[spelling](scene)
            assert room in {item.room for item in rooms_in(text)}, text


@pytest.mark.parametrize(
    "text",
    [
        "141069025",  # eight digits inside a longer number
        "410690251.jpg",
        "frame_0041069025.png",
        "0.41069025",  # a coordinate
        "-1.41069025 2.5",
        "scene00250_00",  # five digits: another data set
        "scene_00025",
        "09c1414f1b2",  # eleven hexadecimal digits
        "a09c1414f1b",
        "e3b09c1414f1b0c44",  # a hash
        "13864514494",
        "381658",  # a visit's number alone is any number
        "frames/381658.jpg",
        "41069026",  # no such video
        "2023_11_28",
    ],
)
def test_what_only_looks_like_an_id_is_none(text):
    assert rooms_in(text) == ()


def test_a_visit_is_a_room_with_several_videos():
    assert room_of("41069021") == room_of("41069025") == room_of("41069025_4959") == "381658"
    assert room_of("scene_0000_00") == "scene0000" and room_of("scene9999_00") == "scene9999"
    for text in ("ARKitScenes/visits/381658/video.mov", "visit_id=381658", "visit 381658", "visit_381658.mp4"):
        assert [item.room for item in rooms_in(text)] == ["381658"], text
    assert [item.room for item in rooms_in_data({"dataset": "ARKitScenes", "room": "381658"})] == ["381658"]
    assert [item.room for item in rooms_in_data({"visit_id": 381658})] == ["381658"]


def test_prose_needs_a_word_beside_a_number():
    for text in (
        "Which chair in video 41069025 is red?",
        "Look at scene0025_00: how many beds?",
        "In arkitscenes/41069025.mp4, what is left?",
        'The clip "41069025" shows a kitchen, how large is it?',
        "What does 41069025.mp4 show at the end?",
        "Is 09c1414f1b a kitchen or is it a bathroom?",
        "Look at scannet0025_00: how many beds?",
        "See id09c1414f1b, or frame09c1414f1b.",
        "Seen in scene 3864514494, how many chairs are there?",
    ):
        assert rooms_in(text, prose=True), text
    for text in (
        "There are 41069025 grains of rice.",
        "The number 3864514494 is prime.",
        "In 2011 the scene was empty",
    ):
        assert not rooms_in(text, prose=True), text


@pytest.mark.parametrize(
    ("text", "dataset"),
    [
        ("./arkitscenes/41069025.mp4", "arkitscenes"),
        ("ARkitScenes/videos/train/x.mp4", "arkitscenes"),
        ("ScanNetpp/videos/train/x.mp4", "scannetpp"),
        ("scannet++/x.mp4", "scannetpp"),
        ("scannetppv2/0a5c013435.mp4", "scannetpp"),
        ("scannet_pp", "scannetpp"),
        ("scannet%2B%2B/x", "scannetpp"),
        ("ScanNet_v2/x.mp4", "scannet"),
        ("scans/scene0000_00.mp4", "scannet"),
        ("scannetpp/41069025.mp4", "arkitscenes"),  # the id decides
        ("videos/47331606.mp4", "arkitscenes"),  # in the publisher's list
        ("videos/09c1414f1b.mp4", "scannetpp"),
        ("scannet/and/arkitscenes/room.mp4", "arkitscenes"),  # the innermost folder
        ("videos/room.mp4", None),
        ("clarkit_house/room.mp4", None),
        ("scene9999_00", None),
        ("", None),
    ],
)
def test_dataset_of_a_path(text, dataset):
    assert dataset_of_path(text) == dataset


def test_ids_are_found_in_any_column_however_deep():
    deep: dict = {"scan": "scene0025_00"}
    for _ in range(3000):
        deep = {"x": [deep]}
    for data in (
        {"question": "?", "extra": deep},
        {"meta": {"video_id": 41069025}},
        {"meta": {"video_id": 41069025.0}},
        {"frames": {"41069025_1.0.png": 1}},
        {"conversations": json.dumps([{"from": "human", "value": "<video>"}, {"video": "arkitscenes/41069025.mp4"}])},
        ["a", ["09C1414F1B"]],
        {"videoId": "41069025"},
        {"scene": "３８６４５１４４９４"},
        {"scans": [41069025]},
        {"dataset": "ARKitScenes", "x": 41069025},
        {"file_name": " 41069025 "},
        {"uid": "41069025"},
        {"sample": 41069025},
        {"source": "ARKitScenes", "scene_id": 381658},
        {"dataset": "scannet", "clip": "scan0025_00"},
        {"path": b"videos/scene0025_00.mp4"},
    ):
        assert denied_in_data(data), data
    for data in (
        {"id": 41069025123, "answer": 0.41069025, "frames": [1, 2, 3], "scene": "scene0000_00"},
        {"num_points": 41069025, "timestamp": 3864514494.0},  # numbers of their own
        {"question": "How many?", "answer": "41069025", "options": ["41069025", "41069021"]},
        {"dataset": "mine", "room": 381658},
        {"dataset": "scannet", "question_id": "0025", "frames": ["scannet/scene0000_00/color/0025.jpg"]},
        {"path": "scannet/0025.jpg"},
        {"image": b"\xff scene0025_00" * 100},
    ):
        assert not denied_in_data(data), data


def test_another_benchmark_is_one_table_and_its_registration(tmp_path, monkeypatch):
    table = tmp_path / "deny_other.tsv"
    table.write_text(
        "# ids\ndataset\tscene\troom\nscannet\tscene0000_00\tscene0000\n"
        "3rscan\t0cac75b1-8d6f-2d13-8c17-9099db8915bc\t0cac75b1-8d6f-2d13-8c17-9099db8915bc\n"
        "multiscan\tscene_00021_00\tscene_00021\n"
    )
    caches = (tables.denied_rooms, tables.denied_scenes, *_room_caches())
    monkeypatch.setitem(tables.BENCHMARKS, "Other", str(table))
    try:
        for cached in caches:
            cached.cache_clear()
        for text in ("scene0000_01", "3RScan/0CAC75B1-8d6f-2d13-8c17-9099db8915bc/a.mp4", "scene_00021_00.mp4"):
            (denied,) = denied_in_data({"video": text})
            assert denied.benchmark == "Other" and denied.reason == "its room is in Other"
        assert denied_in_data({"video": "scene0025_00"})[0].benchmark == "VSI-Bench"
        assert not denied_in_data({"video": "scene_000210_00.mp4"})
    finally:
        monkeypatch.undo()
        for cached in caches:
            cached.cache_clear()
    assert not denied_in_data({"video": "scene0000_01"})


def _room_caches():
    from vsgrpo.data import room_ids

    return room_ids._other_scenes, room_ids._search_name, room_ids._dataset_of, room_ids._known_names


@pytest.mark.integration
@pytest.mark.skipif(not DEV.is_file(), reason="needs the half of VSI-Bench beside the repository")
def test_all_rows_of_the_benchmark_are_refused_in_whatever_form():
    rows = [json.loads(line) for line in DEV.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 2443
    for row in rows:
        name, scene, text = row["dataset"], row["scene_name"], row["question"]
        talk = [{"from": "human", "value": f"<video>{text}"}, {"from": "gpt", "value": row["ground_truth"]}]
        for form in (
            row,
            {"question": text, "answer": row["ground_truth"], "video": f"./{name}/{scene}.mp4"},
            {"problem": text, "solution": "<answer>A</answer>", "path": f"C:\\data\\{scene.upper()}.mp4"},
            {"conversations": talk, "image": [f"frames/{scene}/{k}.jpg" for k in range(3)]},
            {"messages": json.dumps(talk), "videos": [{"video": f"/x/{scene}.mp4", "fps": 2}]},
            {"scene_id": int(scene) if scene.isdigit() else scene, "question": text, "answer": "1", "dataset": "mine"},
        ):
            assert denied_in_data(form), form


def test_the_quick_look_passes_over_no_text_that_can_name_a_room():
    draw = random.Random(0)
    characters = "0123456789abcdefABCDEFG_-sScCeEnNvViI%&\x00\x0b\x1f\x7f \t\n\r./é０"
    for _ in range(20_000):
        few = draw.choice((12, 24, 40, len(characters)))
        text = "".join(draw.choices(characters[:few], k=draw.randint(0, 16))) + draw.choice(("", "", "sCeN", "vIsi"))
        assert _may_name(text) == (_HINT.search(text) is not None), repr(text)
