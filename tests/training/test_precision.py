"""Training in bfloat16 loses no update: what is trained is float32, in memory, in checkpoints and in final/."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_runs import LORA, SPREAD, make_trainer
from two_processes import weights

from vsgrpo.errors import SetupError
from vsgrpo.families import model_shape
from vsgrpo.memory.fit import disk_need
from vsgrpo.modeling.bundle import base_model
from vsgrpo.training.distributed import low_precision
from vsgrpo.training.worker import train

HALF = ("model.dtype=bfloat16", "trainer.learning_rate=1e-6", "trainer.warmup_steps=0", "trainer.max_steps=1")
pytestmark = pytest.mark.integration
FROZEN = "model.freeze_vision=true"


def moved(final, start, of):
    """Return the share of numbers that are not what training began with: `start`, in the type it was loaded in."""
    names = [name for name in final if of in name]
    changed = sum((final[name] != start[name].to(final[name].dtype)).sum().item() for name in names)
    return changed / sum(final[name].numel() for name in names)


def config_json(config, name="config.json"):
    return json.loads((Path(config.run.dir) / "final" / name).read_text())


@pytest.mark.parametrize(
    ("method", "tower"),
    [("sft", True), ("grpo", False), ("dpo", False)],
)
def test_small_updates_count_on_one_process(method, tower, make_config, tiny_folder):
    """A step of 1e-6 moved 0.3 % of bfloat16 weights."""
    more = (SPREAD, "trainer.beta=0.01") if method == "grpo" else ()
    config = make_config(method, *HALF, f"model.freeze_vision={not tower}", *more)
    assert train(config) == 0
    final, start = weights(config.run.dir), weights(tiny_folder, ".")
    assert {tensor.dtype for tensor in final.values()} == {torch.float32}
    assert config_json(config)["dtype"] == "float32"  # what stock code loads it in
    assert moved(final, start, "layers.") > 0.98
    assert moved(final, start, "visual.") > 0.9 if tower else moved(final, start, "visual.") == 0
    written = sum(file.stat().st_size for file in (Path(config.run.dir) / "final").glob("*.safetensors"))
    assert written == pytest.approx(disk_need(config, model_shape(str(tiny_folder))).final, rel=0.02)
    first = json.loads((Path(config.run.dir) / "log.jsonl").read_text().splitlines()[0])
    # The frozen copy is computed as the policy is: nothing lies between them before the first update.
    assert first.get("kl", 0.0) == 0.0 and first.get("rewards/margins", 0.0) == 0.0


def test_a_resume_keeps_what_bfloat16_cannot_hold(make_config):
    words = (*HALF, FROZEN, "trainer.max_steps=2", "trainer.lr_scheduler_type=constant", "trainer.warmup_steps=0")
    whole = make_config("sft", *words)
    assert train(whole) == 0
    again = make_config("sft", *words, name="again")
    shutil.copytree(whole.run.dir, again.run.dir, dirs_exist_ok=True)
    for name in ("checkpoint-2", "final"):
        shutil.rmtree(Path(again.run.dir) / name)
    assert train(again, resume=True) == 0
    one, two = weights(whole.run.dir), weights(again.run.dir)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_adapters_of_a_bfloat16_base_are_float32_and_so_is_what_is_merged(make_config, tiny_folder):
    words = (*HALF, *LORA, "trainer.learning_rate=1e-4", "model.merge_on_save=true")
    config = make_config("sft", *words)
    assert train(config) == 0
    adapter = weights(config.run.dir, "checkpoint-1")
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
    final, start = weights(config.run.dir), weights(tiny_folder, ".")
    name = "layers.0.mlp.down_proj"
    (a,), (b,) = ([t for key, t in adapter.items() if f"{name}.lora_{part}" in key] for part in "AB")
    (key,) = (key for key in final if key.endswith(f"{name}.weight") and "visual" not in key)
    settings = json.loads((Path(config.run.dir) / "checkpoint-1" / "adapter_config.json").read_text())
    expected = start[key].bfloat16().float() + settings["lora_alpha"] / settings["r"] * b @ a
    assert b.abs().max() > 0
    torch.testing.assert_close(final[key], expected, rtol=0, atol=1e-8)
    assert config_json(config)["dtype"] == "float32"


@pytest.mark.parametrize("words", [(FROZEN,), LORA], ids=["full", "lora"])
def test_moments_and_gradients_are_float32_and_what_casts_them_is_refused(words, make_config):
    trainer = make_trainer(make_config("sft", *HALF, *words))
    held = {parameter.dtype for parameter in base_model(trainer.model).parameters() if not parameter.requires_grad}
    assert held == {torch.bfloat16 if words == LORA else torch.float32}
    assert trainer.args.bf16 is (words != LORA)
    trainer.train()
    moments = {value.dtype for state in trainer.optimizer.state.values() for value in state.values()}
    assert moments == {torch.float32} and low_precision(trainer.model) is None
    cast = make_trainer(make_config("sft", *HALF, *words))
    cast.model.bfloat16()
    with pytest.raises(SetupError, match=r"trained in another type than float32"):
        cast.train()
