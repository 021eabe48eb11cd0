"""Where the model is on a GPU nothing of ours stays on the CPU; how often the host waits is bounded.

The GPU is pretended (`fake_gpu.py`): what runs inside a torch call, Triton and NCCL are not reached.
"""

import dataclasses
import functools

import pytest
import torch
from tiny_inputs import make_video, randomize_adapter

from fake_gpu import CountKernels, DeviceMismatch, FakeGpu, put
from vsgrpo.modeling.bundle import use_gradient_checkpointing
from vsgrpo.modeling.load import LoraSettings, load
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.prompt import encode_prompt
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.tree import Prompt, build_trees
from vsgrpo.modeling.vision import FeatureStore

VIDEOS = (make_video(0), make_video(1, height=84, width=140, frames=4))
"""The second has windows that Qwen2.5-VL's tower must cut at the edge."""
QUESTIONS = ("How many chairs are in the room?", "How many doors are in the room?", "How large is it?")
COMPLETIONS = [[[5, 6, 7], [8, 9]], [[5], [6, 6, 6, 6]], [[7, 8], [9]]]
SAMPLING = Sampling(seed=0, step=0, max_new_tokens=4, eos_ids=(), suppress=(0,))


class OnFakeGpu:
    """A model that claims to be on a GPU, two videos' features, and three questions about them.

    `drawn` are the tokens of some layouts before it is there.
    """

    def __init__(self, bundle, layouts=()) -> None:
        self.bundle, self.model = bundle, bundle.model
        self.prompts = [
            Prompt(tuple(encode_prompt(self.bundle, text, [video.medium])), (video.key,))
            for text, video in zip(QUESTIONS, (VIDEOS[0], VIDEOS[0], VIDEOS[1]), strict=True)
        ]
        self.keys = [(text, 0) for text in QUESTIONS]
        self.drawn = {layout: self.draw(layout, self.features()) for layout in layouts}  # on the CPU
        self.fake = FakeGpu()
        with self.fake:
            self.fake.put(self.model)
        self.given = {
            key: dataclasses.replace(features, tensor=put(features.tensor.detach()))
            for key, features in self.features().items()
        }
        self.fake.clear()

    def features(self):
        return FeatureStore(self.bundle).features(VIDEOS)

    def draw(self, layout, features, **options):
        sampling = dataclasses.replace(SAMPLING, **options)
        return rollout(self.model, self.prompts, features, self.keys, sampling, layout=layout)

    def scores(self, layout, attention="auto", **options):
        trees = build_trees(self.prompts, COMPLETIONS, share=layout == "tree")
        rows = logps(self.model, trees, self.given, layout=layout, attention=attention, entropy=True, **options)
        return torch.cat([row for row, _ in rows])


@pytest.fixture
def gpu(lora):
    return OnFakeGpu(lora)


def test_the_pretence_refuses_what_cuda_refuses():
    with FakeGpu() as fake:
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        assert there.device.type == "cuda" and (there * 2).device.type == "cuda" and here.device.type == "cpu"
        refused = (
            lambda: there + here,
            lambda: there.numpy(),
            lambda: here[there.long()],
            lambda: torch.where(here > 0, there, there),
            lambda: torch.cat([there, here]),
            lambda: torch.nn.functional.linear(there, here[None]),
        )
        for call in refused:
            with pytest.raises(DeviceMismatch):
                call()
        fake.clear()
        assert float((there * torch.tensor(2.0)).sum()) == 6  # a CPU scalar is taken; float() waits
        assert there[torch.tensor([0, 2])].sum() == 2  # so is a CPU index: it is copied; the comparison waits
        assert (sum(fake.waits.values()), sum(fake.copies.values())) == (2, 1)


@pytest.mark.both_families
@pytest.mark.parametrize("layout", ["plain", "tree"])
def test_a_rollout_stays_on_the_gpu_and_draws_the_tokens_of_the_cpu(lora, layout):
    gpu = OnFakeGpu(lora, layouts=(layout,))
    with gpu.fake:
        assert gpu.draw(layout, gpu.given) == gpu.drawn[layout]
    assert not gpu.fake.mismatches


@pytest.mark.both_families
@pytest.mark.parametrize("kernel", ["plain", "dense", "block", "split"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_scores_and_their_gradients_stay_on_the_gpu(gpu, kernel, checkpointing):
    if checkpointing:
        use_gradient_checkpointing(gpu.model)
    layout, attention = ("plain", "auto") if kernel == "plain" else ("tree", kernel)
    optimizer = torch.optim.AdamW([weight for weight in gpu.model.parameters() if weight.requires_grad])
    with gpu.fake:
        with torch.no_grad():
            gpu.scores(layout, attention, adapter=False)
        scores = gpu.scores(layout, attention)
        assert scores.device.type == "cuda"
        scores.mean().backward()
        optimizer.step()
    assert not gpu.fake.mismatches


@pytest.mark.parametrize("checkpointing", [False, True])
def test_merged_scores_and_their_gradients_stay_on_the_gpu(tiny_folder, checkpointing):
    # a GPU's flash attention takes nothing wider
    bundle = load(tiny_folder, tune="lora", lora=LoraSettings(r=4, alpha=8), dtype="bfloat16", offline=True)
    randomize_adapter(bundle.model)
    gpu = OnFakeGpu(bundle)
    if checkpointing:
        use_gradient_checkpointing(gpu.model)
    with gpu.fake:
        with torch.no_grad():
            plain = gpu.scores("plain")
        scores = gpu.scores("tree", "merge")
        scores.mean().backward()
        waits = gpu.fake.waits.total()
        assert (scores - plain).abs().mean() < 0.05
    assert not gpu.fake.mismatches and waits <= 4, gpu.fake.waits  # 2 a pass


@pytest.mark.both_families
def test_the_tower_stays_on_the_gpu(gpu):
    with gpu.fake:
        features = gpu.features()
        assert {found.tensor.device.type for found in features.values()} == {"cuda"}
    assert not gpu.fake.mismatches


MOST_KERNELS = {"plain": 176, "tree": 200}
"""Of one token of the tiny model: 2 layers, head, noise and draw: counted, rounded up by less than a norm."""


@pytest.mark.parametrize("layout", ["plain", "tree"])
def test_what_a_decoded_token_costs_the_host(gpu, layout):
    found = []
    for count in (8, 40):  # 4 looks more
        gpu.fake.clear()
        with gpu.fake, CountKernels() as kernels:
            gpu.draw(layout, gpu.given, max_new_tokens=count)
        found.append((gpu.fake.waits.total(), gpu.fake.copies.total(), kernels.count))
    waits, copies, launched = (after - before for before, after in zip(*found, strict=True))
    # a look fetches the tokens, and sends the noise keys of the next eight
    assert (waits, copies) == (4, 4), (gpu.fake.waits, gpu.fake.copies)
    assert launched / 32 <= MOST_KERNELS[layout]


@pytest.mark.parametrize("layout", ["plain", "tree"])
def test_how_often_the_host_waits_in_each_phase(gpu, layout):
    with torch.no_grad():
        reference = functools.partial(gpu.scores, layout, adapter=False)
        phases = {
            "vision": (gpu.features, 2 * 5),  # two videos
            "prefill": (lambda: gpu.draw(layout, gpu.given, max_new_tokens=1), 4),
            "reference": (reference, 2),
        }
        for name, (run, most) in phases.items():
            gpu.fake.clear()
            with gpu.fake:
                run()
            assert gpu.fake.waits.total() <= most, (name, gpu.fake.waits)
    gpu.fake.clear()
    with gpu.fake:
        gpu.scores(layout).mean().backward()
    assert gpu.fake.waits.total() <= 2, gpu.fake.waits


def test_what_a_forgotten_device_looks_like(gpu, monkeypatch):
    from vsgrpo.modeling import head as module

    good = module.score_hidden
    monkeypatch.setattr(module, "score_hidden", lambda h, w, t, *rest: good(h, w, t.as_subclass(torch.Tensor), *rest))
    with gpu.fake, pytest.raises(DeviceMismatch, match="gather"):
        gpu.scores("plain")
