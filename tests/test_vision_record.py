"""What a model was trained on seeing, and by which rule its text goes on after a video, as files record it."""

import json

import pytest

from vsgrpo.cli import run
from vsgrpo.config.compose import load_config
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.families import FAMILIES, vision_record
from vsgrpo.families.vision_record import (
    find_vision,
    marks_rule,
    other_rule,
    read_vision,
    text_rule,
    with_rules,
    write_vision,
)

BUDGET = {"num_frames": 8, "min_pixels": 3136, "max_pixels": 50176}


def old_model(folder):
    """Write the vision.json of a model from before the key."""
    folder.mkdir()
    (folder / "vision.json").write_text(json.dumps({"schema_version": 1, **BUDGET}))
    return str(folder)


def adapter_of(folder, base):
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    return str(folder)


def test_what_is_written_is_read(tmp_path):
    for rule in ("published", "library"):
        write_vision(tmp_path, {**BUDGET, "image_max_pixels": 9000}, rule)
        found = read_vision(tmp_path)
        assert (found.budget, found.text_after_video) == ({**BUDGET, "image_max_pixels": 9000}, rule)


@pytest.mark.parametrize("value", ["Published", "", 3, None, ["library"]])
def test_an_unknown_rule_in_a_file_is_refused(tmp_path, value):
    write_vision(tmp_path, BUDGET, "published")
    content = json.loads((tmp_path / "vision.json").read_text())
    (tmp_path / "vision.json").write_text(json.dumps({**content, "text_after_video": value}))
    with pytest.raises(DataError, match=r"vision\.json: text_after_video=.*: (not one of|must be text)"):
        read_vision(tmp_path)


def test_the_rule_is_the_models_own_else_that_of_published_weights(tmp_path):
    assert text_rule("Qwen/Qwen2.5-VL-3B-Instruct") == text_rule("tiny") == "published"
    old = old_model(tmp_path / "old")
    assert text_rule(old) == "library" and text_rule(old, given="published") == "published"
    assert text_rule("Qwen/Qwen2-VL-2B-Instruct", adapter=old) == "library"
    assert text_rule(adapter_of(tmp_path / "of_old", old)) == "library"  # by its base: it has no record itself
    new = adapter_of(tmp_path / "new", old)
    write_vision(tmp_path / "new", BUDGET, "published")
    assert text_rule(new) == text_rule(old, adapter=new) == "published"
    assert find_vision(None, new).source == tmp_path / "new" / "vision.json"


def test_a_run_tells_the_rule_of_its_models(tmp_path):
    (tmp_path / "final").mkdir()
    config = tmp_path / "config.yaml"
    video = "video: {num_frames: 6, min_pixels: 784, max_pixels: 50176}\n"
    for model, rule in (("", "library"), ("{path: x}", "library"), ("{text_after_video: published}", "published")):
        config.write_text(f"{video}model: {model}\n")
        assert text_rule(str(tmp_path / "final")) == rule
    config.write_text(video + "model: {text_after_video: paper}\n")
    with pytest.raises(DataError, match=r"config\.yaml: text_after_video=paper: not one of published, library"):
        text_rule(str(tmp_path / "final"))


def test_a_family_whose_frames_stand_alone_has_one_rule(tmp_path, monkeypatch):
    class Alone:
        label, has_text_rules, video_text = "Own-VL", False, None

    monkeypatch.setattr(vision_record, "family_of", lambda path: Alone)
    old = old_model(tmp_path / "old")
    assert text_rule(old) == text_rule(old, given="published") == "published"
    with pytest.raises(ConfigError, match="text_after_video=library: Own-VL places each frame by itself"):
        text_rule(old, given="library")
    config = with_rules(load_config("eval", [f"model={old}", "benchmark.path=b", "output=o"]))
    assert other_rule(config) is None
    assert FAMILIES["qwen2_vl"].has_text_rules and FAMILIES["qwen2_5_vl"].has_text_rules


def test_configurations_hold_the_rule_they_go_by_and_warn_of_another(tmp_path):
    old = old_model(tmp_path / "old")
    eval_words = [f"model={old}", "benchmark.path=b", "output=o"]
    train_words = ["trainer=sft", "data=d", "output=o", f"model.path={old}"]
    for root, words in (("eval", eval_words), ("train", train_words)):
        own = with_rules(load_config(root, words))
        assert own.model.text_after_video == "library" and other_rule(own) is None
        other = with_rules(load_config(root, [*words, "model.text_after_video=published"]))
        said = f"model.text_after_video=published: {tmp_path}/old/vision.json: the model was trained with library"
        assert other_rule(other) == said


def test_the_marks_around_a_video_are_the_published_ones_or_those_that_a_model_records(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl"}')
    model = str(tmp_path)
    assert marks_rule("tiny_3") == marks_rule(model) == marks_rule("tiny") == "published"
    write_vision(tmp_path, BUDGET, "published", "library")
    assert read_vision(tmp_path).vision_marks == marks_rule(model) == marks_rule("tiny_3", adapter=model) == "library"
    assert marks_rule(model, given="published") == "published"
    words = [f"model={model}", "benchmark.path=b", "output=o"]
    own = with_rules(load_config("eval", words))
    assert own.prompt.vision_marks == "library" and other_rule(own) is None
    other = with_rules(load_config("eval", [*words, "prompt.vision_marks=published"]))
    said = f"prompt.vision_marks=published: {model}/vision.json: the model was trained with library"
    assert other_rule(other) == said
    with pytest.raises(ConfigError, match=r"prompt\.vision_marks=library: Qwen2-VL has one mark before and one behind"):
        marks_rule("tiny", given="library")
    (tmp_path / "vision.json").write_text(json.dumps({"schema_version": 1, **BUDGET, "vision_marks": "all"}))
    with pytest.raises(DataError, match=r"vision\.json: vision_marks=all: not one of published, library"):
        read_vision(tmp_path)


def test_an_unknown_value_of_the_key_is_one_error_line(capsys):
    words = ["train", "grpo", "model=tiny", "data=d", "output=o", "model.text_after_video=paper", "--dry-run"]
    assert run(words) == 2
    assert (
        "model.text_after_video=paper: not one of the choices\nhint: choose from: published, library"
        in capsys.readouterr().err
    )


def test_a_plan_says_the_rule(capsys):
    assert run(["train", "grpo", "model=tiny", "data=d", "output=o", "--dry-run"]) == 0
    assert "text after a video: by model.text_after_video=published" in capsys.readouterr().out
