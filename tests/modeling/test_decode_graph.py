"""Steps of one shape draw the tokens of the ordinary loop; on a device they need neither a wait nor a copy."""

import dataclasses

import pytest
import torch
from tiny_inputs import make_video
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from fake_gpu import FakeGpu, put
from vsgrpo.errors import ConfigError
from vsgrpo.modeling import decode_graph
from vsgrpo.modeling.bundle import vision_token_ids
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.vision import FeatureStore

VIDEOS = [make_video(0), make_video(1, height=84)]
QUESTIONS = [("How many chair(s) are in this room?", 0), ("What is the size of this room?", 0), ("Which?", 1)]
GROUP = 7


@pytest.fixture(scope="module")
def prompts(ask):
    return [ask(text, VIDEOS[video]) for text, video in QUESTIONS]


@pytest.fixture
def features(tiny):
    return FeatureStore(tiny).features(VIDEOS)


@pytest.fixture(scope="module")
def ragged(tiny):
    """Many tokens end a completion: lengths from 1 to 21."""
    ends = tuple(range(20, 60))
    return Sampling(seed=5, step=2, max_new_tokens=21, eos_ids=ends, suppress=vision_token_ids(tiny.model))


KEYS = [(text, g) for text, _ in QUESTIONS for g in range(GROUP)]


@pytest.mark.both_families
@pytest.mark.parametrize("layout", ["plain", "tree"])
@pytest.mark.parametrize("greedy", [False, True])
def test_fixed_steps_draw_the_tokens_of_the_ordinary_loop(tiny, prompts, features, ragged, layout, greedy, monkeypatch):
    sampling = dataclasses.replace(ragged, greedy=greedy)
    if "linear_attention" in (getattr(tiny.model.config.text_config, "layer_types", None) or ()):
        with pytest.raises(ConfigError, match="keeps states that have no fixed shape"):
            rollout(tiny.model, prompts, features, KEYS, sampling, layout=layout, graph=True)
        return
    expected = rollout(tiny.model, prompts, features, KEYS, sampling, layout=layout)
    shapes = set()
    advance = decode_graph.FixedStep._advance

    def watch(step):
        shapes.add(tuple(step._ids.shape))
        return advance(step)

    monkeypatch.setattr(decode_graph.FixedStep, "_advance", watch)
    for tokens_per_look in (1, 4, 8):
        drawn = rollout(
            tiny.model,
            prompts,
            features,
            KEYS,
            sampling,
            layout=layout,
            tokens_per_look=tokens_per_look,
            graph=True,
        )
        assert drawn == expected
    if not greedy:
        lengths = sorted(map(len, expected))
        assert lengths[0] <= 2 and lengths[-1] == 21 and len(set(lengths)) > 5
        assert 1 < len(shapes) < 12  # completions moved together, though not at each end


@pytest.mark.parametrize("layout", ["plain", "tree"])
def test_a_fixed_step_neither_waits_nor_copies(tiny_folder, prompts, features, ragged, layout, monkeypatch):
    from vsgrpo.modeling.load import load

    model = load(tiny_folder, tune="none", offline=True).model
    fake, steps = FakeGpu(), []
    given = {key: dataclasses.replace(found, tensor=put(found.tensor)) for key, found in features.items()}
    advance = decode_graph.FixedStep._advance

    def alone(step):
        """A graph can be recorded of what the host asks for without waiting, from tensors that stay where they are."""
        fake.clear()
        kept = [step._ids, step._positions, step._columns, step._allowed, *_buffers(step)]
        before = [tensor.data_ptr() for tensor in kept]
        logits = advance(step)
        after = [step._ids, step._positions, step._columns, step._allowed, *_buffers(step)]
        steps.append((fake.waits.total(), fake.copies.total(), before == [tensor.data_ptr() for tensor in after]))
        return logits

    monkeypatch.setattr(decode_graph.FixedStep, "_advance", alone)
    with fake:
        fake.put(model)
        drawn = rollout(model, prompts, given, KEYS, ragged, layout=layout, graph=True)
    assert len(steps) >= 20 and set(steps) == {(0, 0, True)}
    assert drawn == rollout(model, prompts, given, KEYS, ragged, layout=layout)


def _buffers(step):
    return [part for layer in step._cache.layers for part in (layer.keys, layer.values)]


def test_what_a_mask_hides_is_a_number(tiny, prompts, features, ragged, monkeypatch):
    # a weight of 0 times what memory happens to hold may be NaN
    widened, hidden = decode_graph.FixedLayer._widened, []

    def look(part, rows, width):
        wide = widened(part, rows, width)
        hidden.append(wide[:, :, part.shape[2] :])
        return wide

    monkeypatch.setattr(decode_graph.FixedLayer, "_widened", staticmethod(look))
    monkeypatch.setattr(decode_graph.FixedStep, "_advance", lambda step: step.stop)
    with pytest.raises(AttributeError, match="stop"):
        rollout(tiny.model, prompts, features, KEYS, ragged, graph=True)
    # keys and values of 2 layers; 21 tokens, of which the last is fed to nobody
    assert len(hidden) == 4 and all(part.shape[2] == 20 and not part.any() for part in hidden)


def test_a_cache_of_another_kind_is_refused(tiny):
    cache = DynamicCache()
    cache.layers = [DynamicLayer()]
    seen = torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(ConfigError, match=r"trainer\.decode_graph=true: this model keeps states"):
        decode_graph.FixedStep(tiny.model, cache, [0], torch.zeros(1), seen, 1)
