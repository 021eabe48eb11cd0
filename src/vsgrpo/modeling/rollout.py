"""Draw completions: each unique prompt is read once, then all its completions advance together.

Sampling is keyed: a token's noise depends on (run seed, step, row id, completion index, position) and nothing else. So
the same completions come out of any batch order, chunking, layout and number of processes (float32), and the global
random state is neither read nor moved.

Legend: B completions, V vocabulary.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    MinPLogitsWarper,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vsgrpo.modeling.attention import DenseMask, build_mask, require_tree_attention
from vsgrpo.modeling.bundle import MediaFeatures, PromptBatch, base_model, unwrap
from vsgrpo.modeling.tree import PADDING, PREFIX, Prompt, build_trees, can_see, lay_out_leaves, pack

Phase = Callable[[str], AbstractContextManager[Any]]
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_LARGEST_V_NEGATED = -(1 - 2.0**-24)
# int64 temporaries of 4 x 152k entries stay inside a CPU's cache; more rows at a time are slower.
_NOISE_ENTRIES_PER_CHUNK = 4 * 152_064


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn."""

    seed: int
    """Run seed."""
    step: int
    """Optimizer steps done over all stages when the rollout starts; 0 in evaluation."""
    max_new_tokens: int
    eos_ids: tuple[int, ...]
    """A completion ends with the first of these (kept)."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    """1, 0 and 0 switch these three off."""
    suppress: tuple[int, ...] = ()
    """Never drawn: vision tokens at least, or a later pass would count them as placeholders."""
    greedy: bool = False
    """Take the likeliest token that is not suppressed; temperature and the rest play no part."""

    def __post_init__(self) -> None:
        if not self.greedy and self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature}: must be above 0, or greedy=True")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens}: must be at least 1")


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
    order, draw = list(range(len(batch.unique))), _draw
    if layout == "tree":
        require_tree_attention(model)
        draw = functools.partial(_draw_packed, attention=attention)
        videos = [prompt.videos for prompt in batch.unique]
        order.sort(key=lambda row: videos.index(videos[row]))  # prompts of the same videos share a tree
    completions: dict[int, list[int]] = {}
    step, was_training = prompts_per_pass or len(order), model.training
    model.eval()
    try:
        for start in range(0, len(order), step):
            rows = order[start : start + step]
            asked = [(prompt, index) for prompt, row in enumerate(rows) for index in members[row]]
            places = [index for _, index in asked]
            draws = _Draws([keys[i] for i in places], [prompt for prompt, _ in asked], sampling, batch.device)
            draw(unwrap(model), batch, rows, draws, phase)
            completions |= zip(places, draws.tokens, strict=True)
    finally:
        model.train(was_training)
    return [completions[index] for index in range(len(keys))]


def _prefill(model: nn.Module, **inputs: Any) -> tuple[Tensor, DynamicCache]:
    cache = DynamicCache(config=base_model(model).config.text_config)
    return model(**inputs, past_key_values=cache, use_cache=True).logits, cache


def _draw(model: nn.Module, batch: PromptBatch, rows: Sequence[int], draws: "_Draws", phase: Phase) -> None:
    """Read the prompts of `rows`, copy the cache of each to its completions and advance them until each has ended."""
    device = batch.device
    ids, positions = batch.layout(rows, [()] * len(rows))
    lengths = torch.tensor([len(batch.unique[row].token_ids) for row in rows], device=device)
    with phase("prefill"):
        logits, cache = _prefill(
            model,
            input_ids=ids,
            position_ids=positions,
            mm_encoder_outputs=batch.row_features(rows),
            logits_to_keep=(lengths - 1)[:, None],
        )
    cache.batch_select_indices(draws.prompt)
    # Padding between prompt and completion stays in the cache and is masked; positions go on as if it were not there.
    seen = (torch.arange(ids.shape[1], device=device) < lengths[:, None])[draws.prompt]
    next_position = torch.tensor([batch.positions[row].next_position for row in rows], device=device)[draws.prompt]
    going = draws.add(logits[:, 0][draws.prompt])
    while draws.active:
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


def _draw_packed(
    model: nn.Module, batch: PromptBatch, rows: Sequence[int], draws: "_Draws", phase: Phase, attention: str
) -> None:
    """Read the trees of `rows` into a cache that holds every node once and advance all their leaves in it.

    Each step feeds one token per unfinished completion; a tree's tokens form one row, told apart by the mask.
    """
    device = batch.device
    trees = build_trees([batch.unique[row] for row in rows], [()] * len(rows), share=True)
    places = iter(rows)
    tree_rows = [[next(places) for _ in tree.questions] for tree in trees]
    packed = pack(trees, [[batch.positions[row] for row in part] for part in tree_rows], for_rollout=True)
    with phase("prefill"):
        logits, cache = _prefill(
            model,
            input_ids=packed.ids.to(device),
            position_ids=packed.positions.to(device),
            tree_mask=build_mask(packed, attention, device),
            mm_encoder_outputs=batch.tree_features(trees, tree_rows),
            logits_to_keep=packed.predicts.to(device),
        )
    seen_question, seen_leaf = packed.question.to(device), packed.leaf.to(device)
    # Of each completion: its tree (row of the cache), its question in the tree, and the position of its first token.
    prompts = [
        (tree, question, batch.positions[row].next_position)
        for tree, part in enumerate(tree_rows)
        for question, row in enumerate(part)
    ]
    tree, question, start = torch.tensor(prompts, device=device)[draws.prompt].T
    leaf = torch.arange(len(tree), device=device)
    going = draws.add(logits[draws.prompt])
    while draws.active:
        tree, question, start, leaf = (part[going] for part in (tree, question, start, leaf))
        kept, tree = tree.unique(return_inverse=True)
        if len(kept) < len(seen_question):
            cache.batch_select_indices(kept)
            seen_question, seen_leaf = seen_question[kept], seen_leaf[kept]
        values = ((draws.last, 0), (question, PADDING), (leaf, PREFIX), (start + draws.position - 1, 0))
        ids, new_question, new_leaf, position = lay_out_leaves(tree, values)
        seen_question = torch.cat([seen_question, new_question], dim=1)
        seen_leaf = torch.cat([seen_leaf, new_leaf], dim=1)
        allowed = can_see(new_question, new_leaf, seen_question, seen_leaf)
        output = model(
            input_ids=ids,
            tree_mask=DenseMask(allowed[:, None]),
            position_ids=position.expand(3, -1, -1),
            logits_to_keep=new_question != PADDING,
            past_key_values=cache,
            use_cache=True,
        )
        going = draws.add(output.logits)


class _Draws:
    """Completions while they grow; `active` are the unfinished ones, in order."""

    def __init__(
        self, keys: Sequence[tuple[str, int]], prompts: Sequence[int], sampling: Sampling, device: torch.device
    ) -> None:
        self.tokens: list[list[int]] = [[] for _ in keys]
        self.prompt = torch.tensor(prompts, device=device)
        """(B,) place of each completion's prompt among the prompts that are read together."""
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
        """Draw the next token of each active completion from logits (active, V); return the places that go on."""
        keys = [self._keys[index] for index in self.active]
        drawn = draw_tokens(logits.float(), keys, self.position, self._sampling, self._processors)
        for index, token in zip(self.active, drawn.tolist(), strict=True):
            self.tokens[index].append(token)
        self.position += 1
        going = (~torch.isin(drawn, self._eos)).nonzero()[:, 0]
        if self.position == self._sampling.max_new_tokens:
            going = going[:0]
        self.last = drawn[going]
        self.active = [self.active[place] for place in going.tolist()]
        return going


def logits_processors(sampling: Sampling, device: torch.device) -> LogitsProcessorList:
    """Build suppress -> temperature -> top-k -> top-p -> min-p, transformers' own processors in its own order."""
    processors = LogitsProcessorList()
    if sampling.suppress:
        processors.append(SuppressTokensLogitsProcessor(sampling.suppress, device=str(device)))
    if sampling.greedy:
        return processors
    if sampling.temperature != 1:
        processors.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k > 0:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0:
        processors.append(MinPLogitsWarper(sampling.min_p))
    return processors


def draw_tokens(
    logits: Tensor, keys: Sequence[tuple[str, int]], position: int, sampling: Sampling, processors: LogitsProcessorList
) -> Tensor:
    """Draw one token per row.

    Args:
        logits: (B, V) of the model, float32.
        keys: (row id, completion index) of each row.
        position: index of the token within its completion.
        processors: from `logits_processors`; they are given no token history.

    Returns:
        (B,) int64.
    """
    scores = processors(logits.new_empty(len(keys), 0, dtype=torch.long), logits)  # type: ignore[arg-type]
    if sampling.greedy:
        return scores.argmax(dim=-1)
    vocab, tokens = scores.shape[1], []
    noise_keys = [noise_key(sampling.seed, sampling.step, *key, position) for key in keys]
    rows = max(1, _NOISE_ENTRIES_PER_CHUNK // vocab)
    for start in range(0, len(keys), rows):
        noise = gumbel(noise_keys[start : start + rows], vocab, scores.device)
        tokens.append((scores[start : start + rows] + noise).argmax(dim=-1))
    return torch.cat(tokens)


def noise_key(seed: int, step: int, row_id: str, completion_index: int, position: int) -> int:
    """Hash the five values to 64 bits: blake2b-8, little endian, of their JSON list."""
    text = json.dumps([int(seed), int(step), row_id, int(completion_index), int(position)])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def gumbel(noise_keys: Sequence[int], vocab_size: int, device: torch.device | str = "cpu") -> Tensor:
    """Return standard Gumbel noise (B, V): row b, token i depends on (noise_keys[b], i) alone.

    An argmax of log-probs + Gumbel noise is a draw from the distribution (the Gumbel-max trick).
    u = splitmix64 of key + i * golden ratio; v = (top 32 bits + 0.5) / 2^32; E = -log1p(-v) is exponential; noise =
    -log E. The large noises that win come from small v, where float32 is dense: no ties from rounding. The 128 largest
    values of the top 32 bits round up to v = 1 in float32; v stays at the float32 below, so that all noise is finite.
    """
    start = torch.tensor([_signed(key) for key in noise_keys], dtype=torch.long, device=device)
    steps = torch.arange(vocab_size, dtype=torch.long, device=device).mul_(_signed(_GOLDEN))
    top = splitmix64(start[:, None] + steps).bitwise_right_shift_(32).bitwise_and_(0xFFFFFFFF)
    # In place throughout: a real vocabulary makes this memory-bound.
    values = top.float()
    half = torch.full((), -(2.0**-33), device=values.device)
    minus_v = torch.sub(half, values, alpha=2.0**-32, out=values).clamp_(min=_LARGEST_V_NEGATED)
    return minus_v.log1p_().neg_().log_().neg_()


def splitmix64(state: Tensor) -> Tensor:
    """Mix 64-bit states (int64 bit patterns) to 64 pseudo-random bits each.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014), output function (Stafford's
    variant 13). int64 products wrap like unsigned ones; right shifts are made logical by masking the sign's copies.
    """
    state = state.clone()
    shifted = torch.empty_like(state)
    for shift, factor in ((30, _MIX_1), (27, _MIX_2), (31, 1)):
        torch.bitwise_right_shift(state, shift, out=shifted)
        state.bitwise_xor_(shifted.bitwise_and_((1 << 64 - shift) - 1)).mul_(_signed(factor))
    return state


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
