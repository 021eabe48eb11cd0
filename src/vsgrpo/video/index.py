"""Index of a video file: which stream is the film, its frames in presentation order, and how they are turned upright.

One rule for every container, codec and backend (docs/troubleshooting.md has it in words):

- The film is the one video stream that is no cover picture. Of several, the one marked as default; else the file is
  refused.
- Frame i has the i-th smallest presentation time stamp among the frames that are shown: frames hidden by an edit list,
  and frames before the first keyframe that cannot be decoded, are not part of the film. One pass over the packets finds
  them, without decoding. A file without usable time stamps is decoded once from its start and counted.
- Frames are upright: turned and mirrored as the display matrix says. Pixels are as stored: no deinterlacing, and a
  pixel aspect ratio other than 1 is not applied, as in every decoder and in qwen-vl-utils.
- A file that holds less than it states is refused.
"""

import contextlib
import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vsgrpo.terminal import counted
from vsgrpo.video.container import Packet, bad_video, check_tail, film_stream, open_container, packets_of
from vsgrpo.video.image import MAX_PIXELS

_SKIPPABLE = ("h264", "mpeg4", "mpeg2video")
"""Codecs whose non-reference frames FFmpeg leaves out on request, without any change to the other frames."""


@dataclass(frozen=True)
class VideoHeader:
    """Number of frames of a film, mean frames per second (0: not stated), upright height and width in pixels."""

    num_frames: int
    fps: float
    height: int
    width: int

    def check_timing(self, name: str, family: str) -> None:
        """Raise DataError where no frame rate is stated: models of a family (its label) use the time of frames."""
        if self.fps <= 0:
            hint = "write the file anew with one, e.g. ffmpeg -r 24 -i IN OUT.mp4"
            raise bad_video(name, f"states no frame rate, which {family} needs", hint)


@dataclass(frozen=True)
class Orientation:
    """How stored pixels become upright: first transposed, then mirrored left-right, then upside down."""

    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False

    def apply(self, frames: np.ndarray) -> np.ndarray:
        """Return (..., H, W, 3) frames upright; a view."""
        if self.transposed:
            frames = frames.swapaxes(-3, -2)
        if self.mirrored:
            frames = frames[..., ::-1, :]
        return frames[..., ::-1, :, :] if self.flipped else frames

    def undo(self, frames: np.ndarray) -> np.ndarray:
        """Return upright frames (..., H, W, 3) as stored; a view."""
        if self.flipped:
            frames = frames[..., ::-1, :, :]
        if self.mirrored:
            frames = frames[..., ::-1, :]
        return frames.swapaxes(-3, -2) if self.transposed else frames


def read_orientation(matrix: bytes) -> Orientation | None:
    """Return the orientation that a display matrix asks for; None where it is no multiple of 90 degrees.

    A stored pixel (x, y), y down, is shown at (a x + c y, b x + d y). Source: ISO/IEC 14496-12 8.3.2 (tkhd), FFmpeg
    libavutil/display.h: nine 32-bit numbers a b u c d v x y w in the byte order of the machine.
    """
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])
    straight, turned = min(abs(a), abs(d)), min(abs(b), abs(c))
    if straight and max(abs(b), abs(c)) * 50 <= straight:
        return Orientation(False, a < 0, d < 0)
    if turned and max(abs(a), abs(d)) * 50 <= turned:
        return Orientation(True, c < 0, b < 0)
    return None


class VideoIndex:
    """An open video file and the index of its film.

    Attributes:
        codec: FFmpeg's name of the codec, such as `h264`.
        keys: (presentation, decoding) time stamp of each keyframe, ascending.
        pts: presentation time stamps of the frames, ascending, in units of `time_base`. Without usable time stamps
            (`is_counted`) frame numbers.
        header: of the upright film.
        orientation: how stored frames become upright.
        num_hidden: stored frames that are not part of the film.

    Raises:
        DataError: no video stream, an unknown codec, a damaged or cut file.
    """

    def __init__(self, path: str, container: Any) -> None:
        self.path, self.container = path, container
        packets = packets_of(path, container)
        self.stream = film_stream(path, container, packets)
        self.codec = str(self.stream.codec_context.codec.canonical_name)
        self.time_base = self.stream.time_base
        self.stream.codec_context.thread_count = 1
        film = packets[self.stream.index]
        check_tail(path, container, self.stream, film)
        keys = ((packet.pts, packet.dts) for packet in film if packet.is_key and packet.pts is not None)
        self.keys = sorted((pts, pts if dts is None else dts) for pts, dts in keys)
        stamps = [packet.pts for packet in film if not packet.is_hidden]
        self.is_counted = None in stamps or len(set(stamps)) < len(stamps)
        self.pts = self._presented(film)
        self.num_hidden = len(film) - len(self.pts)
        first = self._first_frame()
        self.orientation = self._orientation(first)
        self._is_interlaced, self._pixel_format = bool(first.interlaced_frame), str(first.format.name)
        height, width = first.height, first.width
        self.stored_size = (height, width)
        if height * width > MAX_PIXELS:
            size = f"frames of {width}x{height}, at most {MAX_PIXELS} pixels are allowed"
            raise bad_video(path, size, "scale the video down")
        if self.orientation.transposed:
            height, width = width, height
        self.header = VideoHeader(len(self.pts), self._fps(self.pts), height, width)

    def clip(self, start: float, end: float) -> range:
        """Return the frames shown from `start` to `end`, both included, in seconds after the first frame; the one on
        screen where a clip is shorter than a frame. What lies after the film's end is left out.

        Source: qwen-vl-utils 0.0.14 calculate_video_frame_range (ceil(start * fps) to floor(end * fps)). Deviation: by
        time stamps, to a millisecond, and not by a mean rate.

        Raises:
            DataError: it begins after the last frame, or no frame rate is known.
        """
        if self.is_counted and self.header.fps <= 0:
            raise bad_video(self.path, "states neither times nor a frame rate, which a clip needs")
        times = np.array(self.pts, dtype=np.float64) - self.pts[0]
        times *= 1 / self.header.fps if self.is_counted else float(self.time_base)
        if start > times[-1] + (1 / self.header.fps if self.header.fps > 0 else 0.0):
            problem = f"a clip from {start:g} to {end:g} s is asked for, it ends at {times[-1]:.2f} s"
            raise bad_video(self.path, problem, "download the file again: another version has other times")
        first, stop = (int(place) for place in np.searchsorted(times, [start - 1e-3, end + 1e-3]))
        return range(first, stop) if first < stop else range(max(first - 1, 0), max(first, 1))

    def clip_header(self, frames: range) -> VideoHeader:
        """Return the header of a clip as if it were a film: its frames, and their rate by the rule for films."""
        pts = self.pts[frames.start : frames.stop]
        return replace(self.header, num_frames=len(pts), fps=self._fps(pts))

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Decode the frames at `indices`, (T, H, W, 3) uint8 upright RGB, each checked by its time stamp.

        Seeks to the keyframe before each; where that does not lead to the frame, the file is decoded from its start.
        """
        wanted = {self.pts[index] for index in indices}
        found = {} if self.is_counted else self._seek_frames(wanted)
        if missing := wanted - found.keys():
            for pts, frame in self._from_start():
                if pts in missing:
                    found[pts] = self._pixels(frame)
                if len(found) == len(wanted):
                    break
        for index in indices:
            if self.pts[index] not in found:
                raise bad_video(self.path, f"frame {index} is missing or corrupt")
        return np.ascontiguousarray(self.orientation.apply(np.stack([found[self.pts[index]] for index in indices])))

    def stored_frames(self, step: int = 1) -> Iterator[np.ndarray]:
        """Yield every `step`-th frame of the film from its start, (H, W, 3) uint8 RGB as stored: not turned upright."""
        wanted = set(self.pts[::step])
        number = 0
        for pts, frame in self._from_start():
            if pts in wanted:
                number += 1
                yield self._pixels(frame)
        if number < len(wanted):
            raise bad_video(self.path, f"{len(wanted) - number} of {counted(len(wanted), 'frame')} cannot be decoded")

    def is_shown_at(self, indices: Sequence[int], seconds: np.ndarray) -> bool:
        """Whether the frames at `indices` have these presentation times, to a millisecond."""
        stated = np.array([float(self.pts[index] * self.time_base) for index in indices])
        return bool(np.abs(seconds - stated).max(initial=0) <= 1e-3)

    def _presented(self, packets: Sequence[Packet]) -> list[int]:
        """Return the time stamps of the frames that are shown, or their numbers where time stamps are of no use."""
        if self.is_counted:
            return list(range(sum(1 for _ in self._from_start())))
        pts = sorted(packet.pts for packet in packets if not packet.is_hidden and packet.pts is not None)
        first_key = self.keys[0][0] if self.keys else pts[-1]
        if self.keys and pts[0] >= first_key and packets[0].is_key:
            return pts
        # Leading frames that refer to what was cut away: the decoder knows which of them can be shown.
        decoded = (stamp for stamp, _ in self._from_start())
        leading = set(itertools.takewhile(lambda stamp: stamp < first_key, decoded))
        return [stamp for stamp in pts if stamp >= first_key or stamp in leading]

    def check_backend(self, backend: str) -> None:
        """Refuse a film that `backend` may count, order or turn in another way than the index does.

        Raises:
            DataError: naming the reason, and that pyav reads it.
        """
        reason = ""
        if self.orientation != Orientation():
            reason = "it is turned or mirrored"
        elif self.is_counted:
            reason = "it has no usable time stamps"
        elif backend == "decord":
            container = self.container.format.name.partition(",")[0]
            if (container, self.codec) != ("mov", "h264"):
                named = "mp4" if container == "mov" else container
                reason = f"{self.codec} in {named}; decord is exact on h264 in mp4 only"
            elif len(self.container.streams.video) > 1:
                reason = "it holds several video streams"
            elif self.num_hidden or self.stream.frames != len(self.pts) or self.pts[0] != 0:
                reason = "it is fragmented, edited or does not start at time 0"
            elif self._is_interlaced or self._pixel_format not in ("yuv420p", "yuvj420p"):
                reason = "it is interlaced or not 8-bit 4:2:0"
            elif not self._has_plain_keyframes():
                reason = "its groups of pictures are open"
        if reason and backend != "pyav":
            problem = f"video.backend={backend} cannot be trusted with it ({reason})"
            raise bad_video(self.path, problem, f"video.backend=pyav reads it ({self.codec})")

    def _has_plain_keyframes(self) -> bool:
        """Whether an H.264 film in mp4 can be cut at each keyframe: each holds an IDR slice (NAL unit type 5)."""
        length_size = (bytes(self.stream.codec_context.extradata or b"")[4:5] or b"\3")[0] % 4 + 1
        self.container.seek(self.keys[0][1], stream=self.stream, backward=True)
        return all(
            5 in _nal_types(bytes(packet), length_size)
            for packet in self.container.demux(self.stream)
            if packet.size and packet.is_keyframe
        )

    def _first_frame(self) -> Any:
        from av.error import FFmpegError

        tries = [self._from_start()]
        if not self.is_counted and self.keys and self.keys[0][0] == self.pts[0]:
            tries.insert(0, self._from_key(self.keys[0], None))
        for frames in tries:
            with contextlib.suppress(*() if frames is tries[-1] else (FFmpegError,)):
                for stamp, frame in frames:
                    if stamp == self.pts[0] and not frame.is_corrupt:
                        return frame
                    if stamp > self.pts[0]:
                        break
        raise bad_video(self.path, f"its {self.codec} stream decodes to no frame")

    def _orientation(self, frame: Any) -> Orientation:
        matrix = next((bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
        found = Orientation() if matrix is None else read_orientation(matrix)
        if found is None:
            problem = "its display matrix is no turn by 90, 180 or 270 degrees"
            raise bad_video(self.path, problem, "write the video anew, upright: ffmpeg -i IN OUT.mp4")
        return found

    def _fps(self, pts: Sequence[int]) -> float:
        """Return the frames per second: as stated; where the time stamps contradict that, their mean."""
        stated = float(self.stream.average_rate or 0)
        if stated <= 0 or self.is_counted or len(pts) < 2:
            return stated
        mean = (len(pts) - 1) / float((pts[-1] - pts[0]) * self.time_base)
        return stated if abs(mean - stated) <= 0.01 * stated else mean

    def _seek_frames(self, wanted: set[int]) -> dict[int, np.ndarray]:
        """Return time stamp -> pixels of the wanted frames, one pass forward with a seek where a keyframe helps.

        Some are left out where a seek leads elsewhere or a keyframe cannot be decoded alone.
        """
        from av.error import FFmpegError

        found: dict[int, np.ndarray] = {}
        decoded: Iterator[tuple[int, Any]] = iter(())
        position: int | None = None  # time stamp of the last decoded frame
        for target in sorted(wanted):
            key = max((key for key in self.keys if key[0] <= target), default=None)
            if key is None:
                continue
            if position is None or key[0] > position:
                decoded = self._from_key(key, wanted)
            try:
                for position, frame in decoded:
                    if position == target and not frame.is_corrupt:
                        found[target] = self._pixels(frame)
                    if position >= target:
                        break
            except FFmpegError:
                position = None
        return found

    def _from_key(self, key: tuple[int, int], wanted: set[int] | None) -> Iterator[tuple[int, Any]]:
        """Yield (time stamp, frame) from a keyframe on; frames that are neither wanted nor needed may be left out."""
        # Containers index by dts: seeking to the keyframe's pts could end one group of pictures too late.
        self.container.seek(key[1], stream=self.stream, backward=True)
        context = self.stream.codec_context
        can_skip = wanted is not None and self.codec in _SKIPPABLE
        has_begun = False
        for packet in self.container.demux(self.stream):
            has_begun = has_begun or packet.pts == key[0]
            # Some containers seek to a place before the keyframe; frames after it and shown before it refer to others.
            if packet.size and not (has_begun and packet.pts >= key[0]):
                continue
            if can_skip and packet.size:
                context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            for frame in packet.decode():
                yield (-1 if frame.pts is None else frame.pts), frame

    def _from_start(self) -> Iterator[tuple[int, Any]]:
        """Yield (time stamp, or number where they are of no use, and frame) of the whole film, in order."""
        with open_container(self.path) as container:
            stream = container.streams[self.stream.index]
            stream.codec_context.thread_count = 1
            for number, frame in enumerate(container.decode(stream)):
                if not frame.is_corrupt:
                    yield number if self.is_counted else -1 if frame.pts is None else frame.pts, frame
                elif self.is_counted:
                    raise bad_video(self.path, f"frame {number} is corrupt")

    def _pixels(self, frame: Any) -> np.ndarray:
        if (frame.height, frame.width) != self.stored_size:
            height, width = self.stored_size
            problem = f"its frames change size, from {width}x{height} to {frame.width}x{frame.height}"
            raise bad_video(self.path, problem, "write the video anew in one size: ffmpeg -i IN OUT.mp4")
        return frame.to_ndarray(format="rgb24")


def _nal_types(packet: bytes, length_size: int) -> Iterator[int]:
    at = 0
    while at + length_size < len(packet):
        yield packet[at + length_size] & 31
        at += length_size + int.from_bytes(packet[at : at + length_size], "big")
