"""Every command that loads a model refuses one that is not whole: exit 2, the first names, nothing left behind."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from vsgrpo.cli import run

pytestmark = pytest.mark.integration
LAB = Path(__file__).parent / "legacy" / "lab"
TRAIN = ["model=tiny", "data=dataset", "model.dtype=float32", "model.tune=lora", "model.freeze_vision=true"]
TRAIN += ["video.num_frames=4"]
COMMANDS = {
    "train": ["train", "sft", *TRAIN, "output=out", "trainer.max_steps=1"],
    "eval": ["eval", "benchmark=folder", "benchmark.path=dataset", "benchmark.split=train", "output=out"],
    "ask": ["ask", "video=dataset/videos/demo/demo010000_00.mp4", "how many chairs?"],
    "build-cot": ["build-cot", "data=dataset", "output=out", "pseudo.base_url=local", "reason.base_url=local"],
    "cache-videos": ["cache-videos", "model=tiny", "data=dataset", "video.cache_dir=out", "model.freeze_vision=true"],
}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Copy base, adapter and dataset; a folder `half` of each kind lacks tensors."""
    for name in ("base", "dataset"):
        shutil.copytree(LAB / name, tmp_path / name)
    shutil.copytree(LAB / "run" / "final", tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "base")
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(config))
    for name, file in (("base", "model.safetensors"), ("adapter", "adapter_model.safetensors")):
        half = shutil.copytree(tmp_path / name, tmp_path / f"half_{name}")
        tensors = {key: tensor.clone() for key, tensor in load_file(half / file).items()}
        for key in sorted(tensors)[:2]:
            del tensors[key]
        save_file(tensors, half / file, metadata={"format": "pt"})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words_with(command, model):
    if command == "build-cot":
        return [*COMMANDS[command], f"pseudo.model={model}", f"reason.model={model}"]
    return [*COMMANDS[command], f"model.path={model}"]


@pytest.mark.parametrize("command", COMMANDS)
def test_half_a_model_and_half_an_adapter_are_refused(lab, command, capsys):
    for model, missing in (("half_base", "lm_head.weight"), ("half_adapter", "base_model.model.model.language_model")):
        assert run(words_with(command, model)) == 2
        error = capsys.readouterr().err
        assert f"2 missing ({missing}" in error, error
        assert "Traceback" not in error and "LOAD REPORT" not in error
        shutil.rmtree(lab / "out", ignore_errors=True)


def test_merge_and_doctor_refuse_them_too(lab, capsys):
    assert run(["merge", "half_adapter", "output=out"]) == 2
    assert "2 missing (base_model.model" in capsys.readouterr().err
    assert not (lab / "out").exists()
    for model, status in (("half_base", "fail"), ("half_adapter", "fail"), ("base", "ok"), ("adapter", "ok")):
        run(["doctor", *TRAIN, "sft", f"model.path={model}", "--json"])
        found = {item["check"]: item for item in json.loads(capsys.readouterr().out)["findings"]}[f"model.path={model}"]
        assert found["status"] == status and ("2 missing" in found["found"]) == (status == "fail"), found
