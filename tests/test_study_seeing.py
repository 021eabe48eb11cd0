"""scripts/study_seeing.py: a tower from another model, what counts as seeing, what the page says."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.tiny_runs import make_rows
from vsgrpo.data.rows import write_rows
from vsgrpo.families.family import TinySizes
from vsgrpo.modeling.bundle import vision_tower
from vsgrpo.modeling.load import load
from vsgrpo.modeling.tiny import build_tiny
from vsgrpo.video.writer import write_video

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import study_seeing

    yield study_seeing
    for name in ("study_seeing", "study_seeing_tower", "study_runs"):
        sys.modules.pop(name, None)


def test_a_tower_of_another_model_comes_with_a_new_merger_and_the_language_stays(study, tmp_path):
    wide = TinySizes(hidden_size=64, vision_width=32, vision_depth=2)
    build_tiny(tmp_path / "speaks", seed=1)
    build_tiny(tmp_path / "sees", seed=2, sizes=wide)
    study.with_tower(tmp_path / "speaks", tmp_path / "sees", tmp_path / "both", seed=3)
    speaks, sees, both = (load(tmp_path / name) for name in ("speaks", "sees", "both"))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(both.model(input_ids=ids).logits, speaks.model(input_ids=ids).logits)
    old, new = (vision_tower(bundle.model).state_dict() for bundle in (sees, both))
    assert old.keys() == new.keys() and "blocks.1.attn.qkv.weight" in old
    same = {name for name in old if old[name].shape == new[name].shape and torch.equal(old[name], new[name])}
    assert {name for name in old if name.startswith(("patch_embed", "blocks", "merger.ln_q"))} <= same
    # 2 x 2 patches of width 32; the language model is 96 wide.
    assert new["merger.mlp.2.weight"].shape == (96, 128) and "merger.mlp.0.weight" not in same


def test_the_presence_loss_of_a_readout_that_knows_nothing(study):
    tower = sys.modules["study_seeing_tower"]
    readout = tower.Readout(width=3, num_categories=2, scale=0.5)
    torch.nn.init.zeros_(readout.linear.weight)
    torch.nn.init.zeros_(readout.linear.bias)
    rooms = tower.Rooms(torch.empty(0), torch.empty(0), torch.tensor([[2.0, 0.0]]), torch.tensor([math.e**3]))
    # Presence at even odds: ln 2. Counts 0 for 2 and 0: 4 / 2. Log area 0 for 3: 9. Features of size 1, not 0.5:
    # 0.1 * ln(2)^2.
    expected = math.log(2) + 2 + 9 + 0.1 * math.log(2) ** 2
    assert readout.loss(torch.ones(1, 4, 3), rooms).item() == pytest.approx(expected, rel=1e-5)


def test_without_steps_the_features_become_as_large_as_words_and_the_rest_stays(study, tmp_path):
    (tmp_path / "scenes" / "demo").mkdir(parents=True)
    (tmp_path / "videos" / "demo").mkdir(parents=True)
    rows = [replace(make_rows(n)[0], media=({"kind": "video", "path": f"videos/demo/{n}.mp4"},)) for n in range(10)]
    for number, row in enumerate(rows):
        frames = [np.full((56, 56, 3), 20 * number + frame, dtype=np.uint8) for frame in range(8)]
        write_video(tmp_path / "videos" / "demo" / f"{number}.mp4", frames, fps=1)
        scene = {"object_counts": {"chair": 1 + number % 4}, "room_size": 10.5 + number}
        (tmp_path / "scenes" / "demo" / f"{row.scene_name}.json").write_text(study.json.dumps(scene))
    write_rows(tmp_path / "train.jsonl", rows)
    build_tiny(tmp_path / "old", seed=1)
    told = study.warm_up(tmp_path / "old", tmp_path, tmp_path / "new", steps=0, seed=0)
    old, new = (load(tmp_path / name).model.state_dict() for name in ("old", "new"))
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    name = "model.visual.merger.mlp.2.weight"
    assert changed == {name}  # its bias is 0
    torch.testing.assert_close(new[name], told["scaled_by"] * old[name], rtol=0.01, atol=0)
    tower = sys.modules["study_seeing_tower"]
    bundle = load(tmp_path / "new")
    with torch.no_grad():
        sizes = tower.features(vision_tower(bundle.model), tower.read_rooms(bundle, tmp_path)).pow(2).mean().sqrt()
    words = new["model.language_model.embed_tokens.weight"].pow(2).mean().sqrt()
    assert sizes.item() == pytest.approx(words.item(), rel=0.2)  # one of the ten rooms decided it


def test_the_share_of_variance_that_is_explained(study):
    true = torch.tensor([[1.0, 0.0], [3.0, 4.0]])  # means 2 and 2: squares 1 + 1 + 4 + 4 = 10
    found = torch.tensor([[1.0, 1.0], [3.0, 4.0]])  # one wrong by 1: 1 - 1 / 10
    assert study.warm_up.__globals__["explained"](found, true) == 0.9


def test_answers_that_follow_the_truth_and_answers_that_are_one_number(study, tmp_path):
    rows = [make_rows(number)[0] for number in range(4)]
    write_rows(tmp_path / "train.jsonl", rows)
    # 1, 2, 3, 4 chairs. 1, 2, 3 answered with 1, 3, 2 (the fourth has no number): covariance 0.5, variances 1 and 1.
    for name, said in (("video", ("1", "3 chairs", "2", "none")), ("blind", ("2", "2", "2", "2"))):
        lines = [study.json.dumps({"id": row.id, "prediction": text}) for row, text in zip(rows, said, strict=True)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    task = rows[0].question_type
    assert study.correlation(tmp_path, tmp_path / "video.jsonl", task) == 0.5
    assert study.correlation(tmp_path, tmp_path / "blind.jsonl", task) is None
    assert study.correlation(tmp_path, tmp_path / "video.jsonl", "other") is None


def test_the_page_says_who_sees_and_what_is_missing(study, tmp_path):
    def task(low, constant, blind):
        return {"score": [0.5, low, 0.6], "constant": constant, "blind": blind, "correlation": [0.25, None]}

    held = {"object_counting": task(0.41, 0.4, 0.2), "room_size_estimation": task(0.45, 0.4, 0.45)}
    assert [study.sees(found) for found in held.values()] == [True, False]
    speech = {"before": {"nats": 3.0, "replies": []}, "after": {"nats": 4.5, "replies": ["a|b\n", "7"]}}
    arm = study.ARMS[0]
    line = {"arm": arm.name, "seed": 0, "settings": study.settings_hash(arm, study.SMALL), "processor": "X"}
    line["rows"] = {"train": "a", "test": "b"}
    line |= {"steps": 2, "cpu_seconds": 9.0, "peak_gib": 3.1, "loss": [[2, 1.5]], "held_out": held, "speech": speech}
    line |= {"warm_up": {"cpu_seconds": 7.0, "counts_r2": 0.5, "log_area_r2": 0.75}}
    lines, page = tmp_path / "lines.jsonl", tmp_path / "page.md"
    lines.write_text(study.json.dumps(line) + "\n")
    assert study.read_lines(lines, study.SMALL) == [line] and study.read_lines(lines, study.Sizes()) == []
    page.write_text(f"by hand\n{study.MARKS[0]}stale\n{study.MARKS[1]}more by hand\n")
    study.write_page([line], [0], page)
    text = page.read_text()
    assert text.startswith("by hand\n") and text.endswith("more by hand\n") and "stale" not in text
    assert "1 of 7 runs are done. Missing: toy_presence (seed 0)" in text
    want = "| presence | 0 | 2 | 0 | 7 | 9 | 3.1 | 0.50, 0.75 | 1.50 "
    want += "| 50 (41..60) | 20 | 40 | yes | 50 (45..60) | 45 | 40 | no |"
    assert "| presence | 0 | 0.25 |  | 0.25 |  |" in text
    assert want in text and "| 3.00 | 4.50 | `a\\|b\\n`<br>`7` |" in text
