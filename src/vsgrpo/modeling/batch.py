"""Turn prompts with their video features into padded model inputs; shared by `logps` and `rollout`.

Legend: U unique prompts, B rows, L tokens of the longest row, N features, D width.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vsgrpo.errors import RunError
from vsgrpo.modeling.bundle import base_model
from vsgrpo.modeling.rope import prompt_positions
from vsgrpo.modeling.tree import Prompt, Tree
from vsgrpo.modeling.vision import MediaFeatures

MmEncoderOutputs = dict[str, BaseModelOutputWithPooling] | None
"""What the model's `mm_encoder_outputs` takes."""


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
        keys = list(dict.fromkeys(key for prompt in self.unique for key in prompt.videos))
        for key in keys:
            if key not in features:
                raise RunError(f"{key}: no features were computed for this video or image")
        starts, start = {}, 0
        for key in keys:
            starts[key] = start
            start += features[key].tensor.shape[0]
        self._features = torch.cat([features[key].tensor for key in keys]) if keys else None
        # (features,) the placeholder that each one stands behind.
        kinds = [torch.full((len(features[key].tensor),), by_kind[features[key].medium.kind]) for key in keys]
        self._placeholder_of = torch.cat(kinds) if keys else torch.empty(0, dtype=torch.long)
        self._feature_index = [
            torch.cat([torch.arange(features[key].tensor.shape[0]) + starts[key] for key in prompt.videos])
            if prompt.videos
            else torch.empty(0, dtype=torch.long)
            for prompt in self.unique
        ]
        for prompt, index in zip(self.unique, self._feature_index, strict=True):
            found = [token for token in prompt.token_ids if token in self._placeholders]
            if len(found) != len(index):
                raise RunError(f"prompt of {prompt.videos}: {len(found)} placeholders for {len(index)} features")
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
                found[name] = BaseModelOutputWithPooling(pooler_output=(gathered,))  # type: ignore[arg-type]
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
