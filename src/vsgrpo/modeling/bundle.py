"""A loaded model with all that belongs to it, the way to its parts, and its inputs: positions, features, padded rows.

No frame is needed for positions, which are made by the rule of the model itself: the header of a video tells its grid.

Legend: B rows, L tokens of a prompt or of the longest row, N features, D width of the language model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vsgrpo.errors import ConfigError, DataError, RunError
from vsgrpo.families import FAMILIES
from vsgrpo.families.family import Family
from vsgrpo.families.vision_record import PUBLISHED
from vsgrpo.modeling.adapters import BaseIdentity
from vsgrpo.modeling.tree import Prompt, PromptPositions, Tree
from vsgrpo.terminal import counted
from vsgrpo.video.budget import Medium

_HEADER = "<|im_start|>assistant\n"
MmEncoderOutputs = dict[str, BaseModelOutputWithPooling] | None
"""What the model's `mm_encoder_outputs` takes."""


@dataclass
class ModelBundle:
    """A loaded model with all that is needed to use and to save it."""

    model: Any
    """The family's `...ForConditionalGeneration`, or a `PeftModel` around it."""
    processor: Any
    tokenizer: Any
    family: Any
    """Its `Family`; None for an instruct model of another one (`load.load` with `any_family`)."""
    base: str
    """Folder or hub id of the full weights."""
    earlier_adapters: list[Path] = field(default_factory=list)
    """Adapter folders merged into the base in memory, in order, before this run's own adapter."""
    earlier_hashes: list[str] = field(default_factory=list)
    """`adapters.adapter_hash` of each of them as it was loaded."""
    identity: BaseIdentity | None = None
    """Identity of the full weights as they were loaded; None where no adapter is on them."""
    vision_marks: str = "published"
    """A value of prompt.vision_marks, see `families.vision_record`."""

    @property
    def text_after_video(self) -> str:
        """The rule by which the model's positions go on after a video, a value of model.text_after_video."""
        return base_model(self.model).text_after_video

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Write a conversation by the chat template, up to and with the assistant's header."""
        options = self.family.template_options if self.family is not None else {}
        return self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)

    @cached_property
    def opening(self) -> str:
        """What the chat template has written of every answer: `<think>` and a line break in thinking variants, else "".

        A completion goes on after it. A thought that the template closes too is no part of the answer.
        """
        turn = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
        begun = self.render(turn).rpartition(_HEADER)[2]
        return begun if "<think>" in begun and "</think>" not in begun else ""

    def check_mode(self, mode: str) -> None:
        """Refuse a value of prompt.mode whose answers cannot begin as the chat template begins every answer.

        Raises:
            ConfigError: the template opens a thought, and the mode is not `think`.
        """
        if self.opening and mode != "think":
            raise ConfigError(
                f"prompt.mode={mode}: the chat template of {self.base} begins every answer with {self.opening.strip()}",
                hint="set prompt=think (eval: prompt.mode=think), or take the Instruct variant of the model",
            )

    def answers(self, completions: Sequence[Sequence[int]]) -> list[str]:
        """Return the answers that completions (token ids) make, with their opening."""
        texts = self.tokenizer.batch_decode(completions, skip_special_tokens=True)
        return [self.opening + text for text in texts]

    def without_opening(self, answer: str) -> str:
        """Return what a completion must say for an answer to be this one.

        Raises:
            DataError: the answer does not begin as the chat template begins every answer.
        """
        opened = self.opening.strip()
        if not answer.lstrip().startswith(opened):
            raise DataError(
                f"answer {answer[:60]!r}: the chat template of {self.base} begins every answer with {opened}",
                hint="train on answers with thoughts, or take the Instruct variant of the model",
            )
        return answer.lstrip().removeprefix(opened).lstrip("\n") if opened else answer


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside distributed wrappers (`.module`), adapters kept."""
    while not hasattr(model, "config") and hasattr(model, "module"):
        model = model.module  # type: ignore[assignment]
    while hasattr(model, "module") and isinstance(model.module, nn.Module):
        model = model.module
    return model


def base_model(model: nn.Module) -> Any:
    """Return the `...ForConditionalGeneration` inside distributed wrappers and adapters."""
    model = unwrap(model)
    return model.get_base_model() if isinstance(model, PeftModel) else model


def vision_tower(model: nn.Module) -> Any:
    """Return the vision tower with its merger, inside wrappers and adapters."""
    return base_model(model).model.visual


def language_model(model: nn.Module) -> Any:
    """Return the language model without its head, inside wrappers and adapters."""
    return base_model(model).model.language_model


def vision_token_ids(model: nn.Module) -> tuple[int, ...]:
    """List the ids that a completion must never contain: placeholders and their marks."""
    config = base_model(model).config
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return tuple(sorted({getattr(config, name) for name in names}))


def use_gradient_checkpointing(model: Any) -> None:
    """Recompute activations in the backward pass of the language model only.

    Non-reentrant checkpoints need no input that requires a gradient, so the embedding hook that would also reach the
    frozen tower's patch embedding is not installed.
    """
    language_model(model).gradient_checkpointing_enable({"use_reentrant": False})


def prompt_positions(model: nn.Module, token_ids: Sequence[int], media: Sequence[Medium]) -> PromptPositions:
    """Compute the positions of one prompt by the model's own rule, its `text_after_video`.

    Source: `get_rope_index` of the family's model in the pinned transformers: text counts up on all axes; video token
    (t, h, w) of a video that starts at s gets (s + t', s + h, s + w), with t' = t in Qwen2-VL and
    t' = floor(t * tokens_per_second * seconds) in Qwen2.5-VL (in Qwen3-VL each temporal patch is a video of one, and
    the time before it is text); the text after it goes on at s + max(height, width) of the merged grid (`library`); an
    image counts as a video of one temporal patch. By `published` all that follows a video moves on to 1 + the maximum
    over all three axes (`families.vision_record`). Completion token t continues the text, as in `generate`: last prompt
    position + 1 + t.

    Args:
        model: possibly wrapped model.
        token_ids: prompt tokens, placeholders expanded; each video or image is followed by text.
        media: the videos and images, in the order of their placeholders.

    Raises:
        DataError: a video of unknown timing, and the family counts seconds.
    """
    inner = base_model(model)
    ids = torch.tensor([list(token_ids)], dtype=torch.long)
    kinds = (ids == inner.config.image_token_id).int() + (ids == inner.config.video_token_id).int() * 2
    images, videos = ([item for item in media if item.kind == kind] for kind in ("image", "video"))
    timing = _timing(FAMILIES[inner.config.model_type], videos)
    positions, _ = inner.model.get_rope_index(
        ids, kinds, image_grid_thw=_grids(images), video_grid_thw=_grids(videos), **timing
    )
    found = positions[:, 0]
    if inner.text_after_video == PUBLISHED:
        found = found + _lag(found, kinds[0] > 0)
    return PromptPositions(found, int(found[0, -1]) + 1)


def _lag(positions: Tensor, is_visual: Tensor) -> Tensor:
    """Return how far text stands behind 1 + the end of the videos before it, summed over them.

    Args:
        positions: (3, L) by which text goes on after rows and columns.
        is_visual: (L,) whether a token is a placeholder.

    Returns:
        (L,) steps to move on by; a video's own tokens move on by those before it.
    """
    after = is_visual.roll(1) & ~is_visual  # the first token of text behind each video or image
    number = after.cumsum(0)  # videos and images that have ended
    ends = torch.zeros(int(number[-1]) + 1, dtype=torch.long)
    ends.scatter_reduce_(0, number[is_visual], positions.amax(0)[is_visual] + 1, "amax")
    lags = torch.zeros_like(ends)
    lags[1:] = ends[:-1] - positions[0, after]
    return lags.cumsum(0)[number]


def _grids(media: Sequence[Medium]) -> Tensor | None:
    return torch.tensor([list(item.grid_thw) for item in media], dtype=torch.long) if media else None


def _timing(family: Family, videos: Sequence[Medium]) -> dict[str, Tensor]:
    if family.seconds_argument is None:
        return {}
    seconds = [video.seconds_per_patch for video in videos]
    if None in seconds:
        raise family.untimed()
    return {family.seconds_argument: torch.tensor(seconds)}


@dataclass(frozen=True)
class MediaFeatures:
    """What the vision tower makes of one video or image."""

    tensor: Tensor
    """(N, D), or wider (`Family.features`), on the model's device; requires grad only if asked for."""
    medium: Medium


class PromptBatch:
    """Unique prompts with positions and features, from which rows are laid out.

    Rows are padded on the right. With causal attention a real token never sees the padding after it, so no attention
    mask is needed and the fast kernels stay usable.

    Args:
        model: possibly wrapped model.
        prompts: any order, repeats allowed.
        features: of every video and image that a prompt names.

    Raises:
        RunError: a video or image has no features, or a prompt's placeholders are not one per feature of its kind.
    """

    def __init__(self, model: nn.Module, prompts: Sequence[Prompt], features: Mapping[str, MediaFeatures]) -> None:
        self.unique = list(dict.fromkeys(prompts))
        index_of = {prompt: index for index, prompt in enumerate(self.unique)}
        self.index = [index_of[prompt] for prompt in prompts]
        """For each prompt given, its place in `unique`."""
        inner = base_model(model)
        by_kind = {"image": inner.config.image_token_id, "video": inner.config.video_token_id}
        self._placeholders = tuple(by_kind.values())
        self.device = inner.get_input_embeddings().weight.device
        self._family, self._width = FAMILIES[inner.config.model_type], inner.config.text_config.hidden_size
        keys = list(dict.fromkeys(key for prompt in self.unique for key in prompt.videos))
        nothing = torch.empty(0, dtype=torch.long)
        places, kinds, start = {}, [nothing], 0
        for key in keys:
            if key not in features:
                raise RunError(f"{key}: no features were computed for this video or image")
            size = len(features[key].tensor)
            places[key] = torch.arange(start, start + size)
            kinds.append(torch.full((size,), by_kind[features[key].medium.kind]))
            start += size
        self._features = torch.cat([features[key].tensor for key in keys]) if keys else None
        self._placeholder_of = torch.cat(kinds)
        """(features,) placeholder of each feature's kind."""
        self._feature_index = [torch.cat([nothing, *(places[key] for key in prompt.videos)]) for prompt in self.unique]
        for prompt, index in zip(self.unique, self._feature_index, strict=True):
            found = [token for token in prompt.token_ids if token in self._placeholders]
            if len(found) != len(index):
                raise RunError(
                    f"prompt of {prompt.videos}: {counted(len(found), 'placeholder')} for "
                    f"{counted(len(index), 'feature')}"
                )
            if found != self._placeholder_of[index].tolist():
                raise RunError(f"prompt of {prompt.videos}: placeholders of images and videos in another order")
        self.positions = [
            prompt_positions(model, prompt.token_ids, [features[key].medium for key in prompt.videos])
            for prompt in self.unique
        ]

    def tree_features(self, trees: Sequence[Tree], rows: Sequence[Sequence[int]]) -> MmEncoderOutputs:
        """Gather the features of packed trees; `rows` are the places in `unique` of each tree's questions.

        A prefix normally holds all placeholders; where prompts differ before their videos end, the rest stands in each
        question's own block.
        """
        index = []
        for tree, questions in zip(trees, rows, strict=True):
            in_prefix = sum(token in self._placeholders for token in tree.prefix)
            index.append(self._feature_index[questions[0]][:in_prefix])
            index += [self._feature_index[row][in_prefix:] for row in questions]
        return self._gather(index)

    def row_features(self, rows: Sequence[int]) -> MmEncoderOutputs:
        """Gather the features of rows (places in `unique`) as `mm_encoder_outputs`; gradients reach each of them."""
        return self._gather([self._feature_index[row] for row in rows])

    def _gather(self, index: list[Tensor]) -> MmEncoderOutputs:
        if self._features is None or not sum(len(part) for part in index):
            return None
        wanted = torch.cat(index)
        kinds = self._placeholder_of[wanted]
        found = {}
        for name, placeholder in zip(("image", "video"), self._placeholders, strict=True):
            own = wanted[kinds == placeholder]
            if len(own):  # the model fills the placeholders of each kind in order
                gathered = self._features.index_select(0, own.to(self._features.device))
                found[name] = self._family.encoder_output(gathered, self._width)
        return found

    def layout(self, rows: Sequence[int], completions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Lay out prompt + completion per row, padded right.

        Returns:
            ids (B, L) and positions (3, B, L); padding has token 0 and whatever position.
        """
        lengths = [len(self.unique[row].token_ids) for row in rows]
        width = max(length + len(completion) for length, completion in zip(lengths, completions, strict=True))
        ids = torch.tensor(
            [
                [*self.unique[row].token_ids, *completion] + [0] * (width - length - len(completion))
                for row, length, completion in zip(rows, lengths, completions, strict=True)
            ]
        )
        by_prompt = {row: self._padded_positions(row, width) for row in dict.fromkeys(rows)}
        place = {row: index for index, row in enumerate(by_prompt)}
        positions = torch.stack(list(by_prompt.values()), dim=1)[:, [place[row] for row in rows]]
        return ids.to(self.device), positions.to(self.device)

    def _padded_positions(self, row: int, width: int) -> Tensor:
        known = self.positions[row]
        tail = torch.arange(width - known.positions.shape[1]) + known.next_position
        return torch.cat([known.positions, tail.expand(3, -1)], dim=1)
