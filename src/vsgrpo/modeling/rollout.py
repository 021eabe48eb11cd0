"""Draw completions: each unique prompt is read once, then all its completions advance together.

Legend: U unique prompts, B completions, L tokens of the longest prompt, V vocabulary.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from vsgrpo.modeling.attention import DenseMask, build_mask, require_tree_attention
from vsgrpo.modeling.bundle import base_model, unwrap
from vsgrpo.modeling.inputs import PromptBatch
from vsgrpo.modeling.sampling import Sampling, draw_tokens, logits_processors
from vsgrpo.modeling.tree import PADDING, PREFIX, Prompt, build_trees, can_see, pack
from vsgrpo.modeling.vision import MediaFeatures

Phase = Callable[[str], AbstractContextManager[Any]]


@torch.no_grad()
def rollout(
    model: nn.Module,
    prompts: Sequence[Prompt],
    features: Mapping[str, MediaFeatures],
    keys: Sequence[tuple[str, int]],
    sampling: Sampling,
    *,
    layout: str = "plain",
    attention: str = "auto",
    prompts_per_pass: int | None = None,
    phase: Phase = contextlib.nullcontext,
) -> list[list[int]]:
    """Draw one completion per key.

    Equal prompts are read once; finished completions leave the batch. `plain` copies a prompt's cache to each of its
    completions, `tree` also reads what prompts of the same videos have in common once and copies nothing. The number
    of forwards depends on the lengths drawn: under sharded parameters gather them around this call.

    Args:
        model: possibly wrapped; put into eval mode for the call (a checkpointed training mode has no cache).
        prompts: one per key, or one per group of len(keys) / len(prompts) consecutive keys.
        features: of every video that the prompts name.
        keys: (row id, completion index) per wanted completion; they fix the noise.
        sampling: see `Sampling`.
        layout: `plain` or `tree`: the same tokens.
        attention: kernel that reads prompts in the tree layout, see `logps`.
        phase: called with "prefill", opens the context in which prompts are read (a clock's).
        prompts_per_pass: unique prompts read and continued together, None for all; bounds memory, changes no token.

    Returns:
        token ids per key, the EOS token included if one was drawn.

    Raises:
        ValueError: the number of keys is no multiple of the number of prompts, or an unknown layout.
        RunError: placeholders and features differ.
    """
    if not keys:
        return []
    if layout not in ("plain", "tree"):
        raise ValueError(f"layout={layout}: not one of plain, tree")
    if not prompts or len(keys) % len(prompts):
        raise ValueError(f"{len(keys)} keys are no multiple of {len(prompts)} prompts")
    group = len(keys) // len(prompts)
    batch = PromptBatch(model, prompts, features)
    members: list[list[int]] = [[] for _ in batch.unique]
    for index in range(len(keys)):
        members[batch.index[index // group]].append(index)
    completions: dict[int, list[int]] = {}
    order, draw = list(range(len(batch.unique))), _draw
    if layout == "tree":
        require_tree_attention(model)
        order, draw = _grouped_by_media(batch.unique), functools.partial(_draw_packed, attention=attention)
    step = prompts_per_pass or len(order)
    with _evaluating(model):
        for start in range(0, len(order), step):
            rows = order[start : start + step]
            wanted = [[keys[index] for index in members[row]] for row in rows]
            places = [index for row in rows for index in members[row]]
            completions |= zip(places, draw(unwrap(model), batch, rows, wanted, sampling, phase), strict=True)
    return [completions[index] for index in range(len(keys))]


def _grouped_by_media(prompts: Sequence[Prompt]) -> list[int]:
    """Return the places of prompts, those that show the same media one after the other."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(prompt.videos, []).append(place)
    return [place for places in groups.values() for place in places]


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _draw(
    model: nn.Module,
    batch: PromptBatch,
    rows: Sequence[int],
    wanted: Sequence[Sequence[tuple[str, int]]],
    sampling: Sampling,
    phase: Phase,
) -> list[list[int]]:
    """Read the prompts of `rows`, copy the cache of each to its completions and advance them until each has ended."""
    device = batch.device
    ids, positions = batch.layout(rows, [()] * len(rows))
    lengths = torch.tensor([len(batch.unique[row].token_ids) for row in rows], device=device)
    cache = DynamicCache(config=base_model(model).config.text_config)
    with phase("prefill"):
        output = model(
            input_ids=ids,
            position_ids=positions,
            mm_encoder_outputs=batch.row_features(rows),
            logits_to_keep=(lengths - 1)[:, None],
            past_key_values=cache,
            use_cache=True,
        )
    row_of = torch.tensor([place for place, keys in enumerate(wanted) for _ in keys], device=device)
    cache.batch_select_indices(row_of)
    # Padding between prompt and completion stays in the cache and is masked; positions go on as if it were not there.
    seen = (torch.arange(ids.shape[1], device=device) < lengths[:, None])[row_of]
    next_position = torch.tensor([batch.positions[row].next_position for row in rows], device=device)[row_of]
    draws = _Draws([key for keys in wanted for key in keys], sampling, device)
    going = draws.add(output.logits[:, 0][row_of])
    while len(draws.active):
        if len(going) < len(seen):
            cache.batch_select_indices(going)
            seen, next_position = seen[going], next_position[going]
        seen = torch.cat([seen, seen.new_ones(len(seen), 1)], dim=1)
        output = model(
            input_ids=draws.last[:, None],
            attention_mask=seen.long(),
            position_ids=(next_position + draws.position - 1).expand(3, -1)[:, :, None],
            past_key_values=cache,
            use_cache=True,
        )
        going = draws.add(output.logits[:, 0])
    return draws.tokens


def _draw_packed(
    model: nn.Module,
    batch: PromptBatch,
    rows: Sequence[int],
    wanted: Sequence[Sequence[tuple[str, int]]],
    sampling: Sampling,
    phase: Phase,
    attention: str,
) -> list[list[int]]:
    """Read the trees of `rows` into a cache that holds every node once and advance all their leaves in it.

    Each step feeds one token per unfinished completion; a tree's tokens form one row, told apart by the mask.
    """
    device = batch.device
    trees = build_trees([batch.unique[row] for row in rows], [()] * len(rows), share=True)
    places = iter(rows)
    tree_rows = [[next(places) for _ in tree.questions] for tree in trees]
    packed = pack(trees, [[batch.positions[row] for row in part] for part in tree_rows], for_rollout=True)
    cache = DynamicCache(config=base_model(model).config.text_config)
    with phase("prefill"):
        output = model(
            input_ids=packed.ids.to(device),
            position_ids=packed.positions.to(device),
            tree_mask=build_mask(packed, attention, device),
            mm_encoder_outputs=batch.tree_features(trees, tree_rows),
            logits_to_keep=packed.predicts.to(device),
            past_key_values=cache,
            use_cache=True,
        )
    leaves = _Leaves.of(batch, tree_rows, wanted, device)
    seen_question, seen_leaf = packed.question.to(device), packed.leaf.to(device)
    draws = _Draws([key for keys in wanted for key in keys], sampling, device)
    going = draws.add(output.logits[leaves.prompt])
    while len(draws.active):
        leaves = leaves.select(going)
        kept, row = leaves.tree.unique(return_inverse=True)
        if len(kept) < len(seen_question):
            cache.batch_select_indices(kept)
            seen_question, seen_leaf = seen_question[kept], seen_leaf[kept]
        leaves = dataclasses.replace(leaves, tree=row)
        ids, question, leaf, position = leaves.columns(draws.last, draws.position - 1)
        seen_question = torch.cat([seen_question, question], dim=1)
        seen_leaf = torch.cat([seen_leaf, leaf], dim=1)
        allowed = can_see(question, leaf, seen_question, seen_leaf)
        output = model(
            input_ids=ids,
            tree_mask=DenseMask(allowed[:, None]),
            position_ids=position.expand(3, -1, -1),
            logits_to_keep=question != PADDING,
            past_key_values=cache,
            use_cache=True,
        )
        going = draws.add(output.logits)
    return draws.tokens


class _Draws:
    """Completions while they grow; `active` are the unfinished ones, in order."""

    def __init__(self, keys: Sequence[tuple[str, int]], sampling: Sampling, device: torch.device) -> None:
        self.tokens: list[list[int]] = [[] for _ in keys]
        self.active = list(range(len(keys)))
        self.position = 0
        """Tokens that each active completion has."""
        self.last = torch.empty(0, dtype=torch.long, device=device)
        """(active,) newest token of each active completion."""
        self._keys = keys
        self._sampling = sampling
        self._processors = logits_processors(sampling, device)
        self._eos = torch.tensor(sampling.eos_ids, dtype=torch.long, device=device)

    def add(self, logits: Tensor) -> Tensor:
        """Draw the next token of each active completion from logits (active, V).

        Returns:
            (still active,) places, among those that were active, of the completions that go on.
        """
        drawn = draw_tokens(
            logits.float(),
            [self._keys[index] for index in self.active],
            [self.position] * len(self.active),
            self._sampling,
            self._processors,
        )
        for index, token in zip(self.active, drawn.tolist(), strict=True):
            self.tokens[index].append(token)
        self.position += 1
        going = (~torch.isin(drawn, self._eos)).nonzero()[:, 0]
        if self.position == self._sampling.max_new_tokens:
            going = going[:0]
        self.last = drawn[going]
        self.active = [self.active[place] for place in going.tolist()]
        return going


@dataclass(frozen=True)
class _Leaves:
    """Where each unfinished completion hangs, in order of trees; all tensors are (leaves,)."""

    tree: Tensor
    """Row of the cache."""
    prompt: Tensor
    """Place of its prompt among all prompts of the pass."""
    question: Tensor
    """Number of its question within the tree."""
    leaf: Tensor
    """Number of its own within the pass."""
    next_position: Tensor
    """Position of its first token."""

    @classmethod
    def of(
        cls,
        batch: PromptBatch,
        tree_rows: Sequence[Sequence[int]],
        wanted: Sequence[Sequence[tuple[str, int]]],
        device: torch.device,
    ) -> "_Leaves":
        where = [(tree, question, row) for tree, rows in enumerate(tree_rows) for question, row in enumerate(rows)]
        values = [
            (tree, prompt, question, batch.positions[row].next_position)
            for prompt, ((tree, question, row), keys) in enumerate(zip(where, wanted, strict=True))
            for _ in keys
        ]
        tree, prompt, question, next_position = torch.tensor(values, device=device).T
        return cls(tree, prompt, question, torch.arange(len(values), device=device), next_position)

    def select(self, kept: Tensor) -> "_Leaves":
        """Keep the leaves at these places."""
        return _Leaves(*(getattr(self, field.name)[kept] for field in dataclasses.fields(self)))

    def columns(self, tokens: Tensor, position: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Lay one token per leaf out as rows of trees.

        Returns:
            ids, question, leaf and positions, each (trees, most leaves of a tree), padded right.
        """
        counts = self.tree.bincount()
        slot = torch.arange(len(self.tree), device=tokens.device) - (counts.cumsum(0) - counts)[self.tree]
        shape = (len(counts), int(counts.max()))

        def laid_out(values: Tensor, padding: int) -> Tensor:
            out = torch.full(shape, padding, dtype=torch.long, device=tokens.device)
            out[self.tree, slot] = values
            return out

        return (
            laid_out(tokens, 0),
            laid_out(self.question, PADDING),
            laid_out(self.leaf, PREFIX),
            laid_out(self.next_position + position, 0),
        )
