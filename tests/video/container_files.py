"""Numbered videos in many containers and codecs, as cameras, editors and web sites leave them."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numbered_video import numbered_frame, write_audio

NUM_FRAMES = 40
FRAMES = [numbered_frame(number) for number in range(NUM_FRAMES)]


def encode(
    path: Path,
    codec: str,
    *,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    gop: int = 12,
    b_frames: int = 2,
    times: list[int] | None = None,
    matrix: list[int] | None = None,
    frames: list[np.ndarray] | None = None,
    muxer: dict[str, str] | None = None,
    form: str | None = None,
    interlaced: bool = False,
) -> Path:
    """Write numbered frames at 25 per second, or at `times` in units of 1/25 s."""
    with av.open(str(path), "w", format=form, options=muxer or {}) as container:
        settings = {"bf": str(b_frames)} if b_frames and codec in ("libx264", "mpeg4", "mpeg2video") else {}
        stream = container.add_stream(codec, rate=25, options={**settings, **(options or {})})
        shown = FRAMES if frames is None else frames
        stream.height, stream.width = shown[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = Fraction(1, 25)
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1
        if codec == "libx264":
            stream.codec_context.options = {**stream.codec_context.options, "preset": "veryfast"}
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for number, pixels in enumerate(shown):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = times[number] if times else number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
