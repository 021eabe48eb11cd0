"""Look at media files as a run reads them, without torch: what a run would find in them.

The same backend, sampled frames and refusals. For `check-data` and everything else that must say before a run what the
run would say.
"""

from __future__ import annotations

import json
import os
import queue
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vsgrpo.child import Child
from vsgrpo.errors import DataError
from vsgrpo.files import is_settled, write_atomic
from vsgrpo.records import read_record
from vsgrpo.video.budget import VisionBudget
from vsgrpo.video.container import file_stamp
from vsgrpo.video.image import image_size, read_image
from vsgrpo.video.index import VideoHeader
from vsgrpo.video.reader import DEFAULT_BACKEND, Request, answer, ask, prepare

_VERSION = 1
"""Change it when the same file would be judged in another way."""


@dataclass(frozen=True)
class Examined:
    """Result for one media file.

    Attributes:
        header: as the loader sees it; an image is one frame without a rate. None where the file is refused.
        problem, hint: of the DataError that a run would raise; empty where the file is good.
    """

    header: VideoHeader | None
    problem: str = ""
    hint: str = ""


def check_timing(name: str, header: VideoHeader, family: str) -> None:
    """Check that a video states a frame rate, for models of a family (its label) that use the time of frames.

    Raises:
        DataError: it states none.
    """
    if header.fps <= 0:
        raise DataError(
            f"{name}: states no frame rate, which {family}'s positions need",
            hint="write the file anew with one, e.g. ffmpeg -r 24 -i IN OUT.mp4",
        )


def examine_media(
    media: Iterable[tuple[str, Path]],
    budget: VisionBudget,
    backend: str = DEFAULT_BACKEND,
    timeout_s: float | None = 60.0,
    timed_for: str | None = None,
    memory: Path | None = None,
    num_workers: int | None = None,
    on_done: Callable[[], object] = lambda: None,
) -> dict[tuple[str, Path], Examined]:
    """Return (kind, path) -> what a run with these settings would find, each file decoded at its sampled frames.

    Files found good are remembered by content, and by path, size and times of change so that a second call does not
    read them at all (the rule is that of `files.remembered_sha256`). A file with a problem is examined again each time:
    a full disk or a slow mount may be gone.

    Args:
        media: (video or image, path); each is examined once.
        budget: says which frames are sampled, and which sizes are refused.
        backend, timeout_s: `video.backend` and `video.timeout_s` of the run; None decodes in this process, unguarded.
        timed_for: as `VideoLoader.timed_for`.
        memory: a JSON file that remembers; made where missing, ignored where unreadable. None: remember nothing.
        num_workers: files read at once; None: one per processor.
        on_done: called after each file, for progress.

    Raises:
        SetupError: the backend is not installed; no file is blamed for that.
    """
    known = _Memory(memory)

    def examine(place: tuple[str, Path]) -> Examined:
        kind, path = place
        name = os.path.abspath(path)
        try:
            content = known.content(name, lambda: pool.content_hash(name, timeout_s))
            settings = f"{kind} {_VERSION} " + (f"{backend} {budget.sampled_frames} " if kind == "video" else "")
            header = known.headers.get(settings + content) or pool.check(name, kind, budget, backend, timeout_s)
            known.headers[settings + content] = header
            if kind == "video" and timed_for is not None:
                check_timing(name, header, timed_for)
            budget.size(header.height, header.width, kind)
        except DataError as error:
            message = error.message if error.message.startswith(name) else f"{name}: {error.message}"
            return Examined(None, message, error.hint)
        finally:
            on_done()
        return Examined(header)

    places = list(dict.fromkeys(media))
    num_threads = max(1, min(num_workers or os.cpu_count() or 1, len(places)))
    with DecodePool(num_threads) as pool, ThreadPoolExecutor(num_threads) as threads:
        try:
            return dict(zip(places, threads.map(examine, places), strict=True))
        finally:
            threads.shutdown(cancel_futures=True)
            known.save()


class DecodePool:
    """Decode processes for threads that check many files at once; a context that ends them.

    Args:
        size: how many processes, and threads that do not wait for each other.
    """

    def __init__(self, size: int) -> None:
        self._children = [Child(prepare, answer) for _ in range(size)]
        self._free: queue.SimpleQueue[Child] = queue.SimpleQueue()
        for child in self._children:
            self._free.put(child)

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.stop()

    def check(self, name: str, kind: str, budget: VisionBudget, backend: str, timeout_s: float | None) -> VideoHeader:
        """Decode what a run would decode of a video or image and return its header; DataError, SetupError as there."""
        if kind == "video":
            return self.check_frames(name, budget.sampled_frames, backend, timeout_s)
        header = VideoHeader(1, 0.0, *image_size(name))
        read_image(name, budget.size(header.height, header.width, "image"))
        return header

    def check_frames(self, path: Path | str, num_frames: int, backend: str, timeout_s: float | None) -> VideoHeader:
        """Decode what `read_uniform_frames` decodes and return the header alone.

        Raises:
            DataError, SetupError: as `read_frames`.
        """
        request = Request(os.path.abspath(path), backend, num_frames, timeout_s, returns_frames=False)
        return self._ask(request)[0]

    def content_hash(self, path: Path | str, timeout_s: float | None) -> str:
        """Return what `reader.content_hash` returns; DataError as there."""
        return self._ask(Request(os.path.abspath(path), "", None, timeout_s, wants_hash=True))

    def _ask(self, request: Request) -> Any:
        child = self._free.get()
        try:
            return ask(request, child)
        finally:
            self._free.put(child)


class _Memory:
    """Hashes by path, size and times of change; headers of good files by content and settings."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.hashes: dict[str, str] = {}
        self.headers: dict[str, VideoHeader] = {}
        if path is None or not path.is_file():
            return
        try:
            data = read_record(path, {"hashes": {str: str}, "headers": {str: dict}}, "")
            headers = {key: VideoHeader(**header) for key, header in data["headers"].items()}
            self.hashes, self.headers = data["hashes"], headers
        except (DataError, TypeError):
            return  # it only saves time

    def content(self, name: str, read: Callable[[], str]) -> str:
        """Return the hash of a file, from memory as `files.remembered_sha256` does, else by `read`."""
        stamp = file_stamp(name)
        key = " ".join(map(str, stamp))
        if (found := self.hashes.get(key)) is None:
            found = read()
            if is_settled(stamp[1:]) and file_stamp(name) == stamp:
                self.hashes[key] = found
        return found

    def save(self) -> None:
        if self.path is not None:
            headers = {key: asdict(header) for key, header in self.headers.items()}
            with suppress(OSError):  # a full disk: the next check decodes again
                write_atomic(self.path, json.dumps({"hashes": self.hashes, "headers": headers}))
