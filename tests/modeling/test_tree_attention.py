"""The kernels of the tree's attention alone, on a ragged forest; how heads share keys, and flex attention's blocks."""

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from fake_gpu import FakeGpu, put
from vsgrpo.errors import ConfigError
from vsgrpo.modeling import attention, merged_attention, tree_masks
from vsgrpo.modeling.attention import share_keys, tree_attention
from vsgrpo.modeling.tree import PADDING, Packed, PromptPositions, QuestionNode, Tree, can_see, pack
from vsgrpo.modeling.tree_masks import build_mask, choose_kernel

CPU = torch.device("cpu")


def packed_trees(*trees, for_rollout=False):
    """Pack trees given as (prefix tokens, [(question tokens, lengths of its completions)])."""
    built, positions = [], []
    for prefix, questions in trees:
        nodes = tuple(QuestionNode((1,) * tokens, tuple((2,) * n for n in lengths)) for tokens, lengths in questions)
        built.append(Tree((3,) * prefix, (), nodes))
        ends = [prefix + tokens for tokens, _ in questions]
        positions.append([PromptPositions(torch.arange(end).expand(3, -1), end) for end in ends])
    return pack(built, positions, for_rollout=for_rollout)


# prefixes of 5, 3, 0 and 1 tokens; questions of one token; empty completions, alone and among others
FOREST = packed_trees(
    (5, [(3, (3, 1, 0)), (1, (2, 2))]), (3, [(2, (0, 0))]), (0, [(4, (6, 1))]), (1, [(1, (1,)), (2, (1, 4))])
)


def inputs(packed, dtype=torch.float64, heads=6, key_heads=2):
    """Return query, key, value, and a gradient that is 0 at padding, on which nothing depends."""
    generator = torch.Generator().manual_seed(0)
    rows, width = packed.ids.shape
    drawn = [torch.randn(rows, h, width, 8, generator=generator) for h in (heads, key_heads, key_heads, heads)]
    drawn[3] *= (packed.question != PADDING)[:, None, :, None]
    return [part.to(dtype).requires_grad_(index < 3) for index, part in enumerate(drawn)]


def attend(packed, mask, parts, scaling=None):
    """Return the result at all columns but padding, and the gradients of query, key and value."""
    *given, grad = parts
    out, _ = tree_attention(torch.nn.Module(), *given, None, tree_mask=mask, scaling=scaling)
    gradients = torch.autograd.grad(out, given, grad.transpose(1, 2))
    return [out[packed.question != PADDING].detach(), *gradients]


def distance(ours, theirs):
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kernel", ["block", "split", "merge"])
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_kernels_equal_the_dense_one(kernel, scaling):
    parts = inputs(FOREST)
    dense = attend(FOREST, build_mask(FOREST, "dense", CPU), parts, scaling)
    assert distance(attend(FOREST, build_mask(FOREST, kernel, CPU), parts, scaling), dense) < 1e-13


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3e-6), (torch.bfloat16, 0.06)])
def test_merging_keeps_the_precision_of_its_type(dtype, bound):
    exact = attend(FOREST, build_mask(FOREST, "dense", CPU), inputs(FOREST))
    ours = attend(FOREST, build_mask(FOREST, "merge", CPU), inputs(FOREST, dtype))
    assert ours[0].dtype == dtype and distance(ours, exact) < bound


def test_merging_a_prefill_and_under_autocast():
    questions = packed_trees((5, [(3, ()), (1, ())]), (2, [(2, ())]), for_rollout=True)
    parts = inputs(questions)
    dense, merge = (attend(questions, build_mask(questions, kernel, CPU), parts) for kernel in ("dense", "merge"))
    assert distance(merge, dense) < 1e-13
    mask = build_mask(FOREST, "merge", CPU)
    half = attend(FOREST, mask, inputs(FOREST, torch.bfloat16))
    query, key, value, _ = inputs(FOREST, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = tree_attention(torch.nn.Module(), query, key, value.bfloat16(), None, tree_mask=mask)
    assert torch.equal(out[FOREST.question != PADDING], half[0])


def own_lse(grad, query, key, value, out, lse, call, scaling, dropout, state):
    """The backward of a part with what this part alone found."""
    own_out, own = torch.zeros_like(out), torch.zeros_like(lse)
    found, found_lse, _ = merged_attention._flash(query, key, value, call, scaling, dropout)
    own_out[call.queries], own[:, call.queries] = found, found_lse
    return FLASH_BACKWARD(grad, query, key, value, own_out, own, call, scaling, dropout, state)


def siblings_seen(self):
    """All completions of a question as one."""
    questions, leaves = NODES(self)
    together = {}
    for (block, _), columns in leaves.items():
        together.setdefault((block, 0), []).extend(columns)
    return questions, together


def questions_unseen(self):
    questions, leaves = NODES(self)
    return [[] for _ in questions], leaves | {(block, -1): columns for block, columns in enumerate(questions)}


FLASH_BACKWARD, NODES = merged_attention._flash_backward, Packed.nodes


@pytest.mark.parametrize(
    ("where", "name", "mutant", "values_too"),
    [
        (merged_attention, "_flash_backward", own_lse, False),
        (Packed, "nodes", siblings_seen, True),
        (Packed, "nodes", questions_unseen, True),
    ],
)
def test_a_wrong_merge_would_be_noticed(monkeypatch, where, name, mutant, values_too):
    parts = inputs(FOREST)
    dense = attend(FOREST, build_mask(FOREST, "dense", CPU), parts)
    monkeypatch.setattr(where, name, mutant)
    wrong = attend(FOREST, build_mask(FOREST, "merge", CPU), parts)
    assert (distance(wrong[:1], dense[:1]) > 0.1) == values_too and distance(wrong[1:], dense[1:]) > 0.1


@pytest.mark.parametrize("trees", [FOREST, packed_trees((4, [(1, (1,))]), (2, [(1, (1,))]))], ids=["ragged", "ones"])
def test_merging_on_a_gpu_equals_the_cpu(trees):
    """Its calls hold sequences of any length; here stands what CUDA's kernel promises."""
    parts = inputs(trees, torch.bfloat16)
    ours = attend(trees, build_mask(trees, "merge", CPU), parts)
    with FakeGpu() as fake:
        given = [put(part.detach()).requires_grad_(part.requires_grad) for part in parts]
        mask = build_mask(trees, "merge", torch.device("cuda"))
        out, _ = tree_attention(torch.nn.Module(), *given[:3], None, tree_mask=mask)
        out.backward(given[3].transpose(1, 2))
    assert not fake.mismatches and not fake.waits
    assert len(mask.calls) == (3 if trees is FOREST else 2)
    found = [out.detach()[put(trees.question != PADDING)], *(part.grad for part in given[:3])]
    assert distance([part.as_subclass(torch.Tensor) for part in found], ours) < 0.05


def test_what_merging_does_not_take_is_refused():
    query, key, value, _ = inputs(FOREST, torch.float32)
    with pytest.raises(ConfigError, match="no dropout in it on a CPU"):
        tree_attention(torch.nn.Module(), query, key, value, None, 0.1, 0.5, build_mask(FOREST, "merge", CPU))
    with FakeGpu(), pytest.raises(ConfigError, match="on a GPU not in float32"):
        mask = build_mask(FOREST, "merge", torch.device("cuda"))
        tree_attention(torch.nn.Module(), put(query), put(key), put(value), None, tree_mask=mask)


def test_how_heads_share_keys_under_a_mask():
    # Qwen2-VL-2B: 12 heads, 2 of keys, d = 128: the mask is smaller below 2 x 2 x 128 = 512 queries
    assert share_keys((1, 12, 511, 128), 2, "cuda") == "folded"
    assert share_keys((1, 12, 512, 128), 2, "cuda") == "repeated"
    assert share_keys((1, 12, 8, 128), 12, "cuda") == share_keys((1, 12, 8, 128), 2, "cpu") == "kept"


@pytest.mark.parametrize("way", ["folded", "repeated"])
@pytest.mark.parametrize("kernel", ["dense", "block", "split"])
def test_folded_and_repeated_heads_equal_grouped_ones(monkeypatch, kernel, way):
    equal = packed_trees((5, [(1, (3, 3, 3))]))  # one mask for all completions
    for packed in (FOREST, equal):
        mask, parts = build_mask(packed, kernel, CPU), inputs(packed, torch.float32)
        kept = attend(packed, mask, parts)
        with monkeypatch.context() as patch:
            patch.setattr(attention, "share_keys", lambda *_: way)
            ours = attend(packed, mask, parts)
        for a, b in zip(ours, kept, strict=True):
            assert distance([a], [b]) <= 3e-7 * b.abs().max()


@pytest.mark.parametrize("size", [4, 128])
def test_blocks_of_flex_attention_are_torchs_own(monkeypatch, size):
    monkeypatch.setattr(tree_masks, "FLEX_BLOCK", size)
    long = packed_trees((300, [(20, (130, 5)), (1, (200,))]), (140, [(9, (3, 0)), (2, (1,))]))
    for packed in (FOREST, long):
        rows, width = packed.ids.shape
        question, leaf = packed.question, packed.leaf
        allowed = can_see(question, leaf, question, leaf).tril()
        theirs = create_block_mask(
            lambda b, h, q, k, allowed=allowed: allowed[b, q, k], rows, None, width, width, "cpu", BLOCK_SIZE=size
        )
        with torch.no_grad():
            ours = build_mask(packed, "flex", CPU)
        assert torch.equal(ours.to_dense(), theirs.to_dense()) and ours.seq_lengths == theirs.seq_lengths
        for part in ("kv", "q", "full_kv", "full_q"):
            counts = getattr(theirs, f"{part}_num_blocks")
            assert torch.equal(getattr(ours, f"{part}_num_blocks"), counts), part
            listed = torch.arange(counts.shape[-1]) < counts[..., None]
            ours_listed, theirs_listed = (getattr(mask, f"{part}_indices")[listed] for mask in (ours, theirs))
            assert torch.equal(ours_listed, theirs_listed), part
    assert size == 128 or (theirs.full_kv_num_blocks > 0).any()


@pytest.mark.parametrize(
    ("prefix", "lengths", "half", "expected"),
    [
        # copies: 268 or 1 x 256 + 14 x 260 keys at 150 scores
        (256, [[4] * 14], True, "block"),
        # block 7168 x 8172 = 58.6M, split 14 x 512 x 1516 = 10.9M and 21224 copies = 3.2M, merge 7.2M + 1.8M + 20M
        (1004, [[512] * 14], True, "split"),
        # split 14 x 4096 x 5100 = 292M and 10.9M of copies; merge 57.6M + 118M + 20M
        (1004, [[4096] * 14], True, "merge"),
        (1004, [[4096] * 14], False, "split"),
        # a single long answer is padding for all others in split: 14 x 4096 x 5100; block 4148 x 5152 = 21.4M + 0.8M
        (1004, [[4096] + [4] * 13], True, "block"),
        # every question has its own completions: eight blocks of 75 columns
        (256, [[4] * 14] * 8, True, "block"),
        (256, [[0, 0]], True, "block"),
    ],
)
def test_auto_takes_on_a_gpu_what_costs_least_by_count(prefix, lengths, half, expected):
    tokens = 20 if len(lengths) > 1 else 1
    packed = packed_trees((prefix, [(tokens, group) for group in lengths]))
    assert choose_kernel(packed, "cuda", half) == expected
    assert choose_kernel(packed, "cpu", half) == "merge"
