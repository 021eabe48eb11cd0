"""Vision budget of a video or image in plain Python: frames, size and tokens, from its header alone.

Equal to qwen-vl-utils 0.0.14 (`smart_resize`, and `smart_nframes` with `nframes` given); a test compares them on a
grid. Used before any decoding: by `--dry-run`, by the length of a prompt and by the loader itself.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from vsgrpo.errors import ConfigError, DataError

PIXELS_VERSION = 2
"""Part of the key of every cache that depends on pixels; to be changed when a file and a budget give other pixels.

2: upright frames, edit lists applied, one index for every backend, images of more than 8 bits scaled by their range.
"""
TOKEN_PIXELS = 28 * 28
"""Pixels of a token that the pixel keys count by: that of the Qwen2 families."""
MAX_ASPECT_RATIO = 200  # Source: qwen-vl-utils 0.0.14 vision_process.MAX_RATIO


@dataclass(frozen=True)
class Medium:
    """A video or image without its pixels: all that a prompt and its positions need."""

    kind: str
    """video or image."""
    grid_thw: tuple[int, int, int]
    """Temporal patches, rows and columns of patches before merging."""
    num_tokens: int
    """Placeholders in the prompt, t * h * w / merge^2."""
    seconds_per_patch: float | None = None
    """Seconds of video per temporal patch; None for an image, and for a file that states no frame rate."""
    timestamps: tuple[float, ...] = ()
    """Seconds into the file of each temporal patch, the mean of its first and last frame; () where None above."""

    def lasting(self, seconds: float) -> "Medium":
        """Return the same patches at the times of a video of this length; an image, and a video of no known times, as
        it is."""
        if self.seconds_per_patch is None:
            return self
        number = self.grid_thw[0]
        times = tuple(seconds * (patch + 0.5) / number for patch in range(number))
        return replace(self, seconds_per_patch=seconds / number, timestamps=times)


@dataclass(frozen=True)
class VisionBudget:
    """How much the model sees: of a video `num_frames` frames of `min_pixels` to `max_pixels` pixels each, of an image
    `image_min_pixels` to `image_max_pixels` pixels.

    Pixels are counted for tokens of 28 x 28. A family with larger ones is shown as many tokens, and so more pixels: by
    32 x 32 / 28 x 28 in Qwen3-VL (`pixels`). One experiment means one number of tokens.

    Deviation: min_pixels is 56 * 56 and not the libraries' video default of 128 * 28 * 28, which would enlarge small
    frames 32 times.

    Raises:
        ConfigError: a value out of range, by its dotted key.
    """

    num_frames: int = 16
    min_pixels: int = 3136
    max_pixels: int = 100352
    patch: int = 14
    merge: int = 2
    temporal_patch: int = 2
    image_min_pixels: int = 3136
    image_max_pixels: int = 1003520

    def __post_init__(self) -> None:
        if self.sampled_frames < self.temporal_patch:
            raise ConfigError(
                f"video.num_frames={self.num_frames}: must be at least {self.temporal_patch}",
                hint="use an even number such as video.num_frames=16",
            )
        for kind, usual in (("video", "100352 (128 tokens per two frames)"), ("image", "1003520 (1280 tokens)")):
            low, high = self._given(kind)
            if not 1 <= low <= high:
                raise ConfigError(
                    f"{kind}.min_pixels={low}: must lie between 1 and {kind}.max_pixels={high}",
                    hint=f"raise {kind}.max_pixels or lower {kind}.min_pixels",
                )
            if high < TOKEN_PIXELS:
                raise ConfigError(
                    f"{kind}.max_pixels={high}: must be at least {TOKEN_PIXELS}, one token",
                    hint=f"use {kind}.max_pixels={usual}",
                )

    def pixels(self, kind: str = "video") -> tuple[int, int]:
        """Return the smallest and the largest number of pixels of a frame of a video, or of an image, as shown."""
        low, high = (pixels * self.factor**2 // TOKEN_PIXELS for pixels in self._given(kind))
        return low, high

    def _given(self, kind: str) -> tuple[int, int]:
        if kind == "image":
            return self.image_min_pixels, self.image_max_pixels
        return self.min_pixels, self.max_pixels

    def size(self, height: int, width: int, kind: str = "video") -> tuple[int, int]:
        """Return the (height, width) that a frame or image of this size is shown in; DataError as `smart_resize`."""
        low, high = self.pixels(kind)
        return smart_resize(height, width, self.factor, low, high, kind)

    def medium(self, kind: str, height: int, width: int, num_frames: int = 1, fps: float = 0.0) -> Medium:
        """Return grid, tokens and timing of a video or image with this header; DataError as `smart_resize`.

        Seconds per temporal patch are temporal patch / sampled frames per second, the latter being sampled frames /
        `num_frames` * `fps`. Source: `Qwen2_5_VLProcessor` of transformers 5.23 (`second_per_grid_ts`) and
        qwen-vl-utils 0.0.14. `timestamps` are those of the frames that are really sampled.

        Args:
            num_frames, fps: of the video; fps 0: it states none. An image is one frame, and one temporal patch.
        """
        resized_height, resized_width = self.size(height, width, kind)
        num_groups = 1 if kind == "image" else self.sampled_frames // self.temporal_patch
        grid = num_groups, resized_height // self.patch, resized_width // self.patch
        tokens = math.prod(grid) // self.merge**2
        if kind == "image" or num_frames * fps <= 0:
            return Medium(kind, grid, tokens)
        seconds = self.temporal_patch / (self.sampled_frames / num_frames * fps)
        return Medium(kind, grid, tokens, seconds, self._timestamps(num_frames, fps))

    def _timestamps(self, num_frames: int, fps: float) -> tuple[float, ...]:
        """Return the seconds of each temporal patch.

        Source: `Qwen3VLProcessor._calculate_timestamps` of transformers 5.23, in its order of floats, so that the digit
        that a prompt shows is the same.
        """
        times = [index / fps for index in frame_indices(num_frames, self.sampled_frames)]
        last = self.temporal_patch - 1
        return tuple((times[i] + times[i + last]) / 2 for i in range(0, len(times), self.temporal_patch))

    @property
    def factor(self) -> int:
        """Side of one language-model token in pixels (patch * merge)."""
        return self.patch * self.merge

    @property
    def sampled_frames(self) -> int:
        """Frames really sampled: `num_frames` rounded to whole temporal patches as qwen-vl-utils rounds it.

        15 -> 16 and 13 -> 12: Python's round takes halves to the even neighbour.
        Source: qwen-vl-utils 0.0.14 smart_nframes. Deviation: a video with fewer frames than that is not an error,
        its frames repeat (see `frame_indices`), so every video of a run costs the same number of frames.
        """
        return round(self.num_frames / self.temporal_patch) * self.temporal_patch


def smart_resize(
    height: int,
    width: int,
    factor: int = 28,
    min_pixels: int = 3136,
    max_pixels: int = 100352,
    kind: str = "video",
) -> tuple[int, int]:
    """Return (height, width) in multiples of `factor`, within the pixel range, the aspect ratio about kept.

    Source: qwen-vl-utils 0.0.14 smart_resize. As there, a frame too narrow for its share of `min_pixels` may end
    above `max_pixels` (see `upper_bound_tokens`). `kind` (video, image) is for the messages.

    Raises:
        DataError: no pixels, an aspect ratio above 200, or a side that would shrink to nothing.
    """
    size = f"{'frame' if kind == 'video' else kind} size {width}x{height}"
    if min(height, width) < 1:
        raise DataError(f"{size}: must be at least 1x1", f"rebuild the {kind}")
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        hint = f"crop the {kind} or leave it out"
        raise DataError(f"{size}: the aspect ratio must be at most {MAX_ASPECT_RATIO}", hint)
    resized_height = max(factor, round(height / factor) * factor)
    resized_width = max(factor, round(width / factor) * factor)
    if resized_height * resized_width > max_pixels:
        scale = math.sqrt((height * width) / max_pixels)
        resized_height = math.floor(height / scale / factor) * factor
        resized_width = math.floor(width / scale / factor) * factor
    elif resized_height * resized_width < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        resized_height = math.ceil(height * scale / factor) * factor
        resized_width = math.ceil(width * scale / factor) * factor
    if min(resized_height, resized_width) == 0:
        # qwen-vl-utils returns the empty size and dies later, inside the resize.
        hint = f"raise {kind}.max_pixels or crop the {kind}"
        raise DataError(
            f"{size}: one side shrinks below {factor} pixels at {max_pixels} pixels ({kind}.max_pixels)", hint
        )
    return resized_height, resized_width


def frame_indices(total: int, num_frames: int) -> list[int]:
    """Return `num_frames` indices spread uniformly over 0..total-1: round(linspace(0, total - 1, num_frames)).

    The first and the last frame are always among them. A video with fewer frames than asked repeats its frames as the
    rounding falls (3 frames asked for 5 times: 0 0 1 2 2, halves to the even neighbour).

    Source: qwen-vl-utils 0.0.14 (transformers' own sampling never takes the last frame).

    Raises:
        DataError: the video has no frame.
    """
    if total < 1:
        raise DataError(f"{total} frames: a video needs at least one", hint="rebuild the video")
    return [int(index) for index in np.linspace(0, total - 1, num_frames).round()]


def upper_bound_tokens(budget: VisionBudget, max_aspect_ratio: float = MAX_ASPECT_RATIO) -> int:
    """Return a number of tokens that no video passes under this budget, without looking at a file.

    A frame within the pixel range has at most max_pixels / factor^2 tokens. A frame enlarged to min_pixels is rounded
    UP on both sides: with a tokens on the shorter side, that side is longer than factor * (a - 1) pixels, the other
    at most min_pixels / (factor * (a - 1)) (for a = 1: sqrt(max_aspect_ratio * min_pixels)). floor + 1 instead of
    ceil, because a product that is exactly a multiple may come out a rounding error above it.
    """
    factor = budget.factor
    min_pixels, max_pixels = budget.pixels()
    tokens_per_group = max_pixels // factor**2
    for shorter in range(1, math.floor(math.sqrt(min_pixels) / factor) + 2):
        if shorter == 1:
            longer_pixels = math.sqrt(max_aspect_ratio * min_pixels)
        else:
            longer_pixels = min_pixels / (factor * (shorter - 1))
        tokens_per_group = max(tokens_per_group, shorter * (math.floor(longer_pixels / factor) + 1))
    return budget.sampled_frames // budget.temporal_patch * tokens_per_group
