"""Under autocast a rollout reads the adapter as bfloat16 copies: the same bits, fewer launches, weights untouched."""

import contextlib
import dataclasses

import pytest
import torch
from peft.tuners.lora import LoraLayer
from tiny_inputs import make_video, randomize_adapter

from fake_gpu import CountKernels
from vsgrpo.modeling import rollout as rollout_module
from vsgrpo.modeling.load import LoraSettings, load
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.vision import FeatureStore

VIDEO = make_video(0)
QUESTIONS = ["How many chair(s) are in this room?", "Which?"]
SAMPLING = Sampling(seed=5, step=2, max_new_tokens=9, eos_ids=tuple(range(20, 120)))


class Drawn:
    """A bfloat16 model with a float32 adapter, and what a rollout under autocast does with it."""

    def __init__(self, folder, ask) -> None:
        bundle = load(folder, tune="lora", lora=LoraSettings(r=4, alpha=8), dtype="bfloat16", offline=True)
        randomize_adapter(bundle.model)
        self.model = bundle.model
        self.features = FeatureStore(bundle).features([VIDEO])
        self.prompts = [ask(text, VIDEO) for text in QUESTIONS]
        self.keys = [(text, g) for text in QUESTIONS for g in range(5)]

    def draw(self, layout="plain", autocast=True, **options):
        sampling = dataclasses.replace(SAMPLING, **options)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return rollout(self.model, self.prompts, self.features, self.keys, sampling, layout=layout)

    def matrices(self):
        """Return the module of each of LoRA's matrices."""
        layers = [layer for layer in self.model.modules() if isinstance(layer, LoraLayer)]
        return [matrix for layer in layers for matrix in (*layer.lora_A.values(), *layer.lora_B.values())]


@pytest.fixture
def drawn(tiny_folder, ask):
    return Drawn(tiny_folder, ask)


@pytest.mark.both_families
@pytest.mark.parametrize("layout", ["plain", "tree"])
def test_logits_and_tokens_are_those_of_autocast(drawn, layout, monkeypatch):
    seen = []
    draw = rollout_module.draw_tokens
    monkeypatch.setattr(rollout_module, "draw_tokens", lambda logits, *rest: seen.append(logits) or draw(logits, *rest))
    tokens, logits = drawn.draw(layout), seen[:]
    seen.clear()
    monkeypatch.setattr(rollout_module, "_adapters_in_bfloat16", lambda *_: contextlib.nullcontext())
    assert drawn.draw(layout) == tokens and len({len(line) for line in tokens}) > 2
    assert len(seen) == len(logits) and all(torch.equal(a, b) for a, b in zip(seen, logits, strict=True))
    with torch.no_grad():  # the adapter has a say in them
        for matrix in drawn.matrices():
            matrix.weight.zero_()
    assert drawn.draw(layout) != tokens


def test_each_layer_launches_two_casts_less(drawn, monkeypatch):
    def kernels(count):
        with CountKernels() as counted:
            drawn.draw(max_new_tokens=count, eos_ids=())
        return counted.count

    with_copies = kernels(6) - kernels(5)
    monkeypatch.setattr(rollout_module, "_adapters_in_bfloat16", lambda *_: contextlib.nullcontext())
    # 2 layers with 7 adapted products; each casts its input to float32 and, for its own product, back
    assert kernels(6) - kernels(5) - with_copies == 2 * 7 * 2


@pytest.mark.parametrize("autocast", [True, False])
def test_the_weights_themselves_are_put_back(drawn, autocast, monkeypatch):
    before = {matrix: (matrix.weight, matrix.weight.clone()) for matrix in drawn.matrices()}
    types = set()

    def fail(*_):
        types.update(matrix.weight.dtype for matrix in drawn.matrices())
        raise KeyboardInterrupt

    monkeypatch.setattr(rollout_module, "draw_tokens", fail)
    with pytest.raises(KeyboardInterrupt):
        drawn.draw(autocast=autocast)
    assert types == {torch.bfloat16 if autocast else torch.float32}
    for matrix, (weight, values) in before.items():
        assert matrix.weight is weight and torch.equal(weight, values) and weight.requires_grad


def test_weights_that_an_engine_shards_are_left_alone(drawn, monkeypatch):
    sharded, whole = drawn.matrices()[:2]
    sharded.weight.ds_id = 1  # as ZeRO-3 marks them
    with torch.autocast("cpu", torch.bfloat16), rollout_module._adapters_in_bfloat16(drawn.model, torch.device("cpu")):
        assert (sharded.weight.dtype, whole.weight.dtype) == (torch.float32, torch.bfloat16)
