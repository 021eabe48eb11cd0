"""The vision tower: kernels of ours in it, and features of videos and images, for each of which it runs once.

One video is one call of the tower. A matrix product of another number of rows may sum in another order: features that
were computed with others would depend, in their last bits, on which of them a cache holds already, and a resumed run,
whose cache is empty, would differ from the uninterrupted one.

Legend: T frames, C channels, H W pixels, N features of one video, D language model width, S patches of one slice.
"""

import logging
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import AttentionInterface

from vsgrpo.errors import ConfigError, RunError
from vsgrpo.modeling.bundle import MediaFeatures, ModelBundle, base_model, vision_tower
from vsgrpo.modeling.feature_files import DiskFeatures
from vsgrpo.terminal import counted
from vsgrpo.video.loader import VideoInputs

logger = logging.getLogger(__name__)

BATCHED_ATTENTION = "vsgrpo_batched_flash"
"""transformers passes all slices in one call only to names that contain `flash`; no flash kernel is meant."""
_CACHES = ("off", "memory")
"""Values of `cache` that are no folder of a disk cache."""


def batched_slice_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each slice of the vision tower, all slices of one length as one batch.

    A slice is a temporal patch, or a window of one in most blocks of Qwen2.5-VL: windows at the right and lower edge
    are smaller. transformers' sdpa path calls attention once per slice in a Python loop; the result is bit-identical.

    Args:
        query: (1, heads, patches, head width), likewise `key` and `value`.
        cu_seq_lens_q: (slices + 1,) boundaries of the slices.
        max_length_q: length of the longest slice.

    Returns:
        (1, patches, heads, head width) and no weights.
    """
    if cu_seq_lens_q is None or max_length_q is None:
        raise ValueError(f"{BATCHED_ATTENTION} is for the vision tower, which passes the boundaries of its slices")
    num_slices, total = len(cu_seq_lens_q) - 1, query.shape[2]
    if num_slices * max_length_q == total:
        # (1, heads, slices * S, width) -> (slices, heads, S, width)
        q, k, v = (part[0].unflatten(1, (num_slices, max_length_q)).transpose(0, 1) for part in (query, key, value))
        out = scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        return out.transpose(1, 2).flatten(0, 1).unsqueeze(0), None
    starts, lengths = cu_seq_lens_q[:-1].long(), cu_seq_lens_q.diff()
    columns, outs = [], []
    for length in lengths.unique().tolist():
        column = starts[lengths == length, None] + torch.arange(length, device=query.device)  # (slices, S)
        q, k, v = (part[0][:, column].transpose(0, 1) for part in (query, key, value))
        out = scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        columns.append(column.flatten())
        outs.append(out.transpose(1, 2).flatten(0, 1))
    place = torch.cat(columns).argsort()
    return torch.cat(outs)[place].unsqueeze(0), None


def use_batched_attention(model: nn.Module) -> None:
    """Let the vision tower of a model that runs on sdpa attend to all slices in one call, for good."""
    vision_config = vision_tower(model).config
    if vision_config._attn_implementation == "sdpa":
        AttentionInterface.register(BATCHED_ATTENTION, batched_slice_attention)
        vision_config._attn_implementation = BATCHED_ATTENTION


class PatchProjection(nn.Conv3d):
    """The patch embedding as one matrix product: its kernel covers a patch, so nothing slides.

    Convolutions run it several times slower, forward and backward (on 2,048 patches of width 384: 0.14 against 0.04
    CPU s). Weight, name and shape stay the convolution's, so that checkpoints do not differ.
    """

    def forward(self, patches: Tensor) -> Tensor:
        """Project (patches, C, T, H, W) to (patches, width, 1, 1, 1)."""
        return linear(patches.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None, None]


def use_matrix_product(model: nn.Module) -> None:
    """Let the vision tower of a model embed its patches by `PatchProjection`, for good.

    Raises:
        RunError: the patch embedding is not a convolution whose steps are its kernel.
    """
    embedding = vision_tower(model).patch_embed
    found = embedding.proj
    if not isinstance(found, nn.Conv3d) or found.stride != found.kernel_size or any(found.padding):
        raise RunError(f"vision tower: its patch embedding is {found}, not a convolution over patches")
    size: Any = found.kernel_size
    with torch.device("meta"):
        ours = PatchProjection(found.in_channels, found.out_channels, size, size, bias=found.bias is not None)
    ours.weight, ours.bias = found.weight, found.bias
    embedding.proj = ours


def is_tower_trained(model: nn.Module) -> bool:
    """Tell whether any parameter of the vision tower requires a gradient."""
    return any(parameter.requires_grad for parameter in vision_tower(model).parameters())


def are_tower_calls_collective(model: nn.Module) -> bool:
    """Tell whether ZeRO-3 parts a tower that is trained: as many calls of it are needed on every process.

    A frozen one is whole wherever it is called (`training.distributed.keep_whole`, and in rollouts).
    """
    return is_tower_trained(model) and any(hasattr(p, "ds_id") for p in vision_tower(model).parameters())


class FeatureStore:
    """Compute the features of videos and images, each unique one once.

    Args:
        bundle: model and processor.
        cache: `off`, `memory` to keep features on the model's device between calls, or a folder to keep them on disk
            for all runs. A trained tower switches the cache off, since its features change with every step.

    Raises:
        ConfigError: unknown `cache`, or sharded weights with a folder.
    """

    def __init__(self, bundle: ModelBundle, cache: str | Path = "off") -> None:
        if isinstance(cache, str) and cache not in _CACHES:
            raise ConfigError(f"video.feature_cache={cache}: not one of {', '.join(_CACHES)}, disk")
        if cache != "off" and is_tower_trained(bundle.model):
            kind = cache if isinstance(cache, str) else "disk"
            logger.warning("video.feature_cache=%s is off: the vision tower is trained, its features change", kind)
            cache = "off"
        self.bundle = bundle
        self.num_videos = 0
        """Videos and images that went through the tower so far."""
        self.num_calls = 0
        """Calls of the tower so far."""
        tower = vision_tower(bundle.model)
        self.disk = DiskFeatures(cache, tower, bundle.processor) if isinstance(cache, Path) else None
        self._kept: dict[str, Tensor] | DiskFeatures | None = {} if cache == "memory" else self.disk

    def __contains__(self, video: str) -> bool:
        """Tell whether the features of the video with this key are cached, so that nobody needs its frames."""
        return self._kept is not None and video in self._kept

    def _cached(self, video: VideoInputs) -> MediaFeatures | None:
        tensor = None if self._kept is None else self._kept.get(video.key)
        if tensor is None:
            return None
        if len(tensor) != video.medium.num_tokens:
            expected = video.medium.num_tokens
            raise RunError(
                f"{video.key}: {counted(len(tensor), 'cached feature')} for a video of {counted(expected, 'token')}"
            )
        return MediaFeatures(tensor, video.medium)

    def features(self, inputs: Sequence[VideoInputs], grad: bool = False) -> dict[str, MediaFeatures]:
        """Return the features of each unique video or image (by key), one tower call for each, see above.

        Where a trained tower is sharded there is one call for all: nothing of it is cached, so a resumed run makes the
        same calls.

        Runs under no_grad unless `grad`: gradient checkpointing of an adapter hooks the tower's input too, and would
        otherwise send a useless backward through a frozen tower.

        Args:
            inputs: videos with uint8 frames (T, C, H, W) already resized; the same key may occur several times.
            grad: build the graph of the tower; such features are never cached.

        Raises:
            RunError: the processor made another grid of a video than its loader promised.
            ValueError: one key names inputs of another kind, grid or timing.
        """
        unique: dict[str, VideoInputs] = {}
        for video in inputs:
            first = unique.setdefault(video.key, video)
            if first.medium != video.medium:
                raise ValueError(f"{video.key}: names both {first.medium} and {video.medium}")
        cached = {} if grad else {key: self._cached(video) for key, video in unique.items()}
        kept = {key: found for key, found in cached.items() if found is not None}
        missing = [video for key, video in unique.items() if key not in kept]
        calls = [[video] for video in missing]
        if missing and are_tower_calls_collective(self.bundle.model):
            calls = [missing]
        made: dict[str, MediaFeatures] = {}
        with torch.set_grad_enabled(grad):
            for videos in calls:
                made |= self._run_tower(videos)
        if self._kept is not None and not grad:
            for key, found in made.items():
                self._kept[key] = found.tensor
        return {key: kept[key] if key in kept else made[key] for key in unique}

    def forget(self, videos: Iterable[str]) -> None:
        """Drop the features of these keys from memory; those on disk stay."""
        if isinstance(self._kept, dict):
            for key in videos:
                self._kept.pop(key, None)

    def _run_tower(self, videos: Sequence[VideoInputs]) -> dict[str, MediaFeatures]:
        inner = base_model(self.bundle.model)
        videos = sorted(videos, key=lambda video: video.medium.kind)
        of_kind = {kind: list(group) for kind, group in groupby(videos, key=lambda video: video.medium.kind)}
        parts = [self._patches(group, kind) for kind, group in of_kind.items()]
        pixels, grid_thw = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        for video, grid in zip(videos, map(tuple, grid_thw.tolist()), strict=True):
            if grid != video.medium.grid_thw:
                expected = video.medium.grid_thw
                raise RunError(f"{video.key}: the processor made grid {grid} of it, its loader said {expected}")
        # Adapter wrappers do not reach into the frozen tower; get_*_features are public and cast the pixels.
        device = next(inner.model.visual.parameters()).device
        run = inner.get_image_features if set(of_kind) == {"image"} else inner.get_video_features
        output = run(pixels.to(device), grid_thw.to(device), return_dict=True)
        self.num_calls += 1
        self.num_videos += len(videos)
        return {
            video.key: MediaFeatures(tensor, video.medium)
            for video, tensor in zip(videos, self.bundle.family.features(output), strict=True)
        }

    def _patches(self, videos: Sequence[VideoInputs], kind: str) -> tuple[Tensor, Tensor]:
        """Return the processor's (patches, width) pixel values and (videos, 3) grids of videos or images alike."""
        processor = self.bundle.processor
        if kind == "image":
            images = [image.frames[0] for image in videos]
            batch = processor.image_processor(images=images, do_resize=False, return_tensors="pt")
            return batch["pixel_values"], batch["image_grid_thw"]
        batch = processor.video_processor(
            videos=[video.frames for video in videos],
            do_sample_frames=False,
            do_resize=False,
            cap_pixels_per_frame=False,
            return_tensors="pt",
        )
        return batch["pixel_values_videos"], batch["video_grid_thw"]
