"""The language head in chunks against the log-softmax of all logits at once."""

import math

import pytest
import torch
from tiny_inputs import make_video
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

from vsgrpo.modeling.bundle import base_model
from vsgrpo.modeling.head import score_hidden
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.tree import build_trees
from vsgrpo.modeling.vision import FeatureStore


def test_temperature_and_entropy_by_hand():
    # logits [0, ln 3] at temperature 1: probabilities 1/4 and 3/4; at temperature 2: ln-odds ln(3)/2, odds sqrt(3)
    logits, head = torch.tensor([[0.0, math.log(3)]]), torch.eye(2)
    picked, entropy = score_hidden(logits, head, torch.tensor([1]), 1.0, True)
    assert picked.item() == pytest.approx(math.log(0.75))
    assert entropy.item() == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))
    cooler, nothing = score_hidden(logits, head, torch.tensor([1]), 2.0, False)
    assert nothing.item() == 0 and cooler.item() == pytest.approx(math.log(3**0.5 / (1 + 3**0.5)))


def work(dtype, trained=True):
    """Return 7 rows of width 16 whose logits reach +-15, a head of 3000 words, targets, and what weighs the scores."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 16, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(3000, 16, generator=generator).to(dtype).requires_grad_(trained)
    return hidden, head, torch.randint(0, 3000, (7,), generator=generator), torch.linspace(-1, 2, 7)


def at_once(hidden, head, targets, temperature):
    log_probs = (linear(hidden, head).float() / temperature).log_softmax(-1)
    return log_probs.gather(-1, targets[:, None])[:, 0], -(log_probs.exp() * log_probs).sum(-1)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])  # 3: the last chunk is short
def test_chunks_score_and_differentiate_like_all_logits_at_once(chunk):
    hidden, head, targets, weights = work(torch.float32)
    truth, their_entropy = at_once(hidden, head, targets, 0.7)
    theirs = torch.autograd.grad((truth * weights).sum(), (hidden, head))
    scores, entropy = score_hidden(hidden, head, targets, 0.7, True, chunk)
    ours = torch.autograd.grad((scores * weights).sum(), (hidden, head))
    torch.testing.assert_close(scores, truth, atol=5e-6, rtol=0)
    torch.testing.assert_close(entropy, their_entropy, atol=2e-5, rtol=0)
    assert not entropy.requires_grad
    for our, their in zip(ours, theirs, strict=True):
        assert (our - their).abs().max() < 1e-6 * their.abs().max()


@pytest.mark.parametrize("half", ["weights", "autocast"])
def test_bfloat16_rounds_where_a_linear_layer_rounds(half):
    hidden, head, targets, weights = work(torch.bfloat16 if half == "weights" else torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half == "autocast"):
        truth, _ = at_once(hidden, head, targets, 1.0)
        scores, _ = score_hidden(hidden, head, targets, 1.0, False, 2)
    torch.testing.assert_close(scores, truth, atol=5e-6, rtol=0)
    theirs = torch.autograd.grad((truth * weights).sum(), (hidden, head))
    ours = torch.autograd.grad((scores * weights).sum(), (hidden, head))
    for our, their in zip(ours, theirs, strict=True):
        assert our.dtype == their.dtype  # the products' operands have 8 bits: 2^-8 = 0.4 % each
        assert (our.float() - their.float()).norm() < 0.01 * their.float().norm()


class LargestTensor(TorchDispatchMode):
    """Notes the most elements of a tensor that an operator makes."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not func.is_view:
            self.most = max(self.most, out.numel())
        return out


@pytest.mark.parametrize("trained", [False, True])
def test_no_tensor_is_larger_than_the_head_or_a_chunk_of_logits(trained):
    hidden, head, targets, _ = work(torch.float32, trained)
    with LargestTensor() as seen:
        score_hidden(hidden, head, targets, 1.0, True, 2)[0].sum().backward()
    assert seen.most == (3000 * 16 if trained else 2 * 3000)  # not 7 x 3000 logits


def test_a_pass_calls_the_head_once_and_leaves_it_as_it_was(lora, ask):
    # Engines gather sharded weights around each call of the head: chunks, whose number differs, must not show.
    video = make_video(0)
    features, head = FeatureStore(lora).features([video]), base_model(lora.model).get_output_embeddings()
    calls = []
    hook = head.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    trees = build_trees([ask("How many chairs?", video)], [[[40, 41, 42], [50]]], share=True)
    logps(lora.model, trees, features, layout="tree", chunk=1)
    hook.remove()
    assert calls == [4]
    assert lora.model(input_ids=torch.tensor([[5, 6]])).logits.shape[:2] == (1, 2)
    with pytest.raises(TypeError):
        logps(lora.model, trees, features, layout="tree", temperature=None)  # type: ignore[arg-type]
    assert "forward" not in vars(head)
