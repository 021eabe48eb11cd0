"""report.html of a dataset: self-contained, the scenes asked for, a reason where a video is not shown; floor plans."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from vsgrpo.cli import run
from vsgrpo.data.frame_true import named_frames
from vsgrpo.data.manifest import read_manifest
from vsgrpo.data.rows import make_row, read_rows
from vsgrpo.report.floor_plan import footprint, make_plan, map_svg, question_svg, symbol_svg
from vsgrpo.report.shown_media import pictures
from vsgrpo.spatial.question import ObjectRef, Question
from vsgrpo.spatial.question_types import QUESTION_TYPES
from vsgrpo.spatial.scene import Box, Scene, SceneObject

BUILD = ["build-data", "experiment=demo_data", "build.num_workers=1"]


def test_the_page_of_a_build_needs_no_network(tmp_path):
    assert run([*BUILD, f"output={tmp_path / 'd'}", "source.num_scenes=3", "build.report_scenes=2"]) == 0
    html = (tmp_path / "d" / "report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", html) and "url(" not in html and "<script" not in html
    assert html.count("<article") == 2 and html.count("data:image/jpeg;base64,") == 6
    assert "prefers-color-scheme: dark" in html and "object_counting" in html
    for row in read_rows(tmp_path / "d" / "train.jsonl")[:1]:
        assert row.question_type in html
    given = [f"output={tmp_path / 'none'}", "source.num_scenes=2", "build.report_scenes=0", "video.source=none"]
    assert run([*BUILD, *given]) == 0
    assert "<article" not in (tmp_path / "none" / "report.html").read_text()


def test_a_question_that_names_frames_is_shown_with_these(tmp_path):
    words = [
        "source=demo",
        "source.preset=furnished",
        "source.num_scenes=1",
        "video.source=mesh",
        "data.dev_fraction=0",
    ]
    words += ["data.mode=vsibench", "data.types=[camera_displacement]", "balance.mode=paper", "build.report_scenes=1"]
    words += ["video.walk_frames=41", "video.walk_width=112", "video.walk_height=84", "build.num_workers=1"]
    assert run(["build-data", *words, f"output={tmp_path}"]) == 0
    row = next(iter(read_rows(tmp_path / "train.jsonl")))
    first, second = named_frames(row)
    wanted, _ = pictures([("video", row.video_path(tmp_path))], {}, num_frames=row.extra["frames_shown"], width=320)
    html = (tmp_path / "report.html").read_text()
    assert f"frame {first} of" in row.question and first != second
    question = html.partition(row.question)[2].partition("</article>")[0]
    shown = re.findall(r'src="(data:image/jpeg;base64,[^"]+)"', question)
    assert shown[:2] == [wanted[first - 1], wanted[second - 1]]


def test_the_page_shows_what_the_text_gives_away(tmp_path, capsys):
    words = ["source.num_scenes=40", "video.source=none", "build.report_scenes=0", f"output={tmp_path}"]
    assert run([*BUILD, *words]) == 0
    assert "what the text of the train questions gives away" in capsys.readouterr().out
    counts = read_manifest(tmp_path).counts
    audit = counts["audit"]
    assert 0 < audit["room_size_estimation"]["text"] < 1 and audit["room_size_estimation"]["n"] == 40
    left_out = sum(n for what, n in counts["dropped"].items() if what.startswith("object_counting: "))
    assert counts["candidates"]["object_counting"] == counts["questions"]["train"]["object_counting"] + left_out
    html = (tmp_path / "report.html").read_text()
    assert "What the text of the questions gives away" in html
    assert f"{100 * audit['room_size_estimation']['text']:.1f}" in html
    if audit["not_scored"]:
        assert "not audited" in html


def test_questions_that_a_rule_of_revsi_leaves_out_are_counted(tmp_path, capsys):
    words = ["source=demo", "source.preset=furnished", "source.num_scenes=4", "video.source=none", "data.min_count=1"]
    words += ["build.num_workers=1", "build.report_scenes=1", "data.mode=revsi", f"output={tmp_path}"]
    assert run(["build-data", *words]) == 0
    counts = read_manifest(tmp_path).counts
    rule = "object_abs_distance: a distance below 1 m"
    kept = sum(counts["questions"][split].get("object_abs_distance", 0) for split in ("train", "dev"))
    left_out = sum(n for what, n in counts["dropped"].items() if what.startswith("object_abs_distance: "))
    assert 0 < counts["dropped"][rule] < left_out
    assert counts["candidates"]["object_abs_distance"] == kept + left_out
    printed = capsys.readouterr().out
    assert f"a distance below 1 m {counts['dropped'][rule]}" in printed
    assert f"<td>questions left out: {rule}</td>" in (tmp_path / "report.html").read_text()
    assert run(["build-data", *words]) == 0  # of scans that are stored
    assert read_manifest(tmp_path).counts["dropped"] == counts["dropped"]


def test_the_page_and_one_line_say_why_frames_are_missing(tmp_path, capsys):
    words = [*BUILD, f"output={tmp_path}", "source.num_scenes=2", "build.report_scenes=2"]
    assert run(words) == 0 and "frames are missing" not in capsys.readouterr().err
    for video in (tmp_path / "videos").glob("*/*.mp4"):
        video.write_bytes(b"no video")
    assert run(words) == 0  # what is built stays; the page is written anew
    lines = [line for line in capsys.readouterr().err.splitlines() if "frames are missing" in line]
    assert len(lines) == 1 and ".mp4" in lines[0] and lines[0].endswith("(and 1 more)")
    html = (tmp_path / "report.html").read_text()
    assert html.count("not shown: ") == 2 and "data:image" not in html


def test_a_dataset_without_videos_lacks_no_frames(tmp_path, capsys):
    given = [f"output={tmp_path}", "source.num_scenes=1", "video.source=none"]
    assert run([*BUILD, *given]) == 0 and "frames are missing" not in capsys.readouterr().err
    assert "not shown" not in (tmp_path / "report.html").read_text()


def upright(x, y, width, depth, degrees=0.0):
    angle = np.deg2rad(degrees)
    axes = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return Box(np.array([x, y, 0.5]), np.array([width, depth, 1.0]), axes)


def scene_of(*objects, outline=((0, 0), (4, 0), (4, 3), (0, 3))):
    items = tuple(SceneObject(k, name, box, box) for k, (name, box) in enumerate(objects))
    counts = {item.category: 1 for item in items}
    extra = {"floor_outline": [list(map(list, outline))]} if outline else {}
    return Scene("demo", "demo000000_00", "demo000000", items, 12.0, np.zeros(3), counts, extra=extra)


def row_of(question):
    return make_row(
        question,
        dataset="demo",
        split="train",
        scene_name="demo000000_00",
        room="demo000000",
        video="videos/demo/demo000000_00.mp4",
        generator={},
    )


def parsed(svg):
    return ElementTree.fromstring(svg)


def test_footprint_of_a_turned_box():
    # 2 x 1 m turned by 90 degrees about (1, 2): x from 0.5 to 1.5, y from 1 to 3
    points = footprint(upright(1.0, 2.0, 2.0, 1.0, degrees=90.0))
    assert sorted(map(tuple, points.round(3).tolist())) == [(0.5, 1.0), (0.5, 3.0), (1.5, 1.0), (1.5, 3.0)]


def test_the_plan_spans_floor_and_objects_with_y_up():
    plan = make_plan(scene_of(("bed", upright(3.8, 1.0, 1.0, 1.0))), "p")
    # x from 0 to 4.3, y from 0 to 3 (drawn from -3 to 0), and 0.3 m of margin
    assert plan.view == pytest.approx((-0.3, -3.3, 4.9, 3.6))
    assert plan.centers[0].tolist() == [3.8, -1.0]


def test_the_map_names_objects_escapes_them_and_says_which_found_no_place():
    crowd = [("a<b & c", upright(1.0, 1.0, 0.5, 0.5))] + [(f"stool{k}", upright(2.0, 2.0, 0.1, 0.1)) for k in range(8)]
    plan = make_plan(scene_of(*crowd), "p")
    svg, unnamed = map_svg(plan, scene_of(*crowd))
    root = parsed(svg)
    names = [text.text for text in root.iter("text")]
    assert "a<b & c" in names and "1 m" in names
    metre = next(text for text in root.iter("text") if text.text == "1 m")
    # The room's wall is at y 0, the edge of the plan 0.3 below; letters are 0.73 of the font size high.
    assert float(metre.get("y", 0)) - 0.73 * float(metre.get("font-size", 9)) > 0
    assert len(unnamed) + len(names) - 1 == 9 and unnamed
    assert len(list(root.iter("polygon"))) == 9 and parsed(symbol_svg(plan)).get("id") == "p"


def test_a_question_highlights_its_objects_by_role():
    names = ("bed", "sink", "lamp", "tv", "door")
    scene = scene_of(*((name, upright(0.5 + 0.7 * k, 1.0, 0.3, 0.3)) for k, name in enumerate(names)))
    refs = tuple(ObjectRef(name, k) for k, name in enumerate(names))
    question = Question(QUESTION_TYPES["object_rel_distance"], "Which?", names[1:], "C", "tv", refs)
    root = parsed(question_svg(make_plan(scene, "p"), row_of(question)))
    roles = [shape.get("class") for shape in root.iter("polygon")]
    assert roles == ["hit one", "hit two", "hit two", "hit right", "hit two"]  # bed; sink, lamp, TV (C), door
    assert len(root.findall("path")) == 1  # the line from the bed to the tv
    room = Question(QUESTION_TYPES["room_size_estimation"], "What size?", None, "12.0", "12.0", ())
    assert [p.get("class") for p in parsed(question_svg(make_plan(scene, "p"), row_of(room))).iter("path")] == [
        "hit one"
    ]


def test_a_distance_is_drawn_between_the_nearest_points_or_the_centres():
    scene = scene_of(("bed", upright(1.0, 1.0, 1.0, 1.0)), ("sink", upright(3.0, 1.2, 1.0, 1.0)))
    plan = make_plan(scene, "p")
    refs = (ObjectRef("bed", 0), ObjectRef("sink", 1))
    row = row_of(Question(QUESTION_TYPES["object_abs_distance"], "How far?", None, "1.0", "1.0", refs))
    ends = [[float(x) for x in point.split(",")] for point in link(plan, row).removeprefix("M").split()]
    # the bed ends at x = 1.5, the sink begins at x = 2.5; y down
    assert [end[0] for end in ends] in ([1.5, 2.5], [2.5, 1.5]) and ends[0][1] == ends[1][1]
    row.generator["distance"] = "centroid"
    assert link(plan, row) == "M1.00,-1.00 3.00,-1.20"


def link(plan, row):
    return next(shape for shape in parsed(question_svg(plan, row)).iter("path") if shape.get("class") == "link").get(
        "d"
    )


@pytest.mark.parametrize(
    ("kind", "word", "inside", "outside"),
    [
        # Standing at (2, 1), facing (3, 1): left is y up, so above on the page
        ("easy", "left", (2.0, 2.0), (2.0, 0.2)),
        ("hard", "front-right", (2.5, 0.5), (1.5, 0.5)),
        ("medium", "back", (1.0, 1.0), (2.0, 2.0)),
    ],
)
def test_a_direction_is_drawn_as_its_sector(kind, word, inside, outside):
    places = ((2.0, 1.0), (3.0, 1.0), inside)
    scene = scene_of(*((f"thing{k}", upright(*place, 0.2, 0.2)) for k, place in enumerate(places)))
    refs = tuple(ObjectRef(f"thing{k}", k) for k in range(3))
    direction = QUESTION_TYPES[f"object_rel_direction_{kind}"]
    question = Question(direction, "Where?", (word, "elsewhere"), "A", word, refs)
    shapes = parsed(question_svg(make_plan(scene, "p"), row_of(question))).iter("path")
    sector = next(shape for shape in shapes if shape.get("class") == "sector").get("d")
    corners = [tuple(float(x) for x in point.split(",")) for point in sector[1:-1].split()]
    assert corners[0] == (2.0, -1.0)
    assert is_inside((inside[0], -inside[1]), corners) and not is_inside((outside[0], -outside[1]), corners)


@pytest.mark.parametrize(("target", "angle"), [((2.0, 2.0), "90"), ((1.0, 0.0), "135")])
def test_an_angle_is_drawn_to_the_side_of_its_target(target, angle):
    # Standing at (2, 1), facing (3, 1): (2, 2) is 90 degrees to the left, (1, 0) 135 to the right
    scene = scene_of(*((f"thing{k}", upright(*p, 0.2, 0.2)) for k, p in enumerate(((2.0, 1.0), (3.0, 1.0), target))))
    refs = tuple(ObjectRef(f"thing{k}", k) for k in range(3))
    question = Question(QUESTION_TYPES["object_abs_direction"], "How far?", None, angle, angle, refs)
    shapes = parsed(question_svg(make_plan(scene, "p"), row_of(question))).iter("path")
    wedge = next(shape for shape in shapes if shape.get("class") == "sector").get("d")
    corners = [tuple(float(x) for x in point.split(",")) for point in wedge[1:-1].split()]
    half = 2.4, 1.4 if target[1] > 1 else 0.6  # half way between the two
    other = 2.4, 0.6 if target[1] > 1 else 1.4
    assert is_inside((half[0], -half[1]), corners) and not is_inside((other[0], -other[1]), corners)


def is_inside(point, corners):
    """Cast a ray to the right (the sectors tried are convex or star-shaped, any polygon works)."""
    x, y = point
    crossings = 0
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        crossings += (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0)
    return crossings % 2 == 1


def test_a_scene_without_outline_or_objects_is_drawn():
    empty = scene_of(outline=None)
    plan = make_plan(empty, "p")
    assert plan.view[2] > 0 and not map_svg(plan, empty)[1]
