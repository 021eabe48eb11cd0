"""Qwen3.5's gated DeltaNet under a prefix tree, against the library's own model on one sequence at a time."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
import trl
from tiny_inputs import randomize_adapter
from transformers import GenerationConfig, Qwen3_5Config, Qwen3_5ForConditionalGeneration
from transformers.utils.chat_template_utils import render_jinja_template

from vsgrpo.errors import ConfigError
from vsgrpo.families import FAMILIES
from vsgrpo.modeling.attention import require_tree_attention, use_tree_attention
from vsgrpo.modeling.delta_net import chunk_size, use_tree_states
from vsgrpo.modeling.load import LoraSettings, load
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.tree import Prompt, PromptPositions, build_trees, pack
from vsgrpo.modeling.tree_masks import build_mask
from vsgrpo.modeling.tree_states import packed_states

GENERATOR = torch.Generator().manual_seed(3)


def tokens(number):
    return torch.randint(5, 400, (number,), generator=GENERATOR).tolist()


# Two trees. A prefix longer than a chunk of 64, questions of 1 to 11 tokens after it, ragged completions: longer than a
# chunk, shorter than the convolution's 4 taps, none.
PREFIX_A, PREFIX_B = tokens(70), tokens(5)
PROMPTS = [
    *(Prompt(tuple(PREFIX_A + tokens(number)), ("a",)) for number in (7, 1, 11)),
    *(Prompt(tuple(PREFIX_B + tokens(number)), ("b",)) for number in (6, 2)),
]
COMPLETIONS = [[tokens(9), tokens(1), tokens(5)], [tokens(12)], [tokens(3), tokens(80)], [tokens(2), []], [tokens(6)]]


@pytest.fixture(scope="module")
def stock():
    """A random Qwen3.5 as the library makes it: three layers of gated DeltaNet, one of attention."""
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.25}
    sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
    attention = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rope_parameters": rope}
    delta = {"linear_num_key_heads": 2, "linear_num_value_heads": 4} | {
        f"linear_{name}_head_dim": 16 for name in ("key", "value")
    }
    text = {**sizes, **attention, **delta, "initializer_range": 0.08}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 64}
    ids = {"image_token_id": 500, "video_token_id": 501, "vision_start_token_id": 502, "vision_end_token_id": 503}
    config = Qwen3_5Config(text_config=text, vision_config={**vision, "num_position_embeddings": 36}, **ids)
    torch.manual_seed(0)
    return Qwen3_5ForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()


@pytest.fixture
def hybrid(stock):
    model = copy.deepcopy(stock)
    use_tree_attention(model)
    use_tree_states(model)
    model.text_after_video = "published"
    return model


@pytest.fixture
def in_float64(monkeypatch):
    """Let the library compute in float64 what it casts to float32."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch, "float", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def packed_forest():
    trees = build_trees(PROMPTS, COMPLETIONS, share=True)
    positions = [
        PromptPositions(torch.arange(len(prompt.token_ids)).expand(3, -1), len(prompt.token_ids)) for prompt in PROMPTS
    ]
    return pack(trees, [positions[:3], positions[3:]])


def plain_scores(model):
    """Score each completion by itself."""
    scores = []
    for prompt, completions in zip(PROMPTS, COMPLETIONS, strict=True):
        for completion in filter(None, completions):
            ids = torch.tensor([[*prompt.token_ids, *completion]])
            positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
            logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, -len(completion) - 1 : -1]
            scores.append(logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None])[:, 0])
    return torch.cat(scores)


def tree_scores(model, kernel="dense", packed=None, change=None):
    packed = packed or packed_forest()
    states = packed_states(model, packed, packed.ids.device)
    if change is not None:
        states = {"state_tree": change(states["state_tree"])}
    logits = model(
        input_ids=packed.ids,
        position_ids=packed.positions,
        tree_mask=build_mask(packed, kernel, packed.ids.device),
        logits_to_keep=packed.predicts,
        use_cache=False,
        **states,
    ).logits
    return logits.log_softmax(-1).gather(-1, packed.targets[:, None])[:, 0]


def backward(model, scores):
    """Return the gradients of a loss that weighs each token in its own way."""
    model.zero_grad()
    (scores * torch.arange(1, len(scores) + 1)).sum().div(len(scores)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_a_recurrent_layer_of_the_library_takes_no_tree(stock, hybrid):
    require_tree_attention(hybrid)
    other = copy.deepcopy(stock)
    use_tree_attention(other)
    with pytest.raises(ConfigError, match=r"linear_attention layers .* would leak into each other"):
        require_tree_attention(other)


@pytest.mark.parametrize("kernel", ["dense", "block", "split"])
@torch.no_grad()
def test_scores_equal_the_librarys(stock, hybrid, kernel):
    torch.testing.assert_close(tree_scores(hybrid, kernel), plain_scores(stock), rtol=0, atol=5e-5)


@pytest.mark.parametrize("checkpointing", [None, False, True])
def test_scores_and_gradients_equal_in_float64(stock, hybrid, in_float64, checkpointing):
    stock, hybrid = copy.deepcopy(stock).double(), hybrid.double()
    if checkpointing is not None:
        hybrid.train()
        hybrid.model.language_model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    ours, theirs = tree_scores(hybrid), plain_scores(stock)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    ours, theirs = backward(hybrid, ours), backward(stock, theirs)
    assert ours.keys() == theirs.keys() and any("conv1d" in name for name in ours)
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= 1e-10 * gradient.norm(), name


def no_tree(tree):
    """Rows as the library reads them: a completion goes on from the one before it."""


def one_question(tree):
    """Completions that go on from the first question, whosever they are."""
    prefix, questions, leaves = tree.levels
    return dataclasses.replace(tree, levels=(prefix, questions, dataclasses.replace(leaves, parent=leaves.parent * 0)))


def written_padding(tree):
    """Padding that counts as tokens: its writes, its fading, and its inputs to the convolution."""
    levels = tuple(dataclasses.replace(level, real=torch.ones_like(level.real)) for level in tree.levels)
    return dataclasses.replace(tree, levels=levels)


@pytest.mark.parametrize("change", [no_tree, one_question, written_padding])
@torch.no_grad()
def test_leaked_states_are_noticed(stock, hybrid, change):
    assert (tree_scores(hybrid, change=change) - plain_scores(stock)).abs().max() > 1e-2


@torch.no_grad()
def test_positions_that_do_not_restart_are_noticed(stock, hybrid):
    packed = packed_forest()
    running = torch.arange(packed.ids.shape[1]).expand_as(packed.positions)
    packed = dataclasses.replace(packed, positions=running)
    assert (tree_scores(hybrid, packed=packed) - plain_scores(stock)).abs().max() > 1e-3


def test_chunks_fit_short_leaves():
    # powers of two from 8, which the library fills up to a multiple: 4 -> 8, 9 -> 16, 33 -> 64, 700 -> 64
    assert [chunk_size(width) for width in (1, 4, 8, 9, 33, 64, 700)] == [8, 8, 8, 16, 64, 64, 64]


def library_tokens(model, prompt, sampling):
    """Draw greedily by the library's own loop, one prompt at a time."""
    ids = torch.tensor([prompt.token_ids])
    config = GenerationConfig(eos_token_id=list(sampling.eos_ids), pad_token_id=0, do_sample=False)
    drawn = model.generate(ids, generation_config=config, max_new_tokens=sampling.max_new_tokens)
    return drawn[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("layout", ["plain", "tree"])
def test_greedy_rollouts_equal_the_librarys(stock, hybrid, layout):
    # 15 of 512 tokens end a completion: at other places each, so that rows and states leave on the way.
    sampling = Sampling(seed=0, step=0, max_new_tokens=24, eos_ids=tuple(range(0, 512, 35)), greedy=True)
    prompts = [dataclasses.replace(prompt, videos=()) for prompt in PROMPTS]
    keys = [(str(number), 0) for number in range(len(prompts))]
    theirs = [library_tokens(stock, prompt, sampling) for prompt in prompts]
    assert len({len(tokens) for tokens in theirs}) > 2 and len(set(map(tuple, theirs))) == len(theirs)
    assert rollout(hybrid, prompts, {}, keys, sampling, layout=layout) == theirs


@pytest.mark.parametrize("prompts_per_pass", [None, 2])
def test_sampled_rollouts_are_the_same_in_both_layouts(hybrid, prompts_per_pass):
    sampling = Sampling(seed=0, step=0, max_new_tokens=16, eos_ids=tuple(range(0, 512, 35)))
    prompts = [dataclasses.replace(prompt, videos=()) for prompt in PROMPTS]
    keys = [(str(number), index) for number in range(len(prompts)) for index in range(3)]
    plain, tree = (
        rollout(hybrid, prompts, {}, keys, sampling, layout=layout, prompts_per_pass=prompts_per_pass)
        for layout in ("plain", "tree")
    )
    assert plain == tree
    assert len(set(map(tuple, plain))) == len(plain) and len(set(map(len, plain))) > 3


@pytest.mark.parametrize("tiny_folder", ["qwen3_5"], indirect=True, scope="session")
def test_lora_on_the_projections_learns_alike_and_autocast_stays_close(tiny_folder):
    lora = LoraSettings(r=4, alpha=8, targets=("in_proj_qkv", "in_proj_z", "out_proj", "o_proj"))
    bundle = load(tiny_folder, tune="lora", lora=lora, offline=True)
    randomize_adapter(bundle.model)
    prompts = [dataclasses.replace(prompt, videos=()) for prompt in PROMPTS]
    trees = build_trees(prompts, COMPLETIONS, share=True)

    def scored(layout):
        scores = torch.cat([score for score, _ in logps(bundle.model, trees, {}, layout=layout)])
        return scores, backward(bundle.model, scores)

    (tree, ours), (plain, theirs) = scored("tree"), scored("plain")
    torch.testing.assert_close(tree, plain, rtol=0, atol=5e-5)
    # Three projections of three layers and one of attention's, matrices A and B.
    assert ours.keys() == theirs.keys() and len(ours) == 2 * (3 * 3 + 1)
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= 1e-3 * gradient.norm(), name
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        half, half_plain = (
            torch.cat([score for score, _ in logps(bundle.model, trees, {}, layout=layout)])
            for layout in ("tree", "plain")
        )
    assert (half - tree).abs().mean() <= 1.5 * (half_plain - tree).abs().mean()


@pytest.mark.parametrize("name", ["qwen3_5_nothink", "qwen3_5_think", "qwen3_6", "qwen3_8"])
def test_templates_of_qwen3_5_to_3_8_close_an_empty_thought_and_add_no_turn(name):
    # TRL has copies of the published templates; told nothing, that of 3.8 begins with a system turn on effort.
    template = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()
    question = {"role": "user", "content": [{"type": "video", "video": ""}, {"type": "text", "text": "How many?"}]}

    def render(**options):
        return render_jinja_template([[question]], chat_template=template, add_generation_prompt=True, **options)[0][0]

    expected = (
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>How many?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(**FAMILIES["qwen3_5"].template_options) == expected + "<think>\n\n</think>\n\n"
    assert name != "qwen3_8" or render().startswith("<|im_start|>system\n")
