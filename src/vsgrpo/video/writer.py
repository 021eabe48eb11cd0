"""H.264 out: frames or JPEG bytes to an mp4 that every player and every decoder here reads frame by frame."""

import itertools
import os
import platform
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vsgrpo.errors import DataError
from vsgrpo.terminal import counted

# x264's wider vector code (AVX-512) is not deterministic on small frames: 60 encodes of 56x56 gave 11 files. Its SSE2
# code gives the bytes of its C code, on every x86-64, and here took 0.21 s where AVX-512 took 0.21 s and C 0.57 s.
_X264_CODE = "sse2" if platform.machine().lower() in ("x86_64", "amd64") else "0"

# A side that misses the bound by less than this after scaling is set to it: 1296x968 -> 640x480 (not 640x478).
_ASPECT_TOLERANCE = 0.01


def fit_size(width: int, height: int, max_width: int = 640, max_height: int = 480) -> tuple[int, int]:
    """Return the even (width, height) that fits the bound: native when smaller, else scaled with its aspect ratio.

    1296x968 gives 640x480, an aspect ratio 0.4 % off, as VSI-Bench's export of ScanNet has it. An odd native side
    loses its last row or column, because yuv420p stores colour for 2x2 pixels.
    """
    scale = min(max_width / width, max_height / height, 1.0)
    fitted = []
    for side, bound in ((width, max_width), (height, max_height)):
        scaled = side * scale
        if scale < 1 and abs(scaled - bound) <= _ASPECT_TOLERANCE * bound:
            scaled = bound
        even = int(scaled) if scale == 1 else round(scaled)
        fitted.append(max(2, even - even % 2))
    return fitted[0], fitted[1]


def write_video(
    path: Path | str,
    frames: Iterable[np.ndarray | bytes],
    fps: float,
    keyframe_interval: int = 30,
    size: tuple[int, int] | None = None,
    crf: int = 23,
    preset: str = "veryfast",
    same_quality: bool = False,
) -> int:
    """Write `frames` as H.264 yuv420p and return how many were written.

    The bytes depend on the arguments and the version of x264 alone (one encoder thread, no time stamps of the day, and
    only such machine code as computes what x264's C code computes), and the file appears under its name only when
    complete. The index (moov) comes first, so that a cut copy is recognised as cut.

    Args:
        path: the mp4 to write; its folder is made if missing.
        frames: (H, W, 3) uint8 RGB arrays or JPEG bytes, all of one size; a generator is consumed once.
        fps: frames per second of playback.
        keyframe_interval: a keyframe at least every so many frames; 30 makes sparse reading about three times cheaper
            than the encoder's default of 250.
        size: (width, height) bound, see `fit_size`; None keeps the native size. Odd native sides lose one pixel.
        crf: x264's quality, lower is better.
        preset: x264's speed; `ultrafast` for many tiny clips.
        same_quality: quantise every frame alike, by `crf`: with a keyframe interval of 1, equal frames of two videos
            then are equal when read, whatever is around them.

    Raises:
        DataError: no frames, a frame of another size, bytes that are not a JPEG.
    """
    import av

    path = Path(path)
    decoded = _decoded(path, frames)
    if (first := next(decoded, None)) is None:
        raise DataError(f"{path}: no frames to write", hint="check the source's frames")
    native = (first.width, first.height)
    if min(native) < 2:
        raise DataError(f"{path}: frame size {native[0]}x{native[1]}: must be at least 2x2")
    target = fit_size(*native, *(size or native))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    number = 0
    try:
        options = {"movflags": "+faststart", "fflags": "+bitexact"}
        with av.open(str(partial), "w", format="mp4", container_options=options) as container:
            stream = _add_stream(container, target, fps, keyframe_interval, crf, preset, same_quality)
            for number, frame in enumerate(itertools.chain([first], decoded)):
                if (frame.width, frame.height) != native:
                    sizes = f"{frame.width}x{frame.height}, the first is {native[0]}x{native[1]}"
                    raise DataError(f"{path}: frame {number} is {sizes}", "all frames of a video must have one size")
                container.mux(stream.encode(_prepared(frame, target, number, stream.codec_context.time_base)))
            container.mux(stream.encode(None))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return number + 1


def _add_stream(
    container: Any,
    size: tuple[int, int],
    fps: float,
    keyframe_interval: int,
    crf: int,
    preset: str,
    same_quality: bool,
) -> Any:
    rate = Fraction(fps).limit_denominator(1001)
    options = {"qp" if same_quality else "crf": str(crf), "preset": preset, "x264-params": f"asm={_X264_CODE}"}
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.time_base = 1 / rate
    context.gop_size = keyframe_interval
    context.thread_count = 1
    return stream


def _prepared(frame: Any, size: tuple[int, int], number: int, time_base: Fraction) -> Any:
    """Return `frame` as limited-range yuv420p of `size` with the time stamp of its number."""
    from av.video.frame import PictureType

    if abs(frame.width - size[0]) <= 1 and abs(frame.height - size[1]) <= 1:
        # A native frame with an odd side: crop, since scaling by one pixel would blur all of it.
        if (frame.width, frame.height) != size:
            from av import VideoFrame

            rgb = frame.to_ndarray(format="rgb24")[: size[1], : size[0]]
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_color_range="MPEG")
    else:
        width, height = size
        frame = frame.reformat(width, height, "yuv420p", interpolation="AREA", dst_color_range="MPEG")
    frame.pts, frame.time_base = number, time_base
    # A decoded JPEG is marked as an I picture; left so, every frame becomes a keyframe (a file 15 times larger).
    frame.pict_type = PictureType.NONE
    return frame


def _decoded(path: Path, frames: Iterable[np.ndarray | bytes]) -> Iterator[Any]:
    """Yield av.VideoFrame of each array or JPEG."""
    import av
    from av.error import FFmpegError

    jpeg: Any = None
    for number, frame in enumerate(frames):
        if isinstance(frame, np.ndarray):
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
                raise ValueError(f"frame {number} must be (H, W, 3) uint8, got {frame.shape} {frame.dtype}")
            yield av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            continue
        try:
            if jpeg is None:
                jpeg = av.CodecContext.create("mjpeg", "r")
                jpeg.thread_count = 1
                jpeg.options = {"err_detect": "explode"}  # a cut JPEG is an error, not a half grey frame
            (decoded,) = jpeg.decode(av.Packet(frame))
        except (FFmpegError, ValueError) as error:
            problem = f"source frame {number} is not a readable JPEG ({counted(len(frame), 'byte')}: {error})"
            hint = "the source is damaged there: copy it again or leave the scan out"
            raise DataError(f"{path}: {problem}", hint) from None
        yield decoded
