"""Questions of one's own, answered by the tiny model and scored."""

import json
import shutil
from types import SimpleNamespace

import pytest
from PIL import Image

from vsgrpo.cli import run
from vsgrpo.errors import DataError
from vsgrpo.evaluation import arms
from vsgrpo.evaluation.benchmark import PromptSettings, ReadOptions
from vsgrpo.evaluation.benchmarks.folder import Folder, iter_questions

pytestmark = pytest.mark.integration


def test_own_questions_of_every_form_are_scored(tiny_folder, benchmark_folder, tmp_path, capsys):
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (180, 180), colour).save(tmp_path / f"{name}.png")
    shutil.copy(benchmark_folder / "scannet/scene0000_00.mp4", tmp_path / "c.mp4")
    lines = [
        {"id": 7, "problem": "<image>How long is AB?", "answer": 3, "images": ["a.png"], "question_type": "length"},
        {
            "question": "Which is larger?",
            "answer": "B",
            "options": ["A. left", "B. right"],
            "images": ["a.png", "b.png"],
        },
        {"question": "What moves?", "answer": "nothing", "video": "c.mp4", "image": "b.png", "level": 2},
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    questions = Folder.read(path, ReadOptions(prompt=PromptSettings("vanilla", "train", True)))
    first, second, third = questions.rows
    assert (first.id, first.question, first.answer) == ("7", "How long is AB?", "3")
    assert (second.options, second.answer, second.ground_truth) == (("left", "right"), "right", "B")
    assert [item["kind"] for item in third.media] == ["image", "video"] and third.extra == {"level": 2}
    text = questions.text(second)
    assert "A. left\nB. right" in text and "the option's letter" in text
    out = tmp_path / "out"
    own = ["eval", f"model={tiny_folder}", "benchmark=folder", f"benchmark.path={path}", f"output={out}"]
    assert run([*own, "image.max_pixels=3136", "video.num_frames=4", "video.backend=pyav", "prompt.wording=train"]) == 0
    assert "3 of 3 questions in own.jsonl | right or wrong" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert results["n"] == 3 and set(results["question_types"]) == {"length", "question"}
    page = (out / "report.html").read_text()
    wrong = 3 - sum(results["correct"].values())
    assert page.count('<section class="card">') == wrong and "data:image/jpeg;base64," in page and "leak guard" in page
    assert run([*own, "image.max_pixels=3136", "video.num_frames=4", "video.backend=pyav", "prompt.wording=train"]) == 0
    assert "every question is answered already" in capsys.readouterr().err
    path.write_text('{"question": "x", "answer": "y"}\n')
    assert run([*own, "--overwrite"]) == 2
    assert "own.jsonl:1: media=[]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "answer", "words", "right"),
    [
        (["A. left", "B. right"], "B", ("left", "right"), "B"),
        (["A. left", "B. right"], "B. right", ("left", "right"), "B"),
        (["(A) left", "(B) right"], "left", ("left", "right"), "A"),
        (["E. coli", "salmonella"], "E. coli", ("E. coli", "salmonella"), "A"),  # no letter of the first option
        (["A", "B"], "B", ("A", "B"), "B"),  # letter and words of one option
        (["A. B", "B. A"], "B. A", ("B", "A"), "B"),
    ],
)
def test_letters_before_options_are_no_words_of_theirs(tmp_path, options, answer, words, right):
    (tmp_path / "q.jsonl").write_text(
        json.dumps({"question": "Which?", "answer": answer, "options": options, "image": "a.png"})
    )
    (row,) = iter_questions(tmp_path / "q.jsonl")
    assert (row.options, row.ground_truth, row.answer) == (words, right, words["AB".index(right)])


def test_an_answer_that_names_one_option_and_spells_another_is_refused(tmp_path):
    line = {"question": "Which letter is on the sign?", "answer": "B", "options": ["B", "A"], "image": "a.png"}
    (tmp_path / "q.jsonl").write_text(json.dumps(line))
    with pytest.raises(DataError, match=r"q.jsonl:1: answer='B': the letter of one option and the words of another"):
        list(iter_questions(tmp_path / "q.jsonl"))


def test_a_control_that_shows_images_as_they_are_says_so(tmp_path, capsys):
    lines = [{"question": f"Which? {k}", "answer": "left", "image": f"{k}.png"} for k in range(2)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    benchmark = Folder.read(tmp_path / "q.jsonl")
    config = SimpleNamespace(controls=["first_frame", "blind"], video=SimpleNamespace(shuffle=False))
    assert [*arms.media_of_arms(config, benchmark)] == ["", "first_frame", "blind"]
    assert "controls=[first_frame]: no question shows a video" in capsys.readouterr().err
