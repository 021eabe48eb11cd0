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

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PREFIX = -1
PADDING = -2
_NO_LABEL, _TO_DRAW = -1, -2
_Column = tuple[int, ...]
"""Token, its three positions, question and leaf as in `Packed`, and its label: a token, none, or one to be drawn."""


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
    trees = []
    for _, run in itertools.groupby(range(len(prompts)), key=lambda i: prompts[i].videos if share else i):
        places = list(run)
        cut = common_prefix_length([prompts[i].token_ids[:-1] for i in places])
        questions = tuple(QuestionNode(prompts[i].token_ids[cut:], tuple(map(tuple, completions[i]))) for i in places)
        trees.append(Tree(prompts[places[0]].token_ids[:cut], prompts[places[0]].videos, questions))
    return trees


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

    def nodes(self) -> tuple[list[list[int]], dict[tuple[int, int], list[int]]]:
        """Return the columns of each question and of each leaf that has any, counted over all rows (R * L).

        Returns:
            questions in the order of blocks (R * K), empty ones too; leaves by block and number.
        """
        questions: list[list[int]] = [[] for _ in range(len(self.ids) * self.num_blocks)]
        leaves: dict[tuple[int, int], list[int]] = {}
        for column, (question, leaf) in enumerate(
            zip(self.question.flatten().tolist(), self.leaf.flatten().tolist(), strict=True)
        ):
            if question >= 0:
                block = column // self.ids.shape[1] * self.num_blocks + question
                members = questions[block] if leaf == PREFIX else leaves.setdefault((block, leaf), [])
                members.append(column)
        return questions, leaves


def pack(trees: Sequence[Tree], positions: Sequence[Sequence[PromptPositions]], *, for_rollout: bool = False) -> Packed:
    """Pack trees into rows.

    Args:
        trees: their completions may be ragged, and empty ones take no room.
        positions: for each tree, of the full prompt of each question.
        for_rollout: completions are yet to come: blocks hold whole questions, whose last column predicts.
    """
    prefixes, blocks = [], []
    for tree, known in zip(trees, positions, strict=True):
        width, leaves = len(tree.prefix), itertools.count()
        at = known[0].positions[:, :width].T.tolist()
        prefixes.append(
            [(token, *where, PREFIX, PREFIX, _NO_LABEL) for token, where in zip(tree.prefix, at, strict=True)]
        )
        questions = enumerate(zip(tree.questions, known, strict=True))
        blocks.append([_block(question, number, own, leaves, for_rollout) for number, (question, own) in questions])
    prefix_width = max(map(len, prefixes))
    num_blocks = max(map(len, blocks))
    block_width = max(len(block) for row in blocks for block in row)
    rows = []
    for prefix, row in zip(prefixes, blocks, strict=True):
        columns = _padded(prefix, prefix_width)
        for block in row:
            columns += _padded(block, block_width)
        rows.append(_padded(columns, prefix_width + num_blocks * block_width))
    values = torch.tensor(rows).movedim(-1, 0).contiguous()
    return Packed(
        ids=values[0],
        positions=values[1:4],
        question=values[4],
        leaf=values[5],
        predicts=values[6] != _NO_LABEL,
        targets=values[6][values[6] >= 0],
        prefix_width=prefix_width,
        num_blocks=num_blocks,
        block_width=block_width,
    )


def _padded(columns: list[_Column], width: int) -> list[_Column]:
    return columns + [(0, 0, 0, 0, PADDING, PREFIX, _NO_LABEL)] * (width - len(columns))


def _block(
    question: QuestionNode, number: int, known: PromptPositions, leaves: Iterator[int], for_rollout: bool
) -> list[_Column]:
    """Return the columns of a question and its completions, which take the next numbers of `leaves`."""
    ids = question.token_ids
    at = known.positions[:, -len(ids) :].T.tolist()
    columns: list[_Column] = [(token, *where, number, PREFIX, _NO_LABEL) for token, where in zip(ids, at, strict=True)]
    if for_rollout:
        return [*columns[:-1], (ids[-1], *at[-1], number, PREFIX, _TO_DRAW)]
    columns.pop()
    for completion, leaf in zip(question.completions, leaves, strict=False):
        for index, label in enumerate(completion):
            token, where = (
                (completion[index - 1], [known.next_position + index - 1] * 3) if index else (ids[-1], at[-1])
            )
            columns.append((token, *where, number, leaf, label))
    return columns


@dataclass(frozen=True)
class LeafSlots:
    """Where leaves lie in rows of trees (trees, most leaves of a tree).

    Attributes:
        tree: (leaves,) row of each leaf, ascending.
        slot: (leaves,) its place in the row.
    """

    tree: Tensor
    slot: Tensor
    shape: tuple[int, int]

    def to(self, device: torch.device) -> "LeafSlots":
        return LeafSlots(self.tree.to(device), self.slot.to(device), self.shape)

    def keep(self, places: Tensor) -> "LeafSlots":
        """Forget the other leaves; the slots stay where they are."""
        return LeafSlots(self.tree[places], self.slot[places], self.shape)

    def lay_out(self, values: Tensor, padding: int) -> Tensor:
        """Lay out one value per leaf."""
        return values.new_full(self.shape, padding).index_put((self.tree, self.slot), values)

    def pick(self, rows: Tensor) -> Tensor:
        """Return what lies at the leaves' places, (leaves, ...)."""
        return rows[self.tree, self.slot]


def lay_out_leaves(trees: Sequence[int]) -> LeafSlots:
    """Give each leaf a slot in the row of its tree; `trees` are the rows of the leaves, ascending from 0."""
    counts = Counter(trees)
    slots = [slot for row in sorted(counts) for slot in range(counts[row])]
    return LeafSlots(torch.tensor(trees), torch.tensor(slots), (len(counts), max(counts.values())))


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
