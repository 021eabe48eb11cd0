"""THE loader of videos and images, shared by GRPO, SFT, DPO and evaluation: path -> frames, grid, number of tokens.

Frames are sampled and resized here, once; hand them to the processor with `do_sample_frames=False, do_resize=False`.

# T frames, C channels, H W pixels
"""

import contextlib
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from vsgrpo.errors import ConfigError, DataError
from vsgrpo.terminal import counted
from vsgrpo.video.budget import PIXELS_VERSION, Medium, VisionBudget
from vsgrpo.video.cache import DiskCache
from vsgrpo.video.container import file_stamp
from vsgrpo.video.image import image_size, read_image
from vsgrpo.video.place import FrameList
from vsgrpo.video.reader import DEFAULT_BACKEND, VideoHeader, content_hash, probe, read_uniform_frames

Source = Path | str | FrameList
_Stamp = tuple[str, int, int, int]
"""A file's name, size and times of change, from `file_stamp`."""
_MEMORY_BYTES = 2 << 30
"""Of frames that video.frame_cache=memory keeps."""


class MemoryCache:
    """Keeps the most recently used arrays of this process, at most `max_bytes` of them: none at 0."""

    num_corrupt = 0

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._entries: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> np.ndarray | None:
        """Return the array stored under `key`, or None; the caller must not write to it."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: str, frames: np.ndarray) -> None:
        """Store an array under `key`, unless it is larger than the whole cache."""
        if frames.nbytes > self.max_bytes:
            return
        with self._lock:
            if key not in self._entries:
                self.num_bytes += frames.nbytes
            self._entries[key] = frames
            self._entries.move_to_end(key)
            while self.num_bytes > self.max_bytes:
                self.num_bytes -= self._entries.popitem(last=False)[1].nbytes

    def __getstate__(self) -> dict:
        return {"max_bytes": self.max_bytes}

    def __setstate__(self, state: dict) -> None:
        # A copy sent to another process starts empty: shipping gigabytes of frames would cost more than decoding.
        self.__init__(state["max_bytes"])


def make_cache(kind: str, folder: Path | str | None) -> MemoryCache | DiskCache:
    """Return the cache named by `video.frame_cache`.

    Raises:
        ConfigError: an unknown name.
    """
    if kind not in ("off", "memory", "disk"):
        raise ConfigError(f"video.frame_cache={kind}: unknown", hint="choose video.frame_cache=off|memory|disk")
    return DiskCache(folder) if kind == "disk" else MemoryCache(_MEMORY_BYTES if kind == "memory" else 0)


class BadVideo(DataError):
    """A video or image that cannot be used, under video.on_bad=skip: leave its rows out and go on."""


@dataclass(frozen=True)
class VideoInputs:
    """One video or image as the model takes it.

    Attributes:
        key: hash of the file's content and the budget: equal keys, equal frames.
        frames: (T, C, H, W) uint8 RGB, sampled and resized, T a multiple of the temporal patch, or 1 for an image. Do
            not write to it.
        medium: kind, grid, tokens and timing.
    """

    key: str
    frames: torch.Tensor
    medium: Medium


class UndecodedVideo(VideoInputs):
    """A video or image whose features are known: it is decoded only if somebody asks for its frames after all."""

    def __init__(self, key: str, decode: Callable[[], torch.Tensor], medium: Medium) -> None:
        vars(self).update(key=key, medium=medium, _decode=decode)  # frames has no value of its own

    @property
    def frames(self) -> torch.Tensor:  # type: ignore[override]
        """Frames as in `VideoInputs`, decoded anew at each call."""
        return self._decode()  # type: ignore[attr-defined]


@dataclass(eq=False, repr=False)
class VideoLoader:
    """Load videos and images (`kind`) under one vision budget.

    A file that fails is quarantined: its name and reason stay in `quarantine`, later loads fail at once without
    decoding it again, and no other one ever takes its place.

    Attributes:
        budget: frames and pixels.
        backend: `pyav`, `decord` or `torchcodec` (`video.backend`).
        timeout_s: seconds per file in the decode worker; None decodes in this process without a limit.
        frame_cache: `off`, `memory` or `disk`.
        cache_dir: the folder of the disk cache.
        on_bad: `error` raises DataError on a bad file; `skip` raises its subclass BadVideo, which a caller that can
            leave samples out catches.
        max_quarantined: `check_quarantine` raises where there are more of them; None: never.
        timed_for: label of the model family that needs the frame rate of every video (one without it is bad), or None.
        quarantine: what is wrong with each bad file met so far, by absolute path.
        num_decoded: videos and images decoded so far.

    Raises:
        ConfigError: an unknown value of frame_cache or on_bad, a disk cache without a folder.
    """

    budget: VisionBudget
    backend: str = DEFAULT_BACKEND
    timeout_s: float | None = None
    frame_cache: str = "off"
    cache_dir: Path | str | None = None
    on_bad: str = "error"
    max_quarantined: int | None = None
    timed_for: str | None = None
    quarantine: dict[str, str] = field(default_factory=dict)
    num_decoded: int = 0
    _hashes: dict[_Stamp, str] = field(default_factory=dict)
    _headers: dict[tuple[_Stamp, str, tuple[float, ...]], VideoHeader] = field(default_factory=dict)
    """Headers by file, kind (as an image, an animation is its first picture) and clip."""

    def __post_init__(self) -> None:
        if self.on_bad not in ("error", "skip"):
            raise ConfigError(f"video.on_bad={self.on_bad}: unknown", hint="choose video.on_bad=error|skip")
        self.cache = make_cache(self.frame_cache, self.cache_dir)

    def load(self, path: Source, kind: str = "video", *clip: float) -> VideoInputs:
        """Return the sampled and resized frames of a video or image, from the cache where it has them.

        Args:
            path: the file, or the pictures that are the frames of a video.
            clip: start and end in seconds: the part of a video that is loaded as if it were the video.

        Raises:
            DataError: the file is missing or broken, now or earlier (BadVideo under on_bad=skip).
            SetupError: the backend is not installed; no file is blamed for that.
        """
        key = self.key(path, kind, *clip)
        if (frames := self.cache.get(key)) is None:
            frames = self._read(path, kind, clip)
            self.num_decoded += 1
            self.cache.put(key, frames)
        return VideoInputs(key, torch.from_numpy(frames), self.medium(path, kind, *clip))

    def undecoded(self, path: Source, kind: str = "video", *clip: float) -> VideoInputs:
        """Return a video or image as `load` would, from its header alone: for those whose features are cached.

        Raises:
            DataError, SetupError: as `load`; `frames` may raise them later.
        """
        medium = self.medium(path, kind, *clip)
        return UndecodedVideo(self.key(path, kind, *clip), lambda: self.load(path, kind, *clip).frames, medium)

    def medium(self, path: Source, kind: str = "video", *clip: float) -> Medium:
        """Return kind, grid, tokens and timing as `load` would, from the header alone; times begin with the clip.

        Raises:
            DataError, SetupError: as `load`; a file whose header is whole may still fail to decode later.
        """
        if isinstance(path, FrameList):
            return self._list_medium(path)
        with self._quarantined(path, clip) as name:
            header = self._header(name, kind, clip)
            return self.budget.medium(kind, header.height, header.width, header.num_frames, header.fps)

    def key(self, path: Source, kind: str = "video", *clip: float) -> str:
        """Return the key of a video, clip or image: 32 hex digits of its content, the budget and our pixel version.

        The backend is no part of it: every backend gives the same frames, or refuses the file.

        Raises:
            DataError: as `load`.
        """
        budget = self.budget
        if isinstance(path, FrameList):
            content = " ".join(self._content(file) for file in path.files)
            frames: tuple[Any, ...] = (len(path.files), path.fps, path.position_fps)
        else:
            content = self._content(path, clip)
            frames = (budget.num_frames, *map(float, clip)) if kind == "video" else (kind,)
        settings = (*frames, *budget.pixels(kind), budget.patch, budget.merge, budget.temporal_patch)
        return hashlib.sha256(f"{PIXELS_VERSION} {content} {settings}".encode()).hexdigest()[:32]

    def _content(self, path: Path | str, clip: Sequence[float] = ()) -> str:
        """Return the hash of a file."""
        with self._quarantined(path, clip) as name:
            stamp = file_stamp(name)
            if (content := self._hashes.get(stamp)) is None:
                content = self._hashes[stamp] = content_hash(name, self.timeout_s)
            return content

    def check_quarantine(self) -> None:
        """Raise DataError where more videos and images are bad than `max_quarantined` allows."""
        if self.max_quarantined is not None and len(self.quarantine) > self.max_quarantined:
            last = list(self.quarantine.values())[-1]
            raise DataError(
                f"{counted(len(self.quarantine), 'video or image', 'videos or images')} cannot be read, "
                "video.max_quarantined allows "
                f"{self.max_quarantined}; the last one: {last}",
                hint="`vsgrpo check-data` names them all; replace them, or raise video.max_quarantined (a share)",
            )

    @contextlib.contextmanager
    def _quarantined(self, path: Path | str, clip: Sequence[float] = ()) -> Iterator[str]:
        """Yield the absolute name of a file for the block that reads it; where that fails, the file is quarantined, or
        the clip alone."""
        name = os.path.abspath(path)
        place = f"{name} {list(clip)}" if clip else name
        try:
            if place in self.quarantine:
                raise DataError(self.quarantine[place], hint="it failed before in this run")
            yield name
        except DataError as error:
            message = error.message if error.message.startswith(name) else f"{name}: {error.message}"
            self.quarantine.setdefault(place, message)
            kind = BadVideo if self.on_bad == "skip" else DataError
            raise kind(message, error.hint) from error

    def _header(self, name: str, kind: str, clip: tuple[float, ...]) -> VideoHeader:
        place = file_stamp(name), kind, clip
        if (header := self._headers.get(place)) is None:
            still = kind == "image"
            if still:
                header = VideoHeader(1, 0.0, *image_size(name))
            else:
                header = probe(name, self.backend, self.timeout_s, clip)
            self._headers[place] = header
        if self.timed_for is not None and kind == "video":
            header.check_timing(name, self.timed_for)
        return header

    def _list_medium(self, frames: FrameList) -> Medium:
        """Return the medium of a film of these pictures, the last repeated, at their rate.

        Raises:
            DataError: one is of another size than the first; as `medium`.
        """
        sizes = []
        for file in frames.files:
            with self._quarantined(file) as name:
                header = self._header(name, "image", ())
                sizes.append((header.height, header.width))
                if sizes[-1] != sizes[0]:
                    (height, width), (first_height, first_width) = sizes[-1], sizes[0]
                    size = f"{width}x{height}, {frames.files[0].name} {first_width}x{first_height}"
                    raise DataError(f"{name}: {size}: frames of a video have one size", "download or write them again")
        number = frames.num_shown(self.budget.temporal_patch)
        with self._quarantined(frames.files[0]):
            budget, (height, width) = replace(self.budget, num_frames=number), sizes[0]
            medium = budget.medium("video", height, width, number, frames.fps)
        return replace(medium, seconds_per_patch=self.budget.temporal_patch / frames.position_fps)

    def _read(self, path: Source, kind: str, clip: tuple[float, ...]) -> np.ndarray:
        if isinstance(path, FrameList):
            self._list_medium(path)  # refuses sizes that differ
            pictures = [self._read(file, "frame", ()) for file in path.files]
            missing = path.num_shown(self.budget.temporal_patch) - len(pictures)
            return np.concatenate([*pictures, *pictures[-1:] * missing])
        with self._quarantined(path, clip) as name:
            return self._read_video(name, clip) if kind == "video" else self._read_image(name, kind)

    def _read_video(self, name: str, clip: tuple[float, ...]) -> np.ndarray:
        header, raw = read_uniform_frames(name, self.budget.sampled_frames, self.backend, self.timeout_s, clip)
        self._headers[file_stamp(name), "video", clip] = header
        return resize_frames(raw, self.budget)

    def _read_image(self, name: str, kind: str) -> np.ndarray:
        """Read an image, or (kind `frame`) a frame of a video, (1, C, H, W) uint8."""
        pixels = read_image(name, self.budget.size(*image_size(name), "image" if kind == "image" else "video"))
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def resize_frames(frames: np.ndarray, budget: VisionBudget) -> np.ndarray:
    """Resize (T, H, W, 3) uint8 to the budget's size and return (T, 3, H', W') uint8, contiguous.

    Antialiased bicubic, as qwen-vl-utils 0.0.14 resizes its decoded frames. Deviation: computed in uint8 and not in
    float32, 8 to 20 times faster; at most one level apart, in about 0.02 % of the values.
    """
    height, width = frames.shape[1:3]
    size = budget.size(height, width)
    frames_TCHW = torch.from_numpy(frames).permute(0, 3, 1, 2)
    if size != (height, width):
        frames_TCHW = transforms.resize(
            frames_TCHW, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True
        )
    return frames_TCHW.contiguous().numpy()
