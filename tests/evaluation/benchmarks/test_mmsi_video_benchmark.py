"""MMSI-Video-Bench: rows of its own form, media at their places as videos and as pictures, its readers, its groups."""

import json

import pytest

from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmarks.mmsi_video import MmsiVideo, lmms_letter, official_letter, spread


def mmsi_row(name="question_0001", kind="Planning", truth="B", clips=(3,), images=(), **more):
    """Return a record of clips with so many frames and of pictures, with a place for each in its text."""
    videos = [f"clip_{name}_{k}.mp4" for k in range(len(clips))]
    return {
        "id": name,
        "type": kind,
        "video_list": [{"path": path, "start": 90.0, "end": 95.0, "base_fps": 2.0} for path in videos],
        "frames_list": [[f"{name}_{k}/{n}.jpg" for n in range(number)] for k, number in enumerate(clips)],
        "ref_images": list(images),
        "system_prompt": "You answer questions.",
        "task_prompt": "Plan. ",
        "user_prompt": "First " + "<video>" * len(clips) + " and " + "<image>" * len(images) + " where? A. up B. down",
        "format_prompt": "\nOne letter.",
        "ground_truth": truth,
        **more,
    }


def write(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mmsivideo.json"
    path.write_text(json.dumps(rows))
    return path


def read(folder, rows, harness="official"):
    return MmsiVideo.read(write(folder, rows), ReadOptions(harness=harness))


def names(benchmark, row):
    return [(kind, str(path.relative_to(benchmark.folder))) for kind, path, *_ in benchmark.media(row)]


def test_clips_are_whole_files_at_their_places(tmp_path):
    benchmark = read(tmp_path, [mmsi_row(clips=(2, 3), images=["a.png"])])
    (row,) = benchmark.rows
    assert benchmark.turn(row) == (
        "You answer questions.\nPlan. First ",
        "",
        " and ",
        " where? A. up B. down\nOne letter.",
    )
    assert names(benchmark, row) == [  # `start` and `end` are times in the recording that the clip was cut from
        ("video", "videos/clip_question_0001_0.mp4"),
        ("video", "videos/clip_question_0001_1.mp4"),
        ("image", "ref_images/a.png"),
    ]


@pytest.mark.parametrize(("harness", "first", "number"), [("lmms", 30, 50), ("lmms_sc", 60, 100), ("easi", 30, 50)])
def test_harnesses_show_clips_as_pictures(tmp_path, harness, first, number):
    benchmark = read(tmp_path, [mmsi_row(clips=(60, 40), images=["a.png"])], harness)
    (row,) = benchmark.rows
    shown = names(benchmark, row)
    assert shown[-1] == ("image", "ref_images/a.png") and len(shown) == number + 1
    assert [path for _, path in shown].count("frames/question_0001_0/0.jpg") == 1
    assert sum("question_0001_0/" in path for _, path in shown) == first  # 60 of 100 frames
    turn = benchmark.turn(row)
    assert len(turn) == number + 2 and turn[number] == " and " and set(turn[1:number]) == {""}


def test_frames_are_spread_over_clips_in_proportion():
    assert spread([3, 2], 50, "lmms") == [[0, 1, 2], [0, 1]]
    # 0 to 9 in five steps of 2.25: 0 2 4 6 9; a clip without any shows its first in lmms-eval alone
    assert spread([3, 1, 6], 5, "lmms") == [[0, 2], [0], [0, 2, 5]]
    assert spread([3, 1, 6], 5, "easi") == [[0, 2], [], [0, 2, 5]]


@pytest.mark.parametrize(
    ("answer", "official", "lmms"),
    [
        ("B", "B", "B"),
        ("B.", "B", "B"),
        ("<answer>B</answer>", "B", "B"),
        ("The answer is B, because", "B", "B"),
        ("The answer is: B. A is wrong", "B", "B"),
        ("answer is A... so the answer is B", "B", "B"),  # behind the last of the phrase
        ("\\boxed{B}", "B", "B"),
        ("\\boxed{2} Answer: B", "", "B"),  # the authors look at the box alone
        ("(B)", "", "B"),
        ("I say (C) or A.", "", "A"),  # by the order of letters
        ("B: down", "", ""),  # "Bdown"
        ("no answer", "", ""),
        ("No answer. B", "", ""),
        ("G", "", ""),
        ("", "", ""),
    ],
)
def test_letters_as_both_read_them(answer, official, lmms):
    assert (official_letter(answer), lmms_letter(answer)) == (official, lmms)


def test_levels_parts_and_input(tmp_path):
    rows = [
        mmsi_row("question_0001", Easy2hard="level_1", Robot=None),
        mmsi_row(
            "question_0002", "(Cross-Video) Memoery Update", clips=(1, 1), Easy2hard="level_2", Robot="Navigation"
        ),
        mmsi_row("question_0003", "(Motion Understanding) Camera Motion", images=["a.png"], Easy2hard="nan"),
        mmsi_row("question_0004", "(Motion Understanding) Dance"),
    ]
    benchmark = read(tmp_path, rows)
    found = benchmark.accuracy({row.id: "B" if row.id < "question_0003" else "A" for row in benchmark.rows}, "")
    assert found.overall == pytest.approx(2 / 3) and set(benchmark.unknown) == {"question_0004"}
    assert found.cells["types"]["(Cross-Video) Memory Update"].mean == 1  # the file's own spelling is Memoery
    assert {name: cell.mean for name, cell in found.cells["level"].items()} == {
        "Planning": 1,
        "Cross-Video": 1,
        "Motion Understanding": 0,
    }
    assert found.cells["input"]["one video"].mean == 1 and found.cells["Robot"]["Navigation"].mean == 1
    assert set(found.cells["Easy2hard"]) == {"level_1", "level_2"}


def test_lists_may_be_texts_and_wrong_rows_are_refused(tmp_path):
    row = mmsi_row(images=["a.png"])
    texts = {name: repr(row[name]) for name in ("video_list", "frames_list", "ref_images")}
    benchmark = read(tmp_path, [row | texts])
    assert len(benchmark.media(benchmark.rows[0])) == 2
    for change, message in (
        ({"ref_images": []}, "its text has 1 places for videos and 1 for images, the row 1 videos, frames of 1 and 0"),
        ({"video_list": ["a.mp4"]}, "has no path"),
        ({"frames_list": "x"}, "frames_list='x': must be a list"),
        ({"ground_truth": "G"}, "must be A to F"),
    ):
        with pytest.raises(DataError, match=message):
            read(tmp_path, [row | change])
