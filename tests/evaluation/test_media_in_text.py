"""A benchmark whose texts show images and clips of videos at their place, through eval with its controls and pages."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vsgrpo.cli import run
from vsgrpo.data.row import Row
from vsgrpo.errors import ConfigError
from vsgrpo.evaluation.arms import shuffled
from vsgrpo.evaluation.benchmark import question_row
from vsgrpo.records import read_jsonl
from vsgrpo.report.shown_media import MOST_MEDIA, pictures, spread_media
from vsgrpo.video.writer import write_video

MODULE = """
from vsgrpo.evaluation.benchmark import Benchmark, question_row
from vsgrpo.records import read_jsonl


class Mixed(Benchmark):
    media_in_text = True
    may_show_nothing = True

    @classmethod
    def read_rows(cls, file):
        for _, data in read_jsonl(file):
            yield question_row(data["id"], data["text"], "A", data["media"], dataset="mixed")

    def text(self, row):
        return row.question

    def score(self, row, answer):
        return answer.strip() == row.answer


class Strict(Mixed):
    may_show_nothing = False
"""
ROWS = [
    {
        "id": "clips",
        "text": "First <video>, then <video>, and <image>Which is longer?",
        "media": [("video", "a.mp4", 0, 2), ("video", "a.mp4", 3, 5), ("image", "0.png")],
    },
    {
        "id": "order",
        "text": "First <image>, then <video>, and <video>Which is longer?",
        "media": [("image", "1.png"), ("video", "b.mp4", 1, 2), ("video", "b.mp4")],
    },
    {"id": "before", "text": "Which is longer?", "media": [("image", "1.png"), ("image", "2.png")]},
    {"id": "nothing", "text": "Which is longer, a mile or a metre?", "media": []},
]


@pytest.fixture
def mixed(tmp_path, monkeypatch):
    """Write the module and ROWS; return what writes other rows."""
    (tmp_path / "mixed_benchmark.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.full((56, 56, 3), 80 * number, dtype=np.uint8)).save(folder / f"{number}.png")
    for seed, name in enumerate("ab"):
        frames = np.random.default_rng(seed).integers(0, 255, (60, 56, 56, 3), dtype=np.uint8)
        write_video(folder / f"{name}.mp4", iter(frames), fps=10)

    def write(rows):
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    write(ROWS)
    return write


def words(tiny_folder, *more, name="Mixed"):
    given = ["eval", f"model={tiny_folder}", f"benchmark=mixed_benchmark:{name}", "benchmark.path=data", "output=out"]
    small = ["image.max_pixels=3136", "video.max_pixels=3136", "video.num_frames=4", "decoding.max_new_tokens=4"]
    return [*given, *small, *more]


def short(prompt):
    """Return a rendered user turn with media as words."""
    (turn,) = re.findall(r"<\|im_start\|>user\n(.*)<\|im_end\|>", prompt, re.S)
    return re.sub(r"<\|vision_start\|>.*?<\|(image|video)_pad\|>.*?<\|vision_end\|>", r"[\1]", turn)


@pytest.mark.integration
def test_images_and_clips_are_shown_at_their_place(mixed, tiny_folder, capsys):
    assert run(words(tiny_folder, "controls=[blind,first_frame,shuffled]")) == 0
    shown = capsys.readouterr()
    assert "test.jsonl: 1 question has no image and no video: asked as text" in shown.err
    prompts = {line["id"]: line for _, line in read_jsonl(Path("out/prompts.jsonl"))}
    assert {name: short(line["prompt"]) for name, line in prompts.items()} == {
        "clips": "First [video], then [video], and [image]Which is longer?",
        "order": "First [image], then [video], and [video]Which is longer?",
        "before": "[image][image]Which is longer?",
        "nothing": "Which is longer, a mile or a metre?",
    }
    names = [part.rpartition("/")[2] for part in prompts["clips"]["video"].split(", ")]
    assert names == ["a.mp4 (0 to 2 s)", "a.mp4 (3 to 5 s)", "0.png"]
    results = json.loads(Path("out/results.json").read_text())
    assert (results["n"], results["without_media"]) == (4, 1)
    assert "note: 1 question has no image and no video: asked as text" in shown.out
    answers = {name: dict(_answers(name)) for name in ("", "_blind", "_first_frame", "_shuffled")}
    assert all(set(found) == {"clips", "order", "before", "nothing"} for found in answers.values())
    assert all(None not in found.values() for found in answers.values())
    assert answers["_blind"]["nothing"] == answers["_shuffled"]["nothing"] == answers[""]["nothing"]
    # "A" is never said, so all rows are among the wrong ones: 4 frames of each of 4 clips, 4 images
    assert Path("out/report.html").read_text().count("data:image/jpeg") == 4 * 4 + 4

    kept = Path("out/predictions.jsonl").read_bytes()
    assert run(words(tiny_folder, "decoding.layout=plain", "output=plain")) == 0
    assert Path("plain/predictions.jsonl").read_bytes() == kept
    mixed([{**ROWS[0], "media": [*ROWS[0]["media"][:1], ("video", "a.mp4", 3, 5.5), ("image", "0.png")]}, *ROWS[1:]])
    assert run(words(tiny_folder)) == 2  # another clip is another evaluation
    assert "made under another benchmark" in capsys.readouterr().err


def _answers(name):
    return [(line["id"], line["prediction"]) for _, line in read_jsonl(Path(f"out/predictions{name}.jsonl"))]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "See <image> and <image>."}, "id=bad: its text shows image, image and the row video, video, image"),
        ({"text": "Which?", "media": []}, "id=bad: shows neither image nor video"),
        ({"media": [("video", "a.mp4", 2, 2)]}, "0 <= start < end in seconds"),
        ({"media": [("image", "0.png", 0, 2)]}, "a clip is of a video"),
    ],
)
def test_a_row_that_would_be_shown_wrongly_is_refused(mixed, tiny_folder, capsys, row, message):
    mixed([{**ROWS[0], "id": "bad", **row}])
    assert run(words(tiny_folder, name="Strict")) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("error:") == 1


def test_shuffled_rows_keep_the_number_and_kinds_of_their_media():
    def row(name, *media):
        return question_row(name, "?", "x", [(kind, path, *clip) for kind, path, *clip in media], dataset="d")

    rows = [
        row("1", ("image", "a.png"), ("video", "a.mp4", 0, 2), ("image", "b.png")),
        row("2", ("video", "b.mp4", 1, 2)),
        row("3", ("image", "c.png")),
        row("4"),
        row("5", ("image", "d.png"), ("image", "a.png")),
    ]
    media_of = shuffled(rows, lambda row: row.media_paths(Path()), "controls=[shuffled]")
    for one in rows:
        own, other = one.media_paths(Path()), media_of(one)
        assert [kind for kind, *_ in other] == [kind for kind, *_ in own]
        assert not {path for _, path, *_ in own} & {path for _, path, *_ in other}
    assert [str(path) for kind, path, *_ in media_of(rows[0])] == ["c.png", "b.mp4", "d.png"]
    with pytest.raises(ConfigError, match="no other room has a video"):
        shuffled([*rows[2:], row("6", ("video", "x.mp4"))], lambda row: row.media_paths(Path()), "controls=[shuffled]")


def test_a_row_with_a_clip_is_for_benchmarks_alone():
    row = question_row("1", "?", "x", [("video", "a.mp4", 0, 2)], dataset="d")
    assert isinstance(row, Row) and row.media == ({"kind": "video", "path": "a.mp4", "start": 0, "end": 2},)


def test_a_page_shows_some_of_many_pictures(mixed):
    media = [("image", Path(f"data/{number % 3}.png")) for number in range(40)]
    urls, problems = pictures(media, {})
    assert len(urls) == MOST_MEDIA and problems == [
        "12 of the 40 images and videos of this row are here, evenly spread"
    ]
    assert list(spread_media(media))[:: MOST_MEDIA - 1] == [media[0], media[-1]]
    assert len(pictures([("video", Path("data/a.mp4"), 1, 2)], {})[0]) == 3
