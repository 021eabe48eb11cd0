"""Features of a frozen vision tower on disk, for all runs that show the same videos."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vsgrpo.errors import ConfigError
from vsgrpo.terminal import printable
from vsgrpo.video.cache import DiskCache

logger = logging.getLogger(__name__)

# Part of every key: change it when the same tower and video would give other features.
# 3: of a tower call with this video alone; before, the last bits depended on the others in the call.
_FEATURES_VERSION = 3
_AS_INTEGERS = {torch.bfloat16: torch.int16}
"""Types that numpy does not know, and what their bits are stored as."""
_NO_MATTER = ("transformers_version", "_name_or_path", "dtype", "torch_dtype", "initializer_range", "architectures")
"""Entries of a tower's config that change no feature; the type is in the key by itself."""
_PIXELS = (
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "do_convert_rgb"),
    *("patch_size", "temporal_patch_size", "merge_size"),
)
"""Values of a processor that features depend on; frames are sampled and resized before it sees them."""


class DiskFeatures:
    """Features of one frozen tower, one memory-mapped file per video.

    A key holds the video's own key (content of the file, frames, size, kind), the tower's weights and config, how the
    processor makes patches of pixels, and the type it computes in: other features are never found, they only take room
    until they are evicted. Seconds of video are no part of it: features do not depend on them, and positions are made
    from those of the video itself.

    Args:
        folder: shared by all runs and processes that should share features.
        tower: frozen.
        processor: of the model; it scales and normalises pixels.

    Raises:
        ConfigError: weights are sharded over processes.
    """

    def __init__(self, folder: Path, tower: nn.Module, processor: Any) -> None:
        self._files = DiskCache(folder, setting="video.feature_cache")
        self._tower = tower
        self._hashes = f"{tower_hash(tower)} {_pixels_hash(processor)}"
        self._dtype = next(tower.parameters()).dtype

    @property
    def num_corrupt(self) -> int:
        """Entries that were not what had been written; they were computed again."""
        return self._files.num_corrupt

    def __contains__(self, video: str) -> bool:
        return self._key(video) in self._files

    def get(self, video: str) -> Tensor | None:
        """Return the features (N, D) of the video with this key, where the tower is; on a CPU they stay mapped."""
        corrupt = self.num_corrupt
        found = self._files.get(self._key(video))
        if self.num_corrupt > corrupt:
            logger.warning("%s: a broken entry of the feature cache is computed again", printable(str(video)))
        if found is None:
            return None
        return torch.from_numpy(found).view(self._computed_in()).to(next(self._tower.parameters()).device)

    def __setitem__(self, video: str, features: Tensor) -> None:
        """Store (N, D) features.

        Raises:
            SetupError: the disk is full, or the folder cannot be written to.
        """
        dtype = self._computed_in()
        values = features.detach().to(dtype).cpu().contiguous()
        self._files.put(self._key(video), values.view(_AS_INTEGERS.get(dtype, dtype)).numpy())

    def _key(self, video: str) -> str:
        text = f"{_FEATURES_VERSION} {video} {self._hashes} {self._computed_in()}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _computed_in(self) -> torch.dtype:
        """Return the type of the tower's results: of its weights, or of the autocast around the call."""
        for device in ("cuda", "cpu"):
            if torch.is_autocast_enabled(device):
                return torch.get_autocast_dtype(device)
        return self._dtype


def tower_hash(tower: nn.Module) -> str:
    """Return a SHA-256 of the tower's config, and of names, types and bytes of its weights.

    The config decides what no weight shows: number of heads, windows, which blocks attend to whole frames. Kernels of
    attention round in their own ways.

    Raises:
        ConfigError: they are sharded over processes.
    """
    config = {key: value for key, value in tower.config.to_dict().items() if key not in _NO_MATTER}  # type: ignore
    config["attention"] = tower.config._attn_implementation  # type: ignore[union-attr]
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, weight in sorted(tower.state_dict().items()):
        if hasattr(weight, "ds_id") or hasattr(weight, "device_mesh"):
            raise ConfigError(
                "video.feature_cache=disk: weights that are sharded while loading have no hash",
                hint="set video.feature_cache=memory, or launch=ddp or launch=zero2",
            )
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(memoryview(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()


def _pixels_hash(processor: Any) -> str:
    """Return a SHA-256 of how image and video processor scale, normalise and cut pixels."""
    parts = (processor.image_processor, processor.video_processor)
    values = [{key: part.to_dict().get(key) for key in _PIXELS} for part in parts]
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
