"""Numbered videos in many containers and codecs, as cameras, editors and web sites leave them."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from numbered_video import numbered_frame, write_audio

NUM_FRAMES = 40
FRAMES = [numbered_frame(number) for number in range(NUM_FRAMES)]
_QUIET = {"x265-params": "log-level=none"}
_FAST_VPX = {"deadline": "realtime", "cpu-used": "8"}
_OPEN_GOP = {"x264-params": "open-gop=1:keyint=10:bframes=3:b-adapt=0:scenecut=0"}
_ONE = 1 << 16


def encode(
    path: Path,
    codec: str,
    frames: list[np.ndarray] = FRAMES,
    *,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    gop: int = 12,
    times: list[int] | None = None,
    matrix: list[int] | None = None,
    muxer: dict[str, str] | None = None,
) -> Path:
    """Write frames at 25 per second, or at `times` in units of 1/25 s."""
    with av.open(str(path), "w", options=muxer or {}) as container:
        container.mux(_packets(container, codec, frames, pix_fmt, options or {}, gop, times, matrix))
    return path


def _packets(
    container: Any,
    codec: str,
    frames: list[np.ndarray],
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    gop: int = 12,
    times: list[int] | None = None,
    matrix: list[int] | None = None,
    disposition: Disposition | None = None,
) -> list[av.Packet]:
    """Return the packets of a new stream: all streams of a container must be there before its first packet."""
    b_frames = {"bf": "2"} if codec in ("libx264", "mpeg4", "mpeg2video") else {}
    stream = container.add_stream(codec, rate=25, options={**b_frames, **(options or {})})
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt = pix_fmt
    context = stream.codec_context
    context.time_base, context.gop_size, context.thread_count = Fraction(1, 25), gop, 1
    if matrix is not None:
        stream.set_display_matrix(matrix)
    if disposition is not None:
        stream.disposition = disposition
    packets = []
    for number, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts, frame.time_base = times[number] if times else number, Fraction(1, 25)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def turned(path: Path, matrix: tuple[int, int, int, int], stored: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Write frames as a turned camera stores them, with the display matrix (a, b, c, d) that turns them back."""
    a, b, c, d = matrix
    return encode(path, "libx264", [stored(frame) for frame in FRAMES], matrix=[a, b, 0, c, d, 0, 0, 0, 1 << 30])


def copied(path: Path, first: int, zero: int) -> Path:
    """Copy the packets of an H.264 film from keyframe `first` on, frame `zero` at time 0, as `ffmpeg -ss T -c copy`."""
    whole = encode(path.with_name("whole.mkv"), "libx264", options={"sc_threshold": "0"})
    with av.open(str(whole)) as source, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        has_begun = False
        for packet in source.demux(stream):
            has_begun = has_begun or (packet.is_keyframe and packet.pts == 40 * first)
            if packet.size and has_begun:
                packet.pts -= 40 * zero
                packet.dts = (packet.dts if packet.dts is not None else packet.pts) - 40 * zero
                packet.stream = copy
                target.mux(packet)
    return path


def headless(path: Path, first: int) -> Path:
    """Write an MPEG-TS of which the packets before frame `first` in storage order are missing, its keyframe too."""
    whole = encode(path.with_name("whole.ts"), "libx264", options={"sc_threshold": "0"})
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(source.streams.video[0]) if packet.size]
        for packet in packets[first:]:
            packet.stream = copy
            target.mux(packet)
    return path


def with_cover(path: Path, disposition: Disposition | None = None) -> Path:
    """Write a film whose first video stream is one picture, marked as a cover or not."""
    with av.open(str(path), "w") as container:
        cover = [np.full((64, 64, 3), 200, np.uint8)]
        codec = "mjpeg" if disposition is None else "png"
        pix_fmt = "yuvj420p" if disposition is None else "rgb24"
        packets = _packets(container, codec, cover, pix_fmt, disposition=disposition)
        container.mux(packets + _packets(container, "libx264", FRAMES, disposition=Disposition.default))
    return path


def two_films(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        container.mux(_packets(container, "libx264", FRAMES) + _packets(container, "libx264", FRAMES[::-1]))
    return path


def mixed_sizes(path: Path) -> Path:
    large = encode(path.with_name("large.avi"), "mjpeg", [numbered_frame(40, 96, 128)], pix_fmt="yuvj420p", times=[40])
    with av.open(str(large)) as source, av.open(str(path), "w") as container:
        packets = _packets(container, "mjpeg", FRAMES, "yuvj420p")
        (last,) = (packet for packet in source.demux() if packet.size)
        last.stream, last.pts, last.dts = container.streams.video[0], 40, 40
        container.mux([*packets, last])
    return path


def unknown_codec(path: Path) -> Path:
    path.write_bytes(encode(path.with_name("known.mp4"), "libx264").read_bytes().replace(b"avc1", b"zzzz"))
    return path


def sound_only(path: Path) -> Path:
    write_audio(path)
    return path


def cut(path: Path, codec: str, share: float = 0.6, zeros: bool = False, **settings: Any) -> Path:
    """Write a film of which only the first `share` of the bytes is there; the rest missing, or zeros."""
    options = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
    whole = encode(path.with_name(f"whole_{path.name}"), codec, muxer=options, **settings).read_bytes()
    kept = whole[: int(len(whole) * share)]
    path.write_bytes(kept + bytes(len(whole) - len(kept)) if zeros else kept)
    return path


VFR = [number * number // 8 + number for number in range(NUM_FRAMES)]

FILMS: dict[str, tuple[str, Callable[[Path], Path], bool]] = {
    "H.264 in mp4": ("a.mp4", lambda p: encode(p, "libx264"), True),
    "H.264 in mov": ("a.mov", lambda p: encode(p, "libx264"), True),
    "H.264, all keyframes": ("a.mp4", lambda p: encode(p, "libx264", gop=1), True),
    "H.264 with variable frame rate in mp4": ("a.mp4", lambda p: encode(p, "libx264", times=VFR), True),
    "H.264 10-bit 4:2:2 in mp4": ("a.mp4", lambda p: encode(p, "libx264", pix_fmt="yuv422p10le"), False),
    "H.264 with open groups of pictures": ("a.mp4", lambda p: encode(p, "libx264", options=_OPEN_GOP), False),
    "H.264 with intra refresh": (
        "a.mp4",
        lambda p: encode(p, "libx264", options={"intra-refresh": "1", "bf": "0", "sc_threshold": "0"}),
        False,
    ),
    "H.264 interlaced": (
        "a.mp4",
        lambda p: encode(p, "libx264", options={"flags": "+ildct+ilme", "x264-params": "tff=1"}),
        False,
    ),
    "H.264 in fragmented mp4": (
        "a.mp4",
        lambda p: encode(p, "libx264", muxer={"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
        False,
    ),
    "H.264 in mp4 without an edit list": (
        "a.mp4",
        lambda p: encode(p, "libx264", muxer={"use_editlist": "0"}),
        False,
    ),
    "H.264 in mp4 that starts late": ("a.mp4", lambda p: encode(p, "libx264", times=list(range(50, 90))), False),
    "stream-copied cut in mkv": ("a.mkv", lambda p: copied(p, 12, 12), False),
    "turned by 90 degrees": ("a.mp4", lambda p: turned(p, (0, _ONE, -_ONE, 0), np.rot90), False),
    "turned by 180 degrees": ("a.mp4", lambda p: turned(p, (-_ONE, 0, 0, -_ONE), lambda f: np.rot90(f, 2)), False),
    "turned by 270 degrees": ("a.mp4", lambda p: turned(p, (0, -_ONE, _ONE, 0), lambda f: np.rot90(f, -1)), False),
    "mirrored": ("a.mp4", lambda p: turned(p, (-_ONE, 0, 0, _ONE), lambda f: f[:, ::-1]), False),
    "mirrored and turned, in mkv": (
        "a.mkv",
        lambda p: turned(p, (0, _ONE, _ONE, 0), lambda f: f.swapaxes(0, 1)),
        False,
    ),
    "H.264 in mkv": ("a.mkv", lambda p: encode(p, "libx264"), False),
    "H.264 in mkv, negative start": (
        "a.mkv",
        lambda p: encode(p, "libx264", times=list(range(-20, 20)), muxer={"avoid_negative_ts": "disabled"}),
        False,
    ),
    "mkv with a cover picture first": ("a.mkv", with_cover, False),
    "mp4 with a cover picture": ("a.mp4", lambda p: with_cover(p, Disposition.attached_pic), False),
    "H.264 in MPEG-TS": ("a.ts", lambda p: encode(p, "libx264"), False),
    "H.264 in AVI": ("a.avi", lambda p: encode(p, "libx264"), False),
    "H.264 in FLV": ("a.flv", lambda p: encode(p, "libx264"), False),
    "H.264 raw stream": ("a.h264", lambda p: encode(p, "libx264"), False),
    "HEVC 10-bit in mp4": ("a.mp4", lambda p: encode(p, "libx265", pix_fmt="yuv420p10le", options=_QUIET), False),
    "AV1 in mp4": ("a.mp4", lambda p: encode(p, "libsvtav1", options={"preset": "10"}), False),
    "VP9 in WebM": ("a.webm", lambda p: encode(p, "libvpx-vp9", options=_FAST_VPX), False),
    "VP8 with hidden frames in WebM": (
        "a.webm",
        lambda p: encode(p, "libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "4"}),
        False,
    ),
    "MPEG-4 in AVI": ("a.avi", lambda p: encode(p, "mpeg4"), False),
    "MPEG-4 in mp4": ("a.mp4", lambda p: encode(p, "mpeg4"), False),
    "MJPEG in AVI": ("a.avi", lambda p: encode(p, "mjpeg", pix_fmt="yuvj420p"), False),
    "WMV2 in WMV": ("a.wmv", lambda p: encode(p, "wmv2"), False),
    "MPEG-2 in MPG": ("a.mpg", lambda p: encode(p, "mpeg2video"), False),
    "MPEG-2 in MPEG-TS": ("a.ts", lambda p: encode(p, "mpeg2video"), False),
    "MPEG-2 in M2TS": ("a.m2ts", lambda p: encode(p, "mpeg2video"), False),
    "MPEG-2 in MXF": ("a.mxf", lambda p: encode(p, "mpeg2video"), False),
    "MPEG-1 in MPG": ("a.mpg", lambda p: encode(p, "mpeg1video"), False),
    "ProRes in mov": ("a.mov", lambda p: encode(p, "prores", pix_fmt="yuv422p10le"), False),
    "GIF": ("a.gif", lambda p: encode(p, "gif", pix_fmt="rgb8"), False),
}
"""Kind -> (file name, how to write it, whether decord reads it; pyav reads all)."""

REFUSED: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "several films": ("a.mkv", two_films, "holds several videos"),
    "frames of two sizes": ("a.avi", mixed_sizes, "change size, from 64x48 to 128x96"),
    "turned by 45 degrees": (
        "a.mp4",
        lambda p: turned(p, (46341, 46341, -46341, 46341), lambda f: f),
        "no turn by 90, 180 or 270",
    ),
    "unknown codec": ("a.mp4", unknown_codec, "its codec .*is unknown"),
    "sound only": ("a.mp4", sound_only, "holds no video stream"),
    "cut mp4": ("a.mp4", lambda p: cut(p, "libx264"), "cut off"),
    "cut mkv": ("a.mkv", lambda p: cut(p, "libx264"), "cut off"),
    "cut WebM": ("a.webm", lambda p: cut(p, "libvpx-vp9", options=_FAST_VPX), "cut off"),
    "cut AVI": ("a.avi", lambda p: cut(p, "mjpeg", pix_fmt="yuvj420p"), "cut off"),
    "cut WMV": ("a.wmv", lambda p: cut(p, "wmv2"), "cut off"),
    "cut FLV": ("a.flv", lambda p: cut(p, "libx264"), "cut off"),
    "cut MPEG-TS": ("a.ts", lambda p: cut(p, "libx264"), "cut off"),
    "cut M2TS": ("a.m2ts", lambda p: cut(p, "mpeg2video"), "cut off"),
    "cut MXF": ("a.mxf", lambda p: cut(p, "mpeg2video"), "cut off"),
    "cut GIF": ("a.gif", lambda p: cut(p, "gif", pix_fmt="rgb8"), "cut off"),
    "zero tail of an mp4": ("a.mp4", lambda p: cut(p, "libx264", 0.7, True), "pyav cannot decode|damaged|missing"),
    "zero tail of an mkv": ("a.mkv", lambda p: cut(p, "libx264", 0.7, True), "cut off|damaged"),
    "zero tail of an AVI": ("a.avi", lambda p: cut(p, "mjpeg", 0.7, True, pix_fmt="yuvj420p"), "cut off"),
    "zero tail of an MPEG-TS": ("a.ts", lambda p: cut(p, "libx264", 0.7, True), "damaged"),
}
"""Kind -> (file name, how to write it, words of the message); no backend reads these."""
