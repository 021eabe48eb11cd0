"""`vsgrpo ask`: what is asked, what is refused, one answer of a tiny model."""

import json

import numpy as np
import pytest
from PIL import Image

from vsgrpo.cli import run
from vsgrpo.errors import ConfigError
from vsgrpo.evaluation.ask import parse_request
from vsgrpo.video.writer import write_video


@pytest.fixture
def video(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (8, 56, 56, 3), dtype=np.uint8)
    write_video(tmp_path / "room.mp4", list(frames), fps=4)
    return tmp_path / "room.mp4"


def test_the_question_is_the_word_with_spaces_or_without_equals(video):
    request = parse_request(["model=m/x", f"video={video}", "prompt.mode=think", "Is a = b here?"])
    assert request.question == "Is a = b here?"
    assert request.overrides[:3] == ("model=m/x", "prompt.mode=think", "decoding.max_new_tokens=512")
    given = parse_request(["model=m/x", f"video={video}", "prompt.mode=think", "decoding.max_new_tokens=9", "Why?"])
    assert "decoding.max_new_tokens=512" not in given.overrides


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["video=v.mp4", "why ?"], "no model"),
        (["model=m/x", "why ?"], "0 videos"),
        (["model=m/x", "video=a", "video=b", "why ?"], "2 videos"),
        (["model=m/x", "video=a", "image=b", "video=c", "why ?"], "2 videos"),
        (["model=m/x", "video=a"], "0 questions"),
        (["model=m/x", "video=a", "how many", "chairs ?"], "2 questions"),
    ],
)
def test_an_incomplete_request_is_refused_with_an_example(words, message):
    with pytest.raises(ConfigError, match=message) as error:
        parse_request(words)
    assert "vsgrpo ask model=" in error.value.hint


def test_a_missing_video_or_model_ends_in_one_error_and_one_hint(video, tmp_path, capsys):
    requests = {
        "no.mp4: no such file": ["model=m/x", "video=no.mp4", "why ?"],
        "no such folder": [f"model={tmp_path}/none", f"video={video}", "why ?"],
        "neither config.json nor adapter_config.json": [f"model={tmp_path}", f"video={video}", "why ?"],
    }
    for message, words in requests.items():
        assert run(["ask", *words]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 2 and message in lines[0] and lines[1].startswith("hint: ")


@pytest.mark.integration
def test_a_model_answers_the_question_in_evaluation_wording(tiny_folder, video, capsys):
    words = [
        f"model={tiny_folder}",
        f"video={video}",
        "video.num_frames=4",
        "video.timeout_s=null",
        "model.offline=true",
    ]
    assert run(["ask", *words, "video.backend=pyav", "How many chairs?", "--json"]) == 0
    reply = json.loads(capsys.readouterr().out)
    assert reply["num_frames"] == 4 and len(reply["answers"]) == 1
    sentence = "Please answer the question using a single word or phrase."
    assert reply["prompt"] == f"These are frames of a video.\nHow many chairs?\n{sentence}"


@pytest.mark.integration
def test_images_are_shown_in_the_order_given(tiny_folder, tmp_path, capsys):
    for name, grey in (("a.png", 10), ("b.png", 240)):
        Image.new("L", (56, 56), grey).save(tmp_path / name)
    words = [f"model={tiny_folder}", "model.offline=true", "Which is darker?", "--json"]
    replies = []
    for names in (("a.png", "b.png"), ("b.png", "a.png"), ("a.png",)):
        assert run(["ask", *words, *(f"image={tmp_path / name}" for name in names)]) == 0
        replies.append(json.loads(capsys.readouterr().out))
    assert len({reply["answers"][0] for reply in replies}) > 1  # what is shown matters
    assert replies[0]["prompt"].startswith("Which is darker?\nPlease answer")
    assert run(["ask", *words, f"image={tmp_path / 'none.png'}"]) == 2
    assert "none.png: no such file" in capsys.readouterr().err


@pytest.mark.integration
def test_a_broken_video_is_named(tiny_folder, tmp_path, capsys):
    (tmp_path / "junk.mp4").write_text("no video")
    words = [f"model={tiny_folder}", f"video={tmp_path / 'junk.mp4'}", "video.backend=pyav", "How many chairs?"]
    assert run(["ask", *words]) == 2
    assert "junk.mp4" in capsys.readouterr().err
