"""Log-probabilities of completions, the one model call of every trainer's loss.

Legend: B rows, L tokens of the longest row, V vocabulary, C tokens of one completion.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vsgrpo.modeling.attention import require_tree_attention
from vsgrpo.modeling.bundle import MediaFeatures, PromptBatch, language_model
from vsgrpo.modeling.head import scoring_head
from vsgrpo.modeling.lora import adapters_off
from vsgrpo.modeling.tree import Tree, pack
from vsgrpo.modeling.tree_masks import build_mask
from vsgrpo.modeling.tree_states import packed_states

LAYOUTS = ("plain", "tree")
_Pass = tuple[dict[str, Any], Tensor, list[int]]
"""Arguments of one model call, the labels of the logits that it keeps, and the number of labels of each completion."""


class AdapterOff(nn.Module):
    """Stands for the reference where TRL asks for a model: the policy with its adapter switched off."""


def logps(
    model: nn.Module,
    trees: Sequence[Tree],
    features: Mapping[str, MediaFeatures],
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    adapter: bool = True,
    layout: str = "plain",
    attention: str = "auto",
    rows_per_pass: int | None = None,
    chunk: int | None = None,
) -> list[tuple[Tensor, Tensor | None]]:
    """Score every token of every completion; gradients flow to model and features where they are enabled.

    The model is called through its own forward (so distributed wrappers see it), the language head runs on completion
    tokens only, and the vision tower never runs: its features are given.

    Args:
        model: possibly wrapped by adapters and distributed engines; its train or eval mode is left as it is.
        trees: prompts and completions.
        features: of every video that the trees name.
        temperature: logits are divided by it first.
        entropy: also return the entropy of each predicting distribution, without gradient.
        adapter: False scores with LoRA switched off (the reference model).
        layout: `plain` repeats the prompt for each completion, `tree` computes each tree node once: same values and
            gradients.
        attention: kernel of the tree layout: `dense` (every token against every token, masked), `block` (questions as
            a batch), `split` (completions as a batch), `flex` (GPU), or `auto`.
        rows_per_pass: rows per forward (completions, or trees in the tree layout), None for all in one.
        chunk: predicting tokens that the language head takes at a time, None for the device's default.

    Returns:
        per leaf, in order: (log-probs (C,), entropies (C,) in nats or None), float32.

    Raises:
        ValueError: `adapter=False` without an adapter, or an unknown layout.
        RunError: placeholders and features differ.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout}: not one of {', '.join(LAYOUTS)}")
    with contextlib.nullcontext() if adapter else adapters_off(model):
        if not trees:
            return []
        if layout == "tree":
            passes = _tree_passes(model, trees, features, attention, rows_per_pass)
        else:
            passes = _row_passes(model, trees, features, rows_per_pass)
        options: dict[str, Any] = {"temperature": temperature, "entropy": entropy, "chunk": chunk}
        return [scored for each in passes for scored in _score(model, *each, **options)]


def _row_passes(
    model: nn.Module, trees: Sequence[Tree], features: Mapping[str, MediaFeatures], rows_per_pass: int | None
) -> Iterator[_Pass]:
    asked = [
        (prompt, completion)
        for tree in trees
        for prompt, question in zip(tree.prompts(), tree.questions, strict=True)
        for completion in question.completions
    ]
    batch = PromptBatch(model, [prompt for prompt, _ in asked], features)
    step = rows_per_pass or max(len(asked), 1)
    for start in range(0, len(asked), step):
        rows = batch.index[start : start + step]
        completions = [completion for _, completion in asked[start : start + step]]
        ids, positions = batch.layout(rows, completions)
        # The token before a completion token predicts it: columns P - 1 .. P + C - 2 of a row with P prompt tokens.
        first = torch.tensor([len(batch.unique[row].token_ids) - 1 for row in rows])[:, None]
        sizes = list(map(len, completions))
        column = torch.arange(ids.shape[1])
        predicts = (column >= first) & (column < first + torch.tensor(sizes)[:, None])
        inputs = {
            "input_ids": ids,
            "position_ids": positions,
            "mm_encoder_outputs": batch.row_features(rows),
            "logits_to_keep": predicts.to(batch.device),
        }
        yield inputs, torch.tensor(list(itertools.chain(*completions)), dtype=torch.long), sizes


def _tree_passes(
    model: nn.Module,
    trees: Sequence[Tree],
    features: Mapping[str, MediaFeatures],
    attention: str,
    rows_per_pass: int | None,
) -> Iterator[_Pass]:
    require_tree_attention(model)
    batch = PromptBatch(model, [prompt for tree in trees for prompt in tree.prompts()], features)
    places = iter(batch.index)
    rows = [[next(places) for _ in tree.questions] for tree in trees]
    step = rows_per_pass or len(trees)
    for start in range(0, len(trees), step):
        part, part_rows = trees[start : start + step], rows[start : start + step]
        packed = pack(part, [[batch.positions[row] for row in questions] for questions in part_rows])
        inputs = {
            "input_ids": packed.ids.to(batch.device),
            "position_ids": packed.positions.to(batch.device),
            "tree_mask": build_mask(packed, attention, batch.device, language_model(model).dtype),
            **packed_states(model, packed, batch.device),
            "mm_encoder_outputs": batch.tree_features(part, part_rows),
            "logits_to_keep": packed.predicts.to(batch.device),
        }
        sizes = [len(leaf) for tree in part for question in tree.questions for leaf in question.completions]
        yield inputs, packed.targets, sizes


def _score(
    model: nn.Module, inputs: dict[str, Any], targets: Tensor, sizes: list[int], *, entropy: bool, **options: Any
) -> list[tuple[Tensor, Tensor | None]]:
    """Call the model once and score the completions of the pass."""
    with scoring_head(model, targets.to(inputs["input_ids"].device), entropy=entropy, **options):
        scores, entropies = model(**inputs, use_cache=False).logits
    split = entropies.split(sizes) if entropy else [None] * len(sizes)
    return list(zip(scores.split(sizes), split, strict=True))
