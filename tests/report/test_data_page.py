"""report.html of a dataset: self-contained, the scenes asked for, and a reason where a video is not shown."""

import re

from vsgrpo.cli import run
from vsgrpo.data.rows import read_rows

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
