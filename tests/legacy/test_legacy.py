"""Folders of an earlier version still open, or are refused by name with the way out (see README.md)."""

import json
import shutil
from pathlib import Path

import pytest

from vsgrpo.cli import run

pytestmark = pytest.mark.integration
LAB = Path(__file__).parent / "lab"
RUN = (LAB / "run" / "overrides.txt").read_text().split()[1:]  # without trainer=grpo


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Copy the folders to where this user works now, with the base model's new place in the adapters."""
    folder = tmp_path / "lab"
    shutil.copytree(LAB, folder)
    for file in folder.glob("*/*/adapter_config.json"):
        config = json.loads(file.read_text())
        config["base_model_name_or_path"] = str(folder / "base")
        file.write_text(json.dumps(config))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "training"))  # the run's own reward function
    return folder


def test_dataset_is_read(lab, capsys):
    assert run(["check-data", "dataset"]) == 0
    assert "21" in capsys.readouterr().out


def test_stopped_run_goes_on_to_what_the_uninterrupted_one_reached(lab):
    import torch
    from safetensors.torch import load_file

    words = [word.replace("output=run", "output=stopped") for word in RUN]
    assert run(["train", "grpo", *words, "--resume"]) == 0
    whole, resumed = (load_file(lab / name / "final" / "adapter_model.safetensors") for name in ("run", "stopped"))
    assert whole.keys() == resumed.keys() and len(whole) == 14
    for name in whole:
        torch.testing.assert_close(resumed[name], whole[name], rtol=1e-5, atol=1e-7)


def test_adapter_answers_as_it_did(lab, capsys):
    words = ["eval", "model=run/final", "benchmark=folder", "benchmark.path=dataset", "benchmark.split=train"]
    assert run([*words, "output=again", "decoding.max_new_tokens=4"]) == 0
    texts = [(lab / name / "predictions.jsonl").read_text() for name in ("evaluation", "again")]
    before, after = ({row["id"]: row["prediction"] for row in map(json.loads, t.splitlines())} for t in texts)
    assert len(before) == 21 and before == after


def test_adapter_merges(lab):
    assert run(["merge", "run/final", "output=merged"]) == 0
    assert (lab / "merged" / "model.safetensors").is_file()
    lineage = json.loads((lab / "merged" / "training_manifest.json").read_text())
    assert lineage["rooms"]["demo"] == [f"demo01000{number}" for number in range(6)]


def test_evaluation_is_scored_and_reported(lab, capsys):
    rows = ["benchmark.path=dataset/train.jsonl", "--json"]
    assert run(["score", "evaluation/predictions.jsonl", *rows]) == 0
    assert '"n": 21' in capsys.readouterr().out
    assert run(["report", "run"]) == 0
    assert (lab / "run" / "report.html").is_file()
    assert run(["inspect", "run", "--limit", "1"]) == 0
    assert run(["inspect", "evaluation", "--limit", "1"]) == 0
