"""SITE-Bench: rows of its form, prompts to the line break, letters in odd texts, chance-adjusted accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vsgrpo.cli import run
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmarks.site import SiteBench, official_letter, placed


def site_row(**more: Any) -> dict[str, Any]:
    row = {
        "question": "How many mugs are there? ",
        "options": ["one", "two", "none"],
        "answer": "B",
        "visual": ["images/a.png"],
        "category": "counting & existence",
        "dataset": "Made",
    }
    return row | more


def write(folder: Path, rows: list[dict[str, Any]], name: str = "image_test.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(B) is closer than A ", "B"),  # the bracket counts before the spaces
        ("A or B", "B"),  # of both the one whose last " B " is later
        ("(A) (B)", "A"),  # neither has spaces around it: the first
        ("The answer is B.", "B"),
        ("Answer:B", "B"),
        ("Answer: B", "B"),
        ("b", ""),
        ("D", ""),  # three options only
        ("", ""),
        ("A chair", "A"),
        ("A.B", "A"),  # only A has a period behind it
        ("B\n", "B"),
    ],
)
def test_letters_as_the_authors_read_them(text: str, letter: str) -> None:
    assert official_letter(text, "ABC") == letter


@pytest.mark.parametrize(
    ("prompt", "num_images", "expected"),
    [
        ("<image><image>\nQuestion: x", 2, "<image><image>Question: x"),
        ("Question: <image> or <image>?", 2, "Question:<image>or<image>?"),
        ("Question: <image>?\nend", 2, "Question:<image><image>?\nend"),  # one more picture than places
        ("Is <image> or <image> it?", 1, "Is<image>orit?"),  # one place more than pictures
    ],
)
def test_pictures_are_at_their_places(prompt: str, num_images: int, expected: str) -> None:
    assert placed(prompt, num_images) == expected


def test_prompts_to_the_line_break(tmp_path: Path) -> None:
    rows = [
        site_row(),
        site_row(question="Is <image> left of <image>?", options=["yes", "no"], answer="A", visual=["a.png", "b.png"]),
        site_row(options=["<image>", "<image>"], visual=["a.jpg", "b.jpg"]),
        site_row(visual=["videos/a.mp4"]),
    ]
    benchmark = SiteBench.read(write(tmp_path, rows), ReadOptions(name="site"))
    tail = "\nGive me the answer letter directly. The best answer is:"
    lines = "Question: How many mugs are there?\nOptions:\nA: one\nB: two\nC: none" + tail
    assert [benchmark.text(row) for row in benchmark.rows] == [
        f"<image>{lines}",
        f"Question: Is<image>left of<image>?\nOptions:\nA: yes\nB: no{tail}",
        f"Question: How many mugs are there?\nOptions:\nA:<image>B:<image>{tail[1:]}",
        "Select the best answer to the following multiple-choice question based on the video. "
        f"Respond with only the letter of the correct option.\n{lines}",
    ]
    assert [row.id for row in benchmark.rows] == [f"image_test_{n}" for n in range(4)]
    easi = SiteBench.read(tmp_path / "image_test.jsonl", ReadOptions(name="site", harness="easi"))
    assert easi.text(easi.rows[0]) == f"<image>{lines.replace('there?', 'there? ')}"


def test_score_is_above_chance_over_both_files(tmp_path: Path) -> None:
    write(tmp_path, [site_row(), site_row(options=["yes", "no"], answer="A")])
    write(tmp_path, [site_row(visual=["a.mp4"], category="movement prediction & navigation")], "video_test.jsonl")
    benchmark = SiteBench.read(tmp_path, ReadOptions(name="site"))
    assert [row.id for row in benchmark.rows] == ["image_test_0", "image_test_1", "video_test_0"]
    accuracy = benchmark.accuracy({"image_test_0": "B", "image_test_1": "A", "video_test_0": "none of them"}, "made")
    # right - chance: (1 - 1/3) + (1 - 1/2) + (0 - 1/3) = 5/6; 1 - chance: 2/3 + 1/2 + 2/3 = 11/6
    assert accuracy.overall == pytest.approx(5 / 11)
    cells = accuracy.to_json()
    assert cells["micro"] == pytest.approx(2 / 3)
    # counting: (2/3 + 1/2) / (2/3 + 1/2) = 1; movement: (-1/3) / (2/3) = -1/2
    assert cells["question_types"]["counting & existence"]["accuracy"] == pytest.approx(1)
    assert cells["question_types"]["movement prediction & navigation"]["accuracy"] == pytest.approx(-0.5)
    assert cells["groups"]["shown"].keys() == {"image", "video"}


def test_one_part_alone_and_other_frames_are_noted(tmp_path: Path) -> None:
    file = write(tmp_path, [site_row()])
    alone = "images alone: published rows are of images and videos together"
    assert SiteBench.read(file, ReadOptions(name="site")).remarks()[-1] == alone
    write(tmp_path, [site_row(visual=["a.mp4"])], "video_test.jsonl")
    notes = SiteBench.read(tmp_path, ReadOptions(name="site")).remarks({"vision": {"num_frames": 16}})
    assert notes[0].startswith(f"{tmp_path.name}: 2 rows")
    assert notes[1:] == ["16 frames were shown, published rows are of 32: video.num_frames=32"]


def test_easi_reads_other_letters(tmp_path: Path) -> None:
    file = write(tmp_path, [site_row()])
    official, easi = (SiteBench.read(file, ReadOptions(name="site", harness=name)) for name in ("official", "easi"))
    (row,) = official.rows
    assert not official.score(row, "<answer>b</answer>")
    assert easi.score(row, "<answer>b</answer>")


def test_score_reads_whose_prompt_was_asked_from_the_settings_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, answers = write(tmp_path, [site_row()]), tmp_path / "out" / "predictions.jsonl"
    answers.parent.mkdir()
    answers.write_text('{"id": "image_test_0", "prediction": "<answer>b</answer>"}\n', encoding="utf-8")
    prompt = {"mode": "vanilla", "wording": "eval", "show_options": True}
    words = ["score", str(answers), "benchmark=site", f"benchmark.path={file}", "--json"]
    scored = []
    for harness in ({}, {"harness": "easi"}):
        settings = {"prompt": prompt, "benchmark": {"name": "site", **harness}}
        (answers.parent / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        assert run(words) == 0
        scored.append(json.loads(capsys.readouterr().out)["micro"])
    assert run([*words, "benchmark.harness=official"]) == 0
    scored.append(json.loads(capsys.readouterr().out)["micro"])
    assert scored == [0.0, 1.0, 0.0]  # only VLMEvalKit's reader looks into the tags


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"answer": "D"}, "answer='D': must be a letter of ABC"),
        ({"options": ["one"]}, "options=['one']: must be a list of at least 2"),
        ({"visual": []}, "visual=[]: must be a list of paths"),
        ({"category": None}, "category=None: must be a text"),
    ],
)
def test_a_broken_row_is_named_by_file_row_and_field(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    file = write(tmp_path, [site_row(), site_row(**more)])
    with pytest.raises(DataError) as error:
        SiteBench.read(file, ReadOptions(name="site"))
    assert str(error.value) == f"{file}:2: {message}"
