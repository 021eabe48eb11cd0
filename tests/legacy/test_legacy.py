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


def hinted(capsys, start):
    """Return the KEY=VALUE words that the hint behind `start` says to add."""
    error, hint = capsys.readouterr().err.strip().splitlines()[-2:]
    assert error.startswith("error: ") and hint.startswith(f"hint: {start}")
    return hint.removeprefix(f"hint: {start}").partition(",")[0].split()


def test_stopped_run_is_refused_by_name_and_its_hint_leads_to_what_the_uninterrupted_one_reached(lab, capsys):
    import torch
    from safetensors.torch import load_file

    words = [word.replace("output=run", "output=stopped") for word in RUN]
    assert run(["train", "grpo", *words, "--resume"]) == 2
    added = hinted(capsys, "resume with ")
    assert added == ["video.backend=decord", "trainer.use_bias_correction_kl=true"]
    assert run(["train", "grpo", *words, *added, "--resume"]) == 0
    assert "no inputs.json" in capsys.readouterr().err
    whole, resumed = (load_file(lab / name / "final" / "adapter_model.safetensors") for name in ("run", "stopped"))
    assert whole.keys() == resumed.keys() and len(whole) == 14
    for name in whole:
        torch.testing.assert_close(resumed[name], whole[name], rtol=1e-5, atol=1e-7)


def test_finished_run_is_lengthened(lab, capsys):
    words = [*RUN, "--resume", "trainer.max_steps=14"]
    assert run(["train", "grpo", *words]) == 2
    assert run(["train", "grpo", *words, *hinted(capsys, "resume with ")]) == 0
    logged = [json.loads(line) for line in (lab / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged if "loss" in row] == list(range(1, 15))
    assert (lab / "run" / "checkpoint-14").is_dir()


def test_evaluation_is_refused_by_name_and_goes_on_where_that_is_allowed(lab, capsys):
    words = ["eval", "model=run/final", "benchmark=folder", "benchmark.path=dataset", "benchmark.split=train"]
    words += ["output=evaluation", "decoding.max_new_tokens=4"]
    kept = lab / "evaluation" / "predictions.jsonl"
    before = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(before[:12]))
    assert run(words) == 2
    assert "no inputs.json" in capsys.readouterr().err
    assert kept.read_text() == "".join(before[:12])
    assert run([*words, "--allow-changed"]) == 0
    rows = [[json.loads(line) for line in lines] for lines in (before, kept.read_text().splitlines())]
    before, after = ({row["id"]: row["prediction"] for row in part} for part in rows)
    assert len(rows[1]) == 21 and before == after


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
    assert run(["inspect", "evaluation", "output=page.html", "--limit", "1"]) == 0  # settings.json tells no reader
    assert (lab / "page.html").read_text(encoding="utf-8").count("data:image/jpeg") == 3
