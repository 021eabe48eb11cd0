"""The prefix tree of prompts and completions that `logps` and `rollout` work on, and the rows it is laid out as.

    [system + video tokens] --+-- question 1 --+-- completion 1.1
                              |                +-- completion 1.2
                              +-- question 2 --+-- completion 2.1

A leaf is one completion. Leaves are always counted in the order trees, questions, completions.

In the rows of `pack` every node occurs once. One row per tree: the prefix, then one block per question. A block holds
the question without its last token, then, for each completion c, that last token followed by c without its own last: so
the column of each token predicts exactly one label, and a row has P + Q (q - 1) + sum C tokens, padding apart. Prefixes
and blocks are padded to equal widths, so that attention can treat blocks as a batch.

Legend: L tokens of a prompt, or columns of a row; R trees (rows), P prefix columns, K blocks per row, W columns of a
block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PREFIX = -1
PADDING = -2


@dataclass(frozen=True)
class Prompt:
    """One tokenised prompt and the videos that its placeholders stand for."""

    token_ids: tuple[int, ...]
    """All tokens, video placeholders expanded to one per feature."""
    videos: tuple[str, ...]
    """Keys of the videos, in the order of their placeholders."""


@dataclass(frozen=True)
class PromptPositions:
    """M-RoPE positions of one prompt."""

    positions: Tensor
    """(3, L) int64: temporal, height and width position of each prompt token."""
    next_position: int
    """Position of the first token after the prompt, equal on all three axes; later ones count up from it."""


@dataclass(frozen=True)
class QuestionNode:
    """The tokens of one prompt after the tree's prefix, and the completions of this prompt."""

    token_ids: tuple[int, ...]
    """At least one token: the last one predicts the first token of every completion."""
    completions: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Tree:
    """Prompts that begin with the same tokens and show the same videos."""

    prefix: tuple[int, ...]
    videos: tuple[str, ...]
    questions: tuple[QuestionNode, ...]

    def prompts(self) -> Iterator[Prompt]:
        """Yield the full prompt of each question."""
        for question in self.questions:
            yield Prompt(self.prefix + question.token_ids, self.videos)

    def num_leaves(self) -> int:
        """Count the completions of all questions."""
        return sum(len(question.completions) for question in self.questions)


def build_trees(prompts: Sequence[Prompt], completions: Sequence[Sequence[Sequence[int]]], share: bool) -> list[Tree]:
    """Turn prompts with their completions into trees; the order of prompts and completions is kept.

    The branch point of prompts that share a tree is their longest common token prefix, at most one token short of the
    shortest prompt: each question keeps the token that predicts its first answer token.

    Args:
        prompts: one per question.
        completions: for each prompt, its completions as token ids.
        share: put neighbouring prompts of the same videos into one tree. Prompts of one video that are not neighbours
            get trees of their own: still correct, only slower.

    Returns:
        trees whose leaves, counted in order, are the completions in the order given.

    Raises:
        ValueError: lengths of the two sequences differ, or a prompt is empty.
    """
    if len(prompts) != len(completions):
        raise ValueError(f"{len(prompts)} prompts but {len(completions)} lists of completions")
    if any(not prompt.token_ids for prompt in prompts):
        raise ValueError("an empty prompt cannot be put into a tree")
    runs: list[list[int]] = []
    for index, prompt in enumerate(prompts):
        previous = prompts[runs[-1][0]] if runs else None
        if share and previous is not None and previous.videos == prompt.videos:
            runs[-1].append(index)
        else:
            runs.append([index])
    return [_build_tree([prompts[i] for i in run], [completions[i] for i in run]) for run in runs]


def _build_tree(prompts: Sequence[Prompt], completions: Sequence[Sequence[Sequence[int]]]) -> Tree:
    cut = common_prefix_length([prompt.token_ids[:-1] for prompt in prompts])
    questions = tuple(
        QuestionNode(prompt.token_ids[cut:], tuple(tuple(completion) for completion in group))
        for prompt, group in zip(prompts, completions, strict=True)
    )
    return Tree(prompts[0].token_ids[:cut], prompts[0].videos, questions)


def common_prefix_length(sequences: Sequence[Sequence[int]]) -> int:
    """Count the leading tokens that all sequences have in common."""
    shortest = min(sequences, key=len)
    for position, token in enumerate(shortest):
        if any(sequence[position] != token for sequence in sequences):
            return position
    return len(shortest)


@dataclass(frozen=True)
class Packed:
    """Rows of a forest; L = prefix_width + num_blocks * block_width."""

    ids: Tensor
    """(R, L) tokens; padding has token 0."""
    positions: Tensor
    """(3, R, L) M-RoPE positions, restarting at each branch."""
    question: Tensor
    """(R, L) number of the token's question, PREFIX or PADDING."""
    leaf: Tensor
    """(R, L) number of the token's completion within the row, PREFIX for tokens that several completions share."""
    predicts: Tensor
    """(R, L) bool: columns that predict a label."""
    targets: Tensor
    """Labels of those columns, in row-major order, which is the order of the leaves."""
    prefix_width: int
    num_blocks: int
    block_width: int


def pack(trees: Sequence[Tree], positions: Sequence[Sequence[PromptPositions]], *, for_rollout: bool = False) -> Packed:
    """Pack trees into rows.

    Args:
        trees: their completions may be ragged, and empty ones take no room.
        positions: for each tree, of the full prompt of each question.
        for_rollout: completions are yet to come: blocks hold whole questions, whose last column predicts.
    """
    blocks = [
        [
            _block(tree, number, known, for_rollout)
            for number, known in zip(range(len(tree.questions)), row_positions, strict=True)
        ]
        for tree, row_positions in zip(trees, positions, strict=True)
    ]
    prefix_width = max(len(tree.prefix) for tree in trees)
    num_blocks = max(len(row) for row in blocks)
    block_width = max(len(block.ids) for row in blocks for block in row)
    rows = []
    for tree, row_positions, row in zip(trees, positions, blocks, strict=True):
        columns = _prefix(tree, row_positions[0]).padded(prefix_width)
        leaves = 0
        for block in row:
            columns = columns + block.shifted(leaves).padded(block_width)
            leaves += block.num_leaves
        rows.append(columns.padded(prefix_width + num_blocks * block_width))
    return Packed(
        ids=torch.tensor([row.ids for row in rows]),
        positions=torch.tensor([row.positions for row in rows]).permute(2, 0, 1),
        question=torch.tensor([row.question for row in rows]),
        leaf=torch.tensor([row.leaf for row in rows]),
        predicts=torch.tensor([row.predicts for row in rows]),
        targets=torch.tensor([token for row in rows for token in row.targets], dtype=torch.long),
        prefix_width=prefix_width,
        num_blocks=num_blocks,
        block_width=block_width,
    )


@dataclass(frozen=True)
class _Columns:
    """Consecutive columns of one row."""

    ids: list[int]
    positions: list[list[int]]
    question: list[int]
    leaf: list[int]
    predicts: list[bool]
    targets: list[int]
    num_leaves: int = 0

    def __add__(self, other: "_Columns") -> "_Columns":
        return _Columns(
            self.ids + other.ids,
            self.positions + other.positions,
            self.question + other.question,
            self.leaf + other.leaf,
            self.predicts + other.predicts,
            self.targets + other.targets,
        )

    def padded(self, width: int) -> "_Columns":
        missing = width - len(self.ids)
        return self + _Columns(
            [0] * missing, [[0, 0, 0]] * missing, [PADDING] * missing, [PREFIX] * missing, [False] * missing, []
        )

    def shifted(self, leaves: int) -> "_Columns":
        moved = [leaf + leaves if leaf >= 0 else leaf for leaf in self.leaf]
        return _Columns(self.ids, self.positions, self.question, moved, self.predicts, self.targets)


def _prefix(tree: Tree, known: PromptPositions) -> _Columns:
    width = len(tree.prefix)
    positions = known.positions[:, :width].T.tolist()
    return _Columns(list(tree.prefix), positions, [PREFIX] * width, [PREFIX] * width, [False] * width, [])


def _block(tree: Tree, number: int, known: PromptPositions, for_rollout: bool) -> _Columns:
    question: QuestionNode = tree.questions[number]
    shared = question.token_ids if for_rollout else question.token_ids[:-1]
    start = len(tree.prefix)
    ids, leaf = list(shared), [PREFIX] * len(shared)
    positions = known.positions[:, start : start + len(shared)].T.tolist()
    predicts = [False] * len(shared)
    targets: list[int] = []
    if for_rollout:
        predicts[-1] = True
        return _Columns(ids, positions, [number] * len(ids), leaf, predicts, targets)
    last = known.positions[:, -1].tolist()
    for index, completion in enumerate(question.completions):
        if completion:
            ids += [question.token_ids[-1], *completion[:-1]]
            positions += [last, *([known.next_position + t] * 3 for t in range(len(completion) - 1))]
            leaf += [index] * len(completion)
            predicts += [True] * len(completion)
            targets += completion
    return _Columns(ids, positions, [number] * len(ids), leaf, predicts, targets, len(question.completions))


def can_see(question_q: Tensor, leaf_q: Tensor, question_k: Tensor, leaf_k: Tensor) -> Tensor:
    """Tell which keys are the prefix, the own question or the own completion of each query, order aside.

    Padding sees the prefix and other padding (a softmax over nothing would be NaN) and is seen by nothing else.

    Args:
        question_q, leaf_q: (..., queries); question_k, leaf_k: (..., keys).

    Returns:
        (..., queries, keys) bool.
    """
    same_question = question_q[..., :, None] == question_k[..., None, :]
    shared = (leaf_k == PREFIX)[..., None, :]
    same_leaf = leaf_q[..., :, None] == leaf_k[..., None, :]
    return (question_k == PREFIX)[..., None, :] | (same_question & (shared | same_leaf))


@dataclass(frozen=True)
class TokenCount:
    """Tokens that go through the language model in one pass, padding left out."""

    computed: int
    plain: int
    """What a step would compute that repeats the prompt for each completion."""

    def __add__(self, other: "TokenCount") -> "TokenCount":
        return TokenCount(self.computed + other.computed, self.plain + other.plain)


def count_scored(trees: Sequence[Tree], layout: str) -> TokenCount:
    """Count the tokens of a log-prob pass.

    A tree has P + Q (q - 1) + sum C tokens: the last token of a question opens each completion in place of the
    completion's last, which predicts nothing. Plain has P + q + C per completion.
    """
    plain = computed = 0
    for tree in trees:
        computed += len(tree.prefix)
        for question in tree.questions:
            lengths = [len(completion) for completion in question.completions]
            computed += len(question.token_ids) - 1 + sum(lengths)
            plain += sum(len(tree.prefix) + len(question.token_ids) + length for length in lengths)
    return TokenCount(computed if layout == "tree" else plain, plain)


def count_drawn(trees: Sequence[Tree], layout: str) -> TokenCount:
    """Count the tokens of a rollout that ended in these completions; their last tokens are not fed back.

    Both of our layouts read a prompt once; `tree` also reads once what prompts share.
    """
    computed = plain = 0
    for tree in trees:
        asked = [len(question.token_ids) for question in tree.questions]
        computed += len(tree.prefix) * (1 if layout == "tree" else len(asked)) + sum(asked)
        for question in tree.questions:
            fed = [max(len(completion) - 1, 0) for completion in question.completions]
            computed += sum(fed)
            plain += sum(len(tree.prefix) + len(question.token_ids) + length for length in fed)
    return TokenCount(computed, plain)
