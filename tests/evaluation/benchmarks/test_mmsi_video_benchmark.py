"""MMSI-Video-Bench: rows of its own form, media at their places as videos and as pictures, its readers, its groups."""

import json

import pytest

from evaluation_rows import leak_of
from vsgrpo.cli import run
from vsgrpo.data.manifest import TrainingManifest
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmark_table import PromptSettings
from vsgrpo.evaluation.benchmarks.mmsi_video import MmsiVideo, lmms_letter, official_letter, spread
from vsgrpo.video.place import FrameList, files_of


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


def read(folder, rows, harness="official", **options):
    return MmsiVideo.read(write(folder, rows), ReadOptions(harness=harness, **options))


def names(benchmark, row):
    return [(kind, str(path.relative_to(benchmark.folder))) for kind, path in files_of(benchmark.media(row))]


def numbers(place):
    """Return the numbers of the frames of a clip that are shown."""
    assert place[0] == "video" and isinstance(place[1], FrameList)
    return [int(file.stem) for file in place[1].files]


def test_clips_share_fifty_frames_of_a_question(tmp_path):
    rows = [
        mmsi_row("question_0001", clips=(60, 3, 57), images=["a.png"]),
        mmsi_row("question_0002", clips=(5,), images=["a.png"]),
    ]
    long, short = (benchmark := read(tmp_path, rows)).rows
    first, second, third, image = benchmark.media(long)
    # 120 frames in 49 steps of 119 / 49 = 2.43: the k-th is int(2.43 k). Clip 1: k = 0 to 24 (58.29); clip 2, 60 to
    # 62: k = 25 (60.71); clip 3, from 63: k = 26 (63.14) to 49 (119). Pictures beside the clips do not count.
    # 21 * (119 / 49) is 50.99999999999999 as a float: 50 and not 51, as in the authors' code. So is the last: 118.
    of_first = [0, 2, 4, 7, 9, 12, 14, 17, 19, 21, 24, 26, 29, 31, 34, 36, 38, 41, 43, 46, 48, 50, 53, 55, 58]
    assert numbers(first) == of_first and numbers(second) == [0]
    assert numbers(third)[:3] == [0, 2, 5] and numbers(third)[-2:] == [53, 55] and len(numbers(third)) == 24
    assert image == ("image", tmp_path / "ref_images/a.png")
    # 50 frames over three clips of 5 s, which is more than base_fps = 2: 2 a second
    assert (first[1].fps, first[1].position_fps) == (2.0, 2.0)
    assert numbers(benchmark.media(short)[0]) == [0, 1, 2, 3, 4]
    (row, _) = read(tmp_path, rows, "official_sc").rows
    assert len(read(tmp_path, rows, "official_sc").media(row)[0][1].files) == 60


def test_time_stamps_are_those_of_the_frames_shown(tmp_path):
    row = mmsi_row(clips=(100, 100))
    row["video_list"][0] |= {"start": 10.0, "end": 70.0}
    row["video_list"][1] |= {"start": 0, "end": 65}
    benchmark = read(tmp_path, [row])
    first, second = benchmark.media(benchmark.rows[0])
    assert first[1].fps == second[1].fps == 50 / (60 + 65)
    assert len(first[1].files) == len(second[1].files) == 25


def test_more_clips_than_frames_show_one_each(tmp_path):
    benchmark = read(tmp_path, [mmsi_row(clips=(1,) * 70)])
    shown = [numbers(place) for place in benchmark.media(benchmark.rows[0])]
    assert shown == [[0]] * 70  # the authors': the first frame of a clip that would have none, beyond the number


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames_list": [["a/0.jpg"], []]}, "id=question_0001: frames_list: clip 2 of 2 has no frames"),
        (
            {"video_list": [{"path": "a.mp4"}, {"path": "b.mp4"}]},
            "id=question_0001: video_list: start, end and base_fps",
        ),
        ({"video_list": [{"path": "a.mp4", "start": 1, "end": 1, "base_fps": 2}] * 2}, "give no frames per second"),
    ],
)
def test_clips_without_frames_or_times_are_refused(tmp_path, change, message):
    benchmark = read(tmp_path, [mmsi_row(clips=(2, 2)) | change])
    with pytest.raises(DataError, match=message):
        benchmark.check_turns()
    read(tmp_path, [mmsi_row(clips=(2, 2)) | change], "clips").check_turns()  # shows files of videos/


def test_num_frames_is_refused_where_the_harness_has_its_own(tmp_path, capsys):
    write(tmp_path / "rows", [mmsi_row()])
    words = [f"benchmark.path={tmp_path / 'rows'}", f"output={tmp_path / 'out'}", "model=tiny", "video.num_frames=8"]
    assert run(["eval", "benchmark=mmsi_video", "benchmark.harness=lmms_sc", *words]) == 2
    said = capsys.readouterr().err
    assert "video.num_frames=8: benchmark=mmsi_video benchmark.harness=lmms_sc shows 300 frames of all videos" in said
    way_out = "official (50 frames) or lmms (50 frames) or easi (50 frames) or clips (video.num_frames of each clip)"
    assert f"hint: leave it out (in an entry of a suite: null), or set benchmark.harness to {way_out}\n" in said
    assert run(["eval", "benchmark=mmsi_video", "benchmark.harness=clips", *words]) == 2  # the clip is not there
    assert "1 video missing: videos/clip_question_0001_0.mp4" in capsys.readouterr().err


@pytest.mark.parametrize("harness", MmsiVideo.harnesses)
def test_prompts_of_other_modes_have_a_place_for_all_that_is_shown(tmp_path, harness):
    rows = [mmsi_row(clips=(60, 40), images=["a.png"])]
    benchmark = read(tmp_path, rows, harness, prompt=PromptSettings(mode="think"))
    benchmark.check_turns()
    assert len(benchmark.turn(benchmark.rows[0])) == len(benchmark.media(benchmark.rows[0])) + 1


def test_clips_are_whole_files_at_their_places(tmp_path):
    benchmark = read(tmp_path, [mmsi_row(clips=(2, 3), images=["a.png"])], "clips")
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
        ({"ref_images": []}, "its text has 1 place for videos and 1 for images, the row 1 video, frames of 1 and 0"),
        ({"video_list": ["a.mp4"]}, "has no path"),
        ({"frames_list": "x"}, "frames_list='x': must be a list"),
        ({"ground_truth": "G"}, "must be A to F"),
    ):
        with pytest.raises(DataError, match=message):
            read(tmp_path, [row | change])


def test_a_clip_without_a_scene_in_its_name_may_be_of_any_data_set_that_the_authors_list(tmp_path):
    clip = {"path": "scannet/scene0000_01.mp4", "start": 0.0, "end": 5.0, "base_fps": 2.0}
    benchmark = read(tmp_path, [mmsi_row("0"), mmsi_row("1", video_list=[clip])])
    verdicts = {"demo": "clean", "arkitscenes": "unknown", "scannetpp": "unknown", "scannet": "unknown"}
    rooms = {"demo": "demo000000", "arkitscenes": "482324", "scannetpp": "00dd871005", "scannet": "scene0001"}
    found = {name: leak_of(benchmark, [TrainingManifest(rooms={name: [room]})]).verdict for name, room in rooms.items()}
    assert found == verdicts
    with pytest.raises(DataError, match="such as scene0000"):  # the other clip names its room
        leak_of(benchmark, [TrainingManifest(rooms={"scannet": ["scene0000"]})])
