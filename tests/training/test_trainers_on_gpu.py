"""One optimizer step of each trainer that believes in a GPU (`fake_gpu.py`): no tensor is left on the CPU."""

from collections import Counter

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from tiny_runs import LORA, SPREAD, make_trainer

from fake_gpu import CUDA, FakeGpu
from vsgrpo.errors import ConfigError
from vsgrpo.modeling.bundle import language_model

pytestmark = pytest.mark.integration
FULL = ("model.tune=full", "model.freeze_vision=false")
PER_CALL = ("modeling/rollout.py", "modeling/decode_graph.py", "modeling/vision.py", "modeling/save.py")
"""Where the host waits for each token, video or weight; tests/modeling bounds the first."""
DEEPSTACK = "qwen3_vl/modeling_qwen3_vl.py"
"""Where the library waits in each forward of Qwen3-VL: it adds the features of each level by a mask."""
MOST_WAITS = {"grpo": 50, "sft": 15, "dpo": 20}
"""Waits in the rest of a step: most are TRL's metrics. A new one in a loop goes beyond."""
METHODS = {
    "grpo": ("grpo", *LORA, SPREAD, "trainer.beta=0.01"),
    "grpo_full": ("grpo", *FULL, SPREAD, "trainer.beta=0.01"),
    "grpo_plain": ("grpo", *LORA, SPREAD, "trainer.shared_prefix=off"),
    "grpo_graph": ("grpo", *LORA, SPREAD, "trainer.decode_graph=true"),
    "sft": ("sft", *LORA),
    "dpo": ("dpo", *LORA),
}


def put_on_gpu(trainer, fake, monkeypatch):
    """Move all models of a trainer that was built on the CPU, and let accelerate believe in the GPU."""
    for state in (AcceleratorState, PartialState):
        monkeypatch.setitem(state._shared_state, "device", CUDA)
    trainer.args.__dict__["_setup_devices"] = CUDA
    for value in vars(trainer).values():
        if isinstance(value, torch.nn.Module):
            fake.put(value)


@pytest.mark.both_families
@pytest.mark.parametrize("name", METHODS)
def test_a_step_stays_on_the_gpu(make_config, monkeypatch, name):
    method, *settings = METHODS[name]
    trainer = make_trainer(make_config(method, *settings, "trainer.max_steps=1", "trainer.warmup_steps=0"))
    layers = getattr(language_model(trainer.model).config, "layer_types", None) or ()
    if name == "grpo_graph" and "linear_attention" in layers:
        with pytest.raises(ConfigError, match="keeps states that have no fixed shape"):
            trainer.train()
        return
    fake = FakeGpu()
    put_on_gpu(trainer, fake, monkeypatch)
    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    before = [weight.detach().clone() for weight in trained]
    with fake:
        trainer.train()
    assert not fake.mismatches
    moved = [bool((a != b).any()) for a, b in zip(before, trained, strict=True)]
    assert any(moved) and trainer.state.global_step == 1
    waits = {(what, line): n for (what, line), n in fake.waits.items() if DEEPSTACK not in line}
    elsewhere = Counter({(what, line): n for (what, line), n in waits.items() if not line.startswith(PER_CALL)})
    assert elsewhere.total() <= MOST_WAITS[method], elsewhere.most_common()
