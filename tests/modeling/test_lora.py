"""`ShortLora` gives PEFT's bits, forward and back, in fewer launches; what is not plain goes PEFT's way."""

import contextlib
import dataclasses

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners import lora
from tiny_inputs import make_video, randomize_adapter
from torch import nn

from fake_gpu import CountKernels
from vsgrpo.modeling import rollout as rollout_module
from vsgrpo.modeling.load import LoraSettings, load
from vsgrpo.modeling.lora import ShortLora, modules_of, use_short_lora
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.vision import FeatureStore

VIDEO = make_video(0)
QUESTIONS = ["How many chair(s) are in this room?", "Which?"]
SAMPLING = Sampling(seed=5, step=2, max_new_tokens=9, eos_ids=tuple(range(20, 120)))


@contextlib.contextmanager
def pefts_way(model):
    """Let the layers be PEFT's own meanwhile."""
    layers = [module for module in model.modules() if isinstance(module, ShortLora)]
    assert layers
    for layer in layers:
        layer.__class__ = lora.Linear  # type: ignore
    yield
    for layer in layers:
        layer.__class__ = ShortLora


class Drawn:
    """A bfloat16 model with a float32 adapter, and a rollout of it under autocast."""

    def __init__(self, folder, ask) -> None:
        bundle = load(folder, tune="lora", lora=LoraSettings(r=4, alpha=8), dtype="bfloat16", offline=True)
        randomize_adapter(bundle.model)
        self.model = bundle.model
        self.features = FeatureStore(bundle).features([VIDEO])
        self.prompts = [ask(text, VIDEO) for text in QUESTIONS]
        self.keys = [(text, g) for text in QUESTIONS for g in range(5)]

    def draw(self, layout="plain", **options):
        sampling = dataclasses.replace(SAMPLING, **options)
        with torch.autocast("cpu", torch.bfloat16):
            return rollout(self.model, self.prompts, self.features, self.keys, sampling, layout=layout)


@pytest.fixture
def drawn(tiny_folder, ask):
    return Drawn(tiny_folder, ask)


@pytest.mark.both_families
@pytest.mark.parametrize("layout", ["plain", "tree"])
def test_logits_and_tokens_of_a_rollout_are_those_of_peft(drawn, layout, monkeypatch):
    seen = []
    draw = rollout_module.draw_tokens
    monkeypatch.setattr(rollout_module, "draw_tokens", lambda logits, *rest: seen.append(logits) or draw(logits, *rest))
    tokens, logits = drawn.draw(layout), seen[:]
    seen.clear()
    with pefts_way(drawn.model):
        assert drawn.draw(layout) == tokens and len({len(line) for line in tokens}) > 2
    assert len(seen) == len(logits) and all(torch.equal(a, b) for a, b in zip(seen, logits, strict=True))
    with torch.no_grad():  # the adapter has a say in them
        for name, weight in drawn.model.named_parameters():
            if "lora_B" in name:
                weight.zero_()
    assert drawn.draw(layout) != tokens


def test_a_token_takes_three_launches_less_in_each_layer(drawn):
    def kernels(count):
        with CountKernels() as counted:
            drawn.draw(max_new_tokens=count, eos_ids=())
        return counted.count

    short = kernels(6) - kernels(5)
    with pefts_way(drawn.model):
        # 2 layers with 7 adapted products; each casts its input to float32 and back, and multiplies by the scale
        assert kernels(6) - kernels(5) - short == 2 * 7 * 3


@pytest.mark.parametrize("mode", ["training", "eval"])
def test_a_rollout_leaves_every_module_in_its_mode(drawn, mode):
    drawn.model.train(mode == "training")
    kept = drawn.model.base_model.model.model.visual.eval()  # a part that its owner holds in eval mode
    before = {name: module.training for name, module in drawn.model.named_modules()}
    drawn.draw()
    assert {name: module.training for name, module in drawn.model.named_modules()} == before
    assert not any(module.training for module in kept.modules())


class Layer:
    """Two linear layers in a row with adapters."""

    def __init__(self, dtype=torch.float32, **options) -> None:
        torch.manual_seed(0)
        inner = nn.Sequential()
        inner.add_module("one", nn.Linear(6, 8, dtype=dtype))
        inner.add_module("two", nn.Linear(8, 6, bias=False, dtype=dtype))
        self.config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["one", "two"], **options})
        self.model = get_peft_model(inner, self.config)
        self.randomize()
        use_short_lora(self.model)
        self.input = torch.randn(3, 5, 6, dtype=dtype)

    def randomize(self) -> None:
        for name, weight in self.model.named_parameters():
            if "lora_" in name:
                nn.init.normal_(weight)

    def results(self, autocast=False):
        """Return output and gradients."""
        torch.manual_seed(7)  # of dropout
        self.model.zero_grad()
        given = self.input.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = self.model(given)
        out.square().sum().backward()
        grads = [weight.grad.clone() for weight in self.model.parameters() if weight.grad is not None]
        return [out.detach(), given.grad, *grads]

    def equals_peft(self, **options):
        ours = self.results(**options)
        with pefts_way(self.model):
            theirs = self.results(**options)
        return len(ours) == len(theirs) and all(
            a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)
        )


@pytest.mark.parametrize("alpha", [8, 4, 6, -8])  # scales 2, 1, 1.5 (whose product rounds), -2
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [True, False])
def test_values_and_gradients_are_bit_equal_to_peft(alpha, dtype, autocast):
    layer = Layer(dtype, lora_alpha=alpha)
    assert layer.equals_peft(autocast=autocast) and len(layer.results()) == 2 + 4


def test_names_and_weights_stay():
    layer = Layer()
    names = {name: weight.data_ptr() for name, weight in layer.model.named_parameters()}
    with pefts_way(layer.model):
        assert {name: weight.data_ptr() for name, weight in layer.model.named_parameters()} == names
    merged = layer.model.merge_and_unload()
    assert not any(isinstance(module, lora.LoraLayer) for module in merged.modules())


def calls_of_peft(layer, monkeypatch):
    """Count calls that go PEFT's way."""
    calls, forward = [], lora.Linear.forward
    monkeypatch.setattr(lora.Linear, "forward", lambda self, *rest, **named: calls.append(1) or forward(self, *rest))
    layer.results()
    return len(calls)


def test_a_plain_adapter_never_goes_pefts_way(monkeypatch):
    assert calls_of_peft(Layer(), monkeypatch) == 0


@pytest.mark.parametrize("case", ["dropout", "variant", "bias", "merged", "two adapters", "sharded"])
def test_what_is_not_plain_goes_pefts_way(case, monkeypatch):
    options = {"dropout": {"lora_dropout": 0.5}, "variant": {"use_dora": True}, "bias": {"lora_bias": True}}
    layer = Layer(**options.get(case, {}))
    layer.model.train()
    if case == "merged":
        layer.model.merge_adapter()  # type: ignore
    if case == "two adapters":
        layer.model.add_adapter("second", layer.config)
        layer.model.base_model.set_adapter(["default", "second"])
        use_short_lora(layer.model)
        layer.randomize()
    if case == "sharded":
        for weight in layer.model.parameters():
            weight.ds_id = 1  # type: ignore  # as ZeRO-3 marks them
    assert layer.equals_peft()
    assert calls_of_peft(layer, monkeypatch) == 2


def test_dropout_is_nothing_in_eval_mode(monkeypatch):
    layer = Layer(lora_dropout=0.5)
    layer.model.eval()
    assert layer.equals_peft() and calls_of_peft(layer, monkeypatch) == 0


def test_the_modules_are_those_that_torch_names(drawn):
    assert set(modules_of(drawn.model)) == set(drawn.model.modules())
