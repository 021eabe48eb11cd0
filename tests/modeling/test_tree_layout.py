"""The tree layout against the plain one: scores, gradients, drawn tokens; and mutations that must be noticed."""

import dataclasses

import pytest
import torch
from tiny_inputs import make_video
from transformers import DynamicCache

from vsgrpo.errors import ConfigError
from vsgrpo.modeling import logps as logps_module
from vsgrpo.modeling import tree_masks
from vsgrpo.modeling.bundle import use_gradient_checkpointing, vision_token_ids
from vsgrpo.modeling.load import load
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.prompt import encode_prompt
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.tree import PREFIX, Prompt, build_trees, can_see
from vsgrpo.modeling.vision import FeatureStore

pytestmark = pytest.mark.both_families
KERNELS = ("dense", "block", "split", "merge")
A, B = make_video(0), make_video(1, height=84, seconds=30.0)
CHAIRS = "How many chair(s) are in this room?"
SIZE = "What is the size of this room (in square meters)?"

# (questions with their videos, completions): ragged groups, empty and one-token completions, trees of unequal prefixes
FORESTS = {
    "groups": (
        [(CHAIRS, A), (SIZE, A), ("Which?", A), (CHAIRS, B), (SIZE, B)],
        [[[40, 41, 42], [43], [44, 45]], [[46] * 5], [[47, 48], []], [[49], [50]], [[51, 52, 53]]],
    ),
    "one group": ([(CHAIRS, A)], [[[40, 41], [42], [43, 44, 45], [40, 41]]]),
    "pairs": ([(CHAIRS, A), (SIZE, A)], [[[40, 41], [42, 43]], [[44], [45, 46]]]),
    "single leaves": ([(CHAIRS, A), (SIZE, A), (CHAIRS, A)], [[[40, 41]], [[42]], [[43, 44, 45]]]),
}


def forest(ask, name, share=True):
    questions, completions = FORESTS[name]
    return build_trees([ask(text, video) for text, video in questions], completions, share=share)


def flat(results):
    return torch.cat([score for score, _ in results])


def loss_of(scores):
    return (scores * torch.arange(1, len(scores) + 1)).sum() / len(scores)


def gradients(bundle):
    found = {name: p.grad.clone() for name, p in bundle.model.named_parameters() if p.grad is not None}
    bundle.model.zero_grad()
    return found


def assert_equal_gradients(ours, theirs):
    assert ours.keys() == theirs.keys() and ours
    for name, gradient in ours.items():
        assert (gradient - theirs[name]).norm() <= 1e-4 * theirs[name].norm(), name


def set_checkpointing(bundle, kind):
    if kind == "non-reentrant":
        use_gradient_checkpointing(bundle.model)
    elif kind == "reentrant":
        bundle.model.gradient_checkpointing_enable({"use_reentrant": True})
        bundle.model.enable_input_require_grads()


@pytest.mark.parametrize(
    "checkpointing", ["off", "non-reentrant", pytest.param("reentrant", marks=pytest.mark.integration)]
)
@pytest.mark.parametrize("name", FORESTS)
def test_scores_and_gradients_equal_plain(lora, ask, name, checkpointing):
    features = FeatureStore(lora).features([A, B])
    trees = forest(ask, name)
    plain = logps(lora.model, trees, features, entropy=True)
    loss_of(flat(plain)).backward()
    expected = gradients(lora)
    set_checkpointing(lora, checkpointing)
    for kernel in KERNELS:
        ours = logps(lora.model, trees, features, entropy=True, layout="tree", attention=kernel)
        loss_of(flat(ours)).backward()
        assert_equal_gradients(gradients(lora), expected)
        for (score, entropy), (plain_score, plain_entropy) in zip(ours, plain, strict=True):
            torch.testing.assert_close(score, plain_score, atol=1e-5, rtol=0, msg=kernel)
            torch.testing.assert_close(entropy, plain_entropy, atol=1e-5, rtol=0, msg=kernel)


def test_reference_and_chunked_scores_equal_plain(lora, ask):
    features = FeatureStore(lora).features([A, B])
    trees = forest(ask, "groups")
    with torch.no_grad():
        for options in ({"adapter": False}, {"rows_per_pass": 1}, {"temperature": 0.5}):
            plain = logps(lora.model, trees, features, **options)
            for kernel in KERNELS:
                ours = logps(lora.model, trees, features, layout="tree", attention=kernel, **options)
                torch.testing.assert_close(flat(ours), flat(plain), atol=1e-5, rtol=0, msg=kernel)


def test_gradients_of_a_trained_tower_equal_plain(tiny_folder, ask):
    bundle = load(tiny_folder, tune="full", freeze_vision=False)
    found = []
    for layout in ("plain", "tree"):
        features = FeatureStore(bundle).features([A, B], grad=True)
        loss_of(flat(logps(bundle.model, forest(ask, "groups"), features, layout=layout))).backward()
        found.append(gradients(bundle))
    assert any("visual" in name for name in found[0])
    assert_equal_gradients(found[1], found[0])


def test_a_branch_before_or_inside_the_video_is_exact(tiny):
    prompts = [
        Prompt(tuple(encode_prompt(tiny, CHAIRS, [A.medium], system=system)), (A.key,))
        for system in ("Look.", "Look closely at it.")
    ]
    features = FeatureStore(tiny).features([A])
    trees = build_trees(prompts, [[[40, 41], [42]], [[43]]], share=True)
    assert len(trees) == 1 and tiny.processor.video_token_id not in trees[0].prefix
    inside = build_trees(prompts[:1], [[[40, 41], [42]]], share=True)[0]
    cut = inside.prefix.index(tiny.processor.video_token_id) + 5
    question = dataclasses.replace(inside.questions[0], token_ids=inside.prefix[cut:] + inside.questions[0].token_ids)
    trees.append(dataclasses.replace(inside, prefix=inside.prefix[:cut], questions=(question,)))
    with torch.no_grad():
        for kernel in KERNELS:
            ours = logps(tiny.model, trees, features, layout="tree", attention=kernel)
            torch.testing.assert_close(flat(ours), flat(logps(tiny.model, trees, features)), atol=1e-5, rtol=0)


def test_bfloat16_autocast_stays_within_its_own_rounding(lora, ask):
    features = FeatureStore(lora).features([A, B])
    trees = forest(ask, "groups")
    with torch.no_grad():
        exact = flat(logps(lora.model, trees, features))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            plain = flat(logps(lora.model, trees, features))
            ours = flat(logps(lora.model, trees, features, layout="tree"))
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the update's pass over what was just rolled out: ratios of 1
        again = flat(logps(lora.model, trees, features, layout="tree"))
    assert again.requires_grad and torch.equal(again, ours)
    rounding = (plain - exact).abs().max()
    assert rounding > 1e-4 and (ours - exact).abs().max() < 3 * rounding


def causal_only(question_q, leaf_q, question_k, leaf_k):
    return torch.ones(*question_q.shape, question_k.shape[-1], dtype=torch.bool)


def sibling_question_visible(question_q, leaf_q, question_k, leaf_k):
    return can_see(question_q, leaf_q, question_k, leaf_k) | (question_k == 0)[..., None, :]


def sibling_completion_visible(question_q, leaf_q, question_k, leaf_k):
    return can_see(question_q, leaf_q, question_k, leaf_k) | (leaf_k == 0)[..., None, :]


def blind_to_the_prefix(question_q, leaf_q, question_k, leaf_k):
    is_prefix = (question_k == PREFIX)[..., None, :] & (question_q != PREFIX)[..., :, None]
    return can_see(question_q, leaf_q, question_k, leaf_k) & ~is_prefix


@pytest.mark.parametrize(
    "mutant", [causal_only, sibling_question_visible, sibling_completion_visible, blind_to_the_prefix]
)
def test_a_wrong_mask_would_be_noticed(tiny, ask, monkeypatch, mutant):
    features = FeatureStore(tiny).features([A, B])
    trees = forest(ask, "groups")
    with torch.no_grad():
        plain = flat(logps(tiny.model, trees, features))
        monkeypatch.setattr(tree_masks, "can_see", mutant)
        wrong = flat(logps(tiny.model, trees, features, layout="tree", attention="dense"))
    assert (wrong - plain).abs().max() > 1e-2


def not_restarted(packed):
    return torch.arange(packed.ids.shape[1]).expand(3, len(packed.ids), -1)


def one_dimensional(packed):
    """Positions right for text, but the video's tokens counted up instead of laid on their grid."""
    positions = packed.positions.clone()
    width = packed.prefix_width
    positions[:, :, :width] = torch.arange(width)
    return positions


@pytest.mark.parametrize("mutant", [not_restarted, one_dimensional])
def test_wrong_positions_would_be_noticed(tiny, ask, monkeypatch, mutant):
    features = FeatureStore(tiny).features([A, B])
    trees = forest(ask, "groups")
    pack = logps_module.pack

    def mutated(*args, **kwargs):
        packed = pack(*args, **kwargs)
        return dataclasses.replace(packed, positions=mutant(packed))

    with torch.no_grad():
        plain = flat(logps(tiny.model, trees, features))
        monkeypatch.setattr(logps_module, "pack", mutated)
        wrong = flat(logps(tiny.model, trees, features, layout="tree"))
    assert (wrong - plain).abs().max() > 1e-2


def columns_computed(bundle, run) -> int:
    """Count the columns (rows x tokens) that go through the language model."""
    counted = []
    hook = bundle.model.model.language_model.layers[0].register_forward_pre_hook(
        lambda _, args: counted.append(args[0].shape[0] * args[0].shape[1])
    )
    run()
    hook.remove()
    return sum(counted)


def test_every_node_is_computed_once(tiny, ask):
    features = FeatureStore(tiny).features([A])
    trees = forest(ask, "one group")
    prompt_length = len(next(trees[0].prompts()).token_ids)
    with torch.no_grad():
        plain = columns_computed(tiny, lambda: logps(tiny.model, trees, features))
        ours = columns_computed(tiny, lambda: logps(tiny.model, trees, features, layout="tree"))
    assert plain == 4 * (prompt_length + 3)  # 4 completions padded to 3 tokens
    assert ours == prompt_length - 1 + (2 + 1 + 3 + 2)  # P - 1 + sum C


@pytest.fixture(scope="module")
def sampling(tiny):
    return Sampling(
        seed=5, step=2, max_new_tokens=7, eos_ids=tuple(range(0, 826, 7)), suppress=vision_token_ids(tiny.model)
    )


ROLLOUT_QUESTIONS = [(CHAIRS, A), (SIZE, B), ("Which?", A), (SIZE, A), (CHAIRS, B), ("Why is the sofa?", A)]


@pytest.mark.parametrize("greedy", [True, False])
def test_rollouts_draw_the_same_tokens_as_plain(tiny, ask, sampling, greedy):
    features = FeatureStore(tiny).features([A, B])
    prompts = [ask(text, video) for text, video in ROLLOUT_QUESTIONS]
    keys = [(f"row{i}", g) for i in range(len(prompts)) for g in range(5)]
    settings = dataclasses.replace(sampling, greedy=greedy)
    plain = rollout(tiny.model, prompts, features, keys, settings)
    for kernel in KERNELS:
        assert rollout(tiny.model, prompts, features, keys, settings, layout="tree", attention=kernel) == plain, kernel
    for size in (1, 4):
        assert plain == rollout(tiny.model, prompts, features, keys, settings, layout="tree", prompts_per_pass=size)
    if not greedy:
        assert len({len(tokens) for tokens in plain}) > 3


def test_rollout_keeps_every_tree_node_once_in_one_cache(tiny, ask, sampling, monkeypatch):
    features = FeatureStore(tiny).features([A])
    prompts = [ask(CHAIRS, A), ask(SIZE, A)]
    widths, first = [], 3 if tiny.family.model_type == "qwen3_5" else 0  # the first layer with keys and values
    update = DynamicCache.update

    def record(self, keys, values, layer, *args, **kwargs):
        out = update(self, keys, values, layer, *args, **kwargs)
        if layer == first:
            widths.append(tuple(out[0].shape[0:3:2]))
        return out

    monkeypatch.setattr(DynamicCache, "update", record)
    settings = dataclasses.replace(sampling, eos_ids=(), max_new_tokens=3)
    keys = [(f"row{i}", g) for i in range(2) for g in range(4)]
    rollout(tiny.model, prompts, features, keys, settings, layout="tree")
    (tree,) = build_trees(prompts, [(), ()], share=True)
    read = len(tree.prefix) + 2 * max(len(question.token_ids) for question in tree.questions)
    assert widths == [(1, read), (1, read + 8), (1, read + 16)]


def test_a_model_on_another_attention_and_unknown_choices_are_refused(tiny_folder, tiny, ask, sampling):
    eager = load(tiny_folder, tune="none", attn="eager")
    features = FeatureStore(tiny).features([A])
    trees = forest(ask, "one group")
    with pytest.raises(ConfigError, match="a shared prefix needs sdpa"):
        logps(eager.model, trees, features, layout="tree")
    with pytest.raises(ConfigError, match="a shared prefix needs sdpa"):
        rollout(eager.model, [ask(CHAIRS, A)], features, [("row", 0)], sampling, layout="tree")
    with pytest.raises(ConfigError, match=r"trainer\.prefix_attention=flat"):
        logps(tiny.model, trees, features, layout="tree", attention="flat")
    with pytest.raises(ValueError, match="layout=bush"):
        logps(tiny.model, trees, features, layout="bush")
    with pytest.raises(ValueError, match="layout=bush"):
        rollout(tiny.model, [ask(CHAIRS, A)], features, [("row", 0)], sampling, layout="bush")


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_scores_equal_plain_and_its_backward_on_cpu_is_refused(tiny, ask):
    features = FeatureStore(tiny).features([A, B])
    trees = forest(ask, "groups")
    with torch.no_grad():
        ours = logps(tiny.model, trees, features, layout="tree", attention="flex")
        torch.testing.assert_close(flat(ours), flat(logps(tiny.model, trees, features)), atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match=r"prefix_attention=flex: torch has no backward"):
        logps(tiny.model, trees, features, layout="tree", attention="flex")
