"""Draw completions: each unique prompt is read once, then all its completions advance together.

A token depends on the noise of its own key (`sampling`), so one that is drawn after its completion has ended disturbs
nothing: on a GPU the host looks for ends every few tokens, and cuts each completion there.

Legend: B completions, V vocabulary.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from vsgrpo.modeling.attention import TREE_ATTENTION, require_tree_attention
from vsgrpo.modeling.bundle import MediaFeatures, PromptBatch, language_model, unwrap
from vsgrpo.modeling.cache import Phase, prefill, read_trees
from vsgrpo.modeling.decode_graph import draw_by_fixed_steps
from vsgrpo.modeling.lora import modules_of
from vsgrpo.modeling.sampling import Sampling, draw_tokens, logits_processors, noise_keys
from vsgrpo.modeling.tree import PADDING, PREFIX, Prompt, can_see, lay_out_leaves
from vsgrpo.modeling.tree_masks import DenseMask
from vsgrpo.modeling.tree_states import RECURRENT, next_states, row_states, select

TOKENS_PER_LOOK = {"cpu": 1, "cuda": 8}
"""Tokens that are drawn between two looks for ends. A CPU computes what a look would have saved; a GPU waits for it."""


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
    tokens_per_look: int | None = None,
    graph: bool = False,
    phase: Phase = nullcontext,
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
        layout: `plain` or `tree`: the same tokens.
        attention: kernel that reads prompts in the tree layout, see `logps`.
        phase: called with "prefill", opens the context in which prompts are read (a clock's).
        prompts_per_pass: unique prompts read and continued together, None for all; bounds memory, changes no token.
        tokens_per_look: tokens drawn between two looks for ends, None: by the device; changes no token.
        graph: draw by steps of one shape, which a GPU records once and replays (`decode_graph`); changes no token.

    Returns:
        token ids per key, the EOS token included if one was drawn.

    Raises:
        ValueError: the number of keys is no multiple of the number of prompts, or an unknown layout.
        RunError: placeholders and features differ.
    """
    if not keys:
        return []
    group = _group_size(prompts, keys, layout)
    batch = PromptBatch(model, prompts, features)
    members = _completions_of(batch, group)
    order, draw = list(range(len(batch.unique))), functools.partial(_draw, graph=graph)
    if layout == "tree":
        draw = functools.partial(_draw_packed, attention=attention, graph=graph)
        videos = [prompt.videos for prompt in batch.unique]
        order.sort(key=lambda row: videos.index(videos[row]))  # prompts of the same videos share a tree
    completions: dict[int, list[int]] = {}
    step = prompts_per_pass or len(order)
    with _in_eval_mode(model):
        for start in range(0, len(order), step):
            rows = order[start : start + step]
            asked = [(prompt, index) for prompt, row in enumerate(rows) for index in members[row]]
            owners, places = zip(*asked, strict=True)
            draws = _Draws([keys[i] for i in places], owners, sampling, batch.device, tokens_per_look)
            draw(unwrap(model), batch, rows, draws, phase)
            completions |= zip(places, draws.tokens, strict=True)
    return [completions[index] for index in range(len(keys))]


def _group_size(prompts: Sequence[Prompt], keys: Sequence[tuple[str, int]], layout: str) -> int:
    if layout not in ("plain", "tree"):
        raise ValueError(f"layout={layout}: not one of plain, tree")
    if not prompts or len(keys) % len(prompts):
        raise ValueError(f"{len(keys)} keys are no multiple of {len(prompts)} prompts")
    return len(keys) // len(prompts)


def _completions_of(batch: PromptBatch, group: int) -> list[list[int]]:
    """Return the numbers of the completions of each unique prompt."""
    members: list[list[int]] = [[] for _ in batch.unique]
    for prompt, row in enumerate(batch.index):
        members[row] += range(prompt * group, (prompt + 1) * group)
    return members


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    training = [module for module in modules_of(model) if module.training]
    try:
        _set_training(training, False)
        yield
    finally:
        _set_training(training, True)


def _set_training(modules: Sequence[nn.Module], mode: bool) -> None:
    for module in modules:  # thousands, for which torch's own setter takes longer than a token
        object.__setattr__(module, "training", mode)


def _draw(
    model: nn.Module, batch: PromptBatch, rows: Sequence[int], draws: "_Draws", phase: Phase, graph: bool
) -> None:
    """Read the prompts of `rows`, copy the cache of each to its completions and advance them until each has ended."""
    device = batch.device
    ids, positions = batch.layout(rows, [()] * len(rows))
    lengths, width = [len(batch.unique[row].token_ids) for row in rows], ids.shape[1]
    with phase("prefill"):
        logits, cache = prefill(
            model,
            draws.max_tokens,
            input_ids=ids,
            position_ids=positions,
            mm_encoder_outputs=batch.row_features(rows),
            logits_to_keep=torch.tensor(lengths, device=device)[:, None] - 1,
            **row_states(model, lengths, width, device),
        )
    cache.batch_select_indices(draws.prompt)
    # Padding between prompt and completion stays in the cache and is masked; positions go on as if it were not there.
    lengths = [lengths[place] for place in draws.prompt.tolist()]
    seen = torch.ones(len(lengths), width + draws.max_tokens, dtype=torch.bool, device=device)
    seen[:, :width] = torch.arange(width, device=device) < torch.tensor(lengths, device=device)[:, None]
    next_position = torch.tensor([batch.positions[row].next_position for row in rows], device=device)[draws.prompt]
    going = draws.add(logits[:, 0][draws.prompt])
    if graph:  # to the end of all
        draw_by_fixed_steps(model, cache, range(len(lengths)), next_position, seen[:, :width], draws, going)
    while draws.active:
        if going is not None and len(going) < len(lengths):
            kept = torch.tensor(going, device=device)
            cache.batch_select_indices(kept)
            seen, next_position, lengths = seen[kept], next_position[kept], [lengths[place] for place in going]
        places = torch.arange(len(lengths), device=device)
        mask = None if min(lengths) == width else _mask(model, seen[:, : width + draws.position])
        output = model(
            input_ids=draws.last[:, None],
            attention_mask=mask,
            position_ids=(next_position + draws.position - 1).expand(3, -1)[:, :, None],
            past_key_values=cache,
            use_cache=True,
            **next_states(model, places, len(places)),
        )
        going = draws.add(output.logits[:, 0])


def _mask(model: nn.Module, seen: Tensor) -> Any:
    """Return the mask of one query per row; where it is ready made the library need not look at it, and wait for it."""
    config = language_model(model).config
    if config._attn_implementation not in ("sdpa", TREE_ATTENTION):
        return seen.long()
    ready = seen[:, None, None]
    has_kinds = getattr(config, "layer_types", None)  # Qwen3-VL has layers of one kind only, and takes no mapping
    return {"full_attention": ready, RECURRENT: None} if has_kinds else ready


def _draw_packed(
    model: nn.Module,
    batch: PromptBatch,
    rows: Sequence[int],
    draws: "_Draws",
    phase: Phase,
    attention: str,
    graph: bool,
) -> None:
    """Read the trees of `rows` and advance all their leaves in one cache.

    Each step feeds one token per unfinished completion; a tree's tokens form one row, told apart by the mask.
    """
    require_tree_attention(model)
    device = batch.device
    leaves, packed, logits, cache = read_trees(model, batch, rows, draws.prompt, draws.max_tokens, phase, attention)
    seen_question, seen_leaf = packed.question.to(device), packed.leaf.to(device)
    tree_of_row = [*range(len(packed.ids))]
    going = draws.add(logits[draws.prompt])
    if graph:  # to the end of all
        tree, question, start, leaf = torch.tensor(leaves, device=device).T
        seen = can_see(question[:, None], leaf[:, None], seen_question[tree], seen_leaf[tree])[:, 0]
        draw_by_fixed_steps(model, cache, [tree for tree, *_ in leaves], start, seen, draws, going)
    going, slots = range(len(leaves)) if going is None else going, None
    while draws.active:
        if slots is None or (going is not None and len(going) < len(leaves)):
            assert going is not None
            if len(going) < len(leaves):
                select(cache, None, torch.tensor(going, device=device))
            leaves = [leaves[place] for place in going]
            kept = sorted({tree for tree, *_ in leaves})
            if len(kept) < len(tree_of_row):
                rows_left = torch.tensor([tree_of_row.index(tree) for tree in kept], device=device)
                select(cache, rows_left, None)
                seen_question, seen_leaf, tree_of_row = seen_question[rows_left], seen_leaf[rows_left], kept
            tree, question, start, leaf = zip(*leaves, strict=True)
            slots = lay_out_leaves([kept.index(each) for each in tree]).to(device)
            new_question, new_leaf, first = (
                slots.lay_out(torch.tensor(values, device=device), padding)
                for values, padding in ((question, PADDING), (leaf, PREFIX), (start, 0))
            )
            states = next_states(model, slots.tree * slots.shape[1] + slots.slot, new_leaf.numel())
        seen_question = torch.cat([seen_question, new_question], dim=1)
        seen_leaf = torch.cat([seen_leaf, new_leaf], dim=1)
        allowed = can_see(new_question, new_leaf, seen_question, seen_leaf)
        output = model(
            input_ids=slots.lay_out(draws.last, 0),
            tree_mask=DenseMask(allowed[:, None]),
            position_ids=(first + draws.position - 1).expand(3, -1, -1),
            # Empty slots cost a CPU work; a GPU would have to wait for their number.
            logits_to_keep=new_question != PADDING if device.type == "cpu" else 0,
            past_key_values=cache,
            use_cache=True,
            **states,
        )
        going = draws.add(output.logits if device.type == "cpu" else slots.pick(output.logits))


class _Draws:
    """Completions while they grow; `active` are those that had not ended when the host last looked, in order.

    Args:
        prompts: place of each completion's prompt among the prompts that are read together.
        tokens_per_look: tokens between two looks, None: by the device.
    """

    def __init__(
        self,
        keys: Sequence[tuple[str, int]],
        prompts: Sequence[int],
        sampling: Sampling,
        device: torch.device,
        tokens_per_look: int | None,
    ) -> None:
        self.tokens: list[list[int]] = [[] for _ in keys]
        self.prompt = torch.tensor(prompts, device=device)
        self.active = list(range(len(keys)))
        self.position = 0
        """Tokens that have been drawn for each active completion."""
        self.last = torch.empty(0, dtype=torch.long, device=device)
        """(active,) newest token of each active completion."""
        self.max_tokens = sampling.max_new_tokens
        self._keys, self._sampling = keys, sampling
        self._tokens_per_look = tokens_per_look or TOKENS_PER_LOOK.get(device.type, TOKENS_PER_LOOK["cuda"])
        self._processors = logits_processors(sampling, device)
        self._drawn: list[Tensor] = []
        """Tokens (active,) since the last look."""
        self._noise: Tensor | None = None
        """Keys (tokens to the next look, active) of their noise; None for greedy draws."""

    def add(self, logits: Tensor) -> list[int] | None:
        """Draw the next token of each active completion from logits (active, V).

        Returns:
            the places of those that go on, None between two looks: all do.
        """
        until_look = min(self._tokens_per_look, self.max_tokens - self.position + len(self._drawn))
        if not self._drawn and not self._sampling.greedy:
            keys = [self._keys[index] for index in self.active]
            positions = range(self.position, self.position + until_look)
            self._noise = noise_keys(keys, positions, self._sampling, logits.device)
        noise = None if self._noise is None else self._noise[len(self._drawn)]
        self.last = draw_tokens(logits.float(), noise, self._processors)
        self._drawn.append(self.last)
        self.position += 1
        return self._look() if len(self._drawn) == until_look else None

    def _look(self) -> list[int]:
        """Fetch the tokens since the last look, cut completions behind their EOS, and return those that go on."""
        lines, ends, going = torch.stack(self._drawn, dim=1).tolist(), self._sampling.eos_ids, []
        self._drawn = []
        for place, (index, line) in enumerate(zip(self.active, lines, strict=True)):
            count = next((i for i, token in enumerate(line, 1) if token in ends), None)
            self.tokens[index] += line[:count]
            if count is None and self.position < self.max_tokens:
                going.append(place)
        if len(going) < len(self.active):
            self.active = [self.active[place] for place in going]
            self.last = self.last[torch.tensor(going, dtype=torch.long, device=self.last.device)]
        return going
