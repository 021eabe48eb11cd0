"""Draw completions: each unique prompt is read once, then all its completions advance together.

A token depends on the noise of its own key (`sampling`), so one that is drawn after its completion has ended disturbs
nothing: on a GPU the host looks for ends every few tokens, and cuts each completion there.

Legend: B completions, V vocabulary.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

from vsgrpo.modeling.attention import TREE_ATTENTION, require_tree_attention
from vsgrpo.modeling.bundle import MediaFeatures, PromptBatch, base_model, language_model, unwrap
from vsgrpo.modeling.sampling import Sampling, draw_tokens, logits_processors, noise_keys
from vsgrpo.modeling.tree import PADDING, PREFIX, Prompt, build_trees, can_see, lay_out_leaves, pack
from vsgrpo.modeling.tree_masks import DenseMask, build_mask
from vsgrpo.modeling.tree_states import RECURRENT, StateLayer, next_states, packed_states, row_states, select

Phase = Callable[[str], AbstractContextManager[Any]]
TOKENS_PER_LOOK = {"cpu": 1, "cuda": 8}
"""Tokens that are drawn between two looks for ends. A CPU computes what a look would have saved; a GPU waits for it."""
_ROOM = 64
"""Tokens that a cache has room for before it is copied, at least; a quarter of its length where that is more."""


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
    order, draw = list(range(len(batch.unique))), _draw
    if layout == "tree":
        draw = functools.partial(_draw_packed, attention=attention)
        videos = [prompt.videos for prompt in batch.unique]
        order.sort(key=lambda row: videos.index(videos[row]))  # prompts of the same videos share a tree
    completions: dict[int, list[int]] = {}
    look = tokens_per_look or TOKENS_PER_LOOK.get(batch.device.type, TOKENS_PER_LOOK["cuda"])
    step = prompts_per_pass or len(order)
    with _in_eval_mode(model):
        for start in range(0, len(order), step):
            rows = order[start : start + step]
            asked = [(prompt, index) for prompt, row in enumerate(rows) for index in members[row]]
            places = [index for _, index in asked]
            draws = _Draws([keys[i] for i in places], [prompt for prompt, _ in asked], sampling, batch.device, look)
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
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class _RoomyLayer(DynamicLayer):
    """Keys and values in a buffer with room for tokens to come: the stock layer copies all of them for every token.

    Args:
        to_come: columns that will be appended at most after the first ones.
    """

    def __init__(self, to_come: int) -> None:
        super().__init__()
        self._to_come, self._most = to_come, 0
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append, and return views of all keys and values (B, key heads, tokens, head)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._most = key_states.shape[2] + self._to_come
        used = self.get_seq_length()
        end = used + key_states.shape[2]
        if self._buffers is None or self._buffers[0].shape[2] < end:
            room = end + max(_ROOM, end // 4)
            room = min(room, self._most) if end <= self._most else room
            shape = (*key_states.shape[:2], room, key_states.shape[3])
            buffers = key_states.new_empty(shape), value_states.new_empty(shape)
            if used:
                assert self.keys is not None and self.values is not None
                buffers[0][:, :, :used], buffers[1][:, :, :used] = self.keys, self.values
            self._buffers = buffers
        keys, values = self._buffers
        keys[:, :, used:end], values[:, :, used:end] = key_states, value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows; they lie in no buffer until the next token."""
        super().batch_select_indices(indices)  # type: ignore[arg-type]
        self._buffers = None


def _prefill(model: nn.Module, to_come: int, **inputs: Any) -> tuple[Tensor, DynamicCache]:
    cache = DynamicCache(config=base_model(model).config.text_config)
    kinds = {DynamicLayer: lambda: _RoomyLayer(to_come), LinearAttentionLayer: StateLayer}
    cache.layers = [kinds[type(layer)]() if type(layer) in kinds else layer for layer in cache.layers]
    return model(**inputs, past_key_values=cache, use_cache=True).logits, cache


def _draw(model: nn.Module, batch: PromptBatch, rows: Sequence[int], draws: "_Draws", phase: Phase) -> None:
    """Read the prompts of `rows`, copy the cache of each to its completions and advance them until each has ended."""
    device = batch.device
    ids, positions = batch.layout(rows, [()] * len(rows))
    lengths, width = [len(batch.unique[row].token_ids) for row in rows], ids.shape[1]
    with phase("prefill"):
        logits, cache = _prefill(
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
    model: nn.Module, batch: PromptBatch, rows: Sequence[int], draws: "_Draws", phase: Phase, attention: str
) -> None:
    """Read the trees of `rows` into a cache that holds every node once and advance all their leaves in it.

    Each step feeds one token per unfinished completion; a tree's tokens form one row, told apart by the mask.
    """
    require_tree_attention(model)
    device = batch.device
    trees = build_trees([batch.unique[row] for row in rows], [()] * len(rows), share=True)
    left = iter(rows)
    tree_rows = [[next(left) for _ in tree.questions] for tree in trees]
    packed = pack(trees, [[batch.positions[row] for row in part] for part in tree_rows], for_rollout=True)
    # Of each prompt: its tree, its question in the tree, and the position of the first token of its completions.
    prompts = [
        (tree, question, batch.positions[row].next_position)
        for tree, part in enumerate(tree_rows)
        for question, row in enumerate(part)
    ]
    leaves = [(*prompts[place], leaf) for leaf, place in enumerate(draws.prompt.tolist())]
    most_leaves = lay_out_leaves([tree for tree, *_ in leaves]).shape[1]
    with phase("prefill"):
        logits, cache = _prefill(
            model,
            draws.max_tokens * most_leaves,
            input_ids=packed.ids.to(device),
            position_ids=packed.positions.to(device),
            tree_mask=build_mask(packed, attention, device),
            mm_encoder_outputs=batch.tree_features(trees, tree_rows),
            logits_to_keep=packed.predicts.to(device),
            **packed_states(model, packed, device),
        )
    select(cache, None, draws.prompt)
    seen_question, seen_leaf, tree_of_row = packed.question.to(device), packed.leaf.to(device), [*range(len(trees))]
    going = draws.add(logits[draws.prompt]) or range(len(leaves))
    while draws.active:
        if going is not None:
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
        tokens_per_look: tokens between two looks.
    """

    def __init__(
        self,
        keys: Sequence[tuple[str, int]],
        prompts: Sequence[int],
        sampling: Sampling,
        device: torch.device,
        tokens_per_look: int,
    ) -> None:
        self.tokens: list[list[int]] = [[] for _ in keys]
        self.prompt = torch.tensor(prompts, device=device)
        self.active = list(range(len(keys)))
        self.position = 0
        """Tokens that have been drawn for each active completion."""
        self.last = torch.empty(0, dtype=torch.long, device=device)
        """(active,) newest token of each active completion."""
        self.max_tokens = sampling.max_new_tokens
        self._keys, self._sampling, self._tokens_per_look = keys, sampling, tokens_per_look
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
