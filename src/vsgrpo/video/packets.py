"""The packets of a video file, read without decoding, and the choice of the stream that is the film."""

from dataclasses import dataclass
from typing import Any

from vsgrpo.errors import DataError
from vsgrpo.video.container import BAD_VIDEO_HINT


@dataclass(frozen=True)
class Packet:
    """Times in units of the stream's time base; a hidden packet gives no frame of the film."""

    pts: int | None
    dts: int | None
    duration: int
    is_key: bool
    is_hidden: bool


def open_container(path: str, options: dict[str, str] | None = None) -> Any:
    """Open a file with FFmpeg's demuxer, to be used as a context."""
    import av

    # A title in Latin-1 is no reason to refuse a film.
    return av.open(path, options=options or {}, metadata_errors="replace")


def packets_of(path: str, container: Any) -> dict[int, list[Packet]]:
    """Return stream index -> packets in storage order, of every video stream that could be the film."""
    from av.stream import Disposition

    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not streams:
        cover = " (its only picture is a cover)" if container.streams.video else ""
        raise DataError(f"{path}: holds no video stream{cover}", hint=BAD_VIDEO_HINT)
    packets: dict[int, list[Packet]] = {stream.index: [] for stream in streams}
    names = {stream.index: stream.codec_context.name if stream.codec_context else "" for stream in streams}
    vp8, raw = ({index for index, name in names.items() if name == codec} for codec in ("vp8", "rawvideo"))
    for packet in container.demux(streams):
        if packet.size == 0:  # the flush packet at the end, or a chunk that repeats the frame before
            continue
        content = bytes(packet)
        if packet.is_corrupt or (not content.strip(b"\0") and packet.stream_index not in raw):
            number = len(packets[packet.stream_index])
            raise DataError(f"{path}: cut off or damaged at frame {number}", hint=BAD_VIDEO_HINT)
        # RFC 6386 9.1: bit 4 of a VP8 frame says whether it is shown.
        hidden = packet.is_discard or (packet.stream_index in vp8 and not content[0] >> 4 & 1)
        packets[packet.stream_index].append(
            Packet(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, hidden)
        )
    return packets


def film_stream(path: str, container: Any, packets: dict[int, list[Packet]]) -> Any:
    """Return the stream that is the film."""
    from av.stream import Disposition

    most = max(len(part) for part in packets.values())
    if most == 0:
        raise DataError(f"{path}: holds no video frames", hint=BAD_VIDEO_HINT)
    # One picture beside a stream of many is a cover that its writer did not mark.
    streams = [container.streams[index] for index, part in packets.items() if len(part) >= min(2, most)]
    if len(streams) > 1:
        streams = [stream for stream in streams if stream.disposition & Disposition.default]
    if len(streams) != 1:
        numbers = ", ".join(str(index) for index in packets)
        raise DataError(
            f"{path}: holds several videos (streams {numbers}), and not one of them is marked as default",
            hint="choose one: ffmpeg -i IN -map 0:v:0 -c copy OUT",
        )
    if streams[0].codec_context is None:
        raise DataError(f"{path}: its codec is unknown to FFmpeg", hint="convert it: ffmpeg -i IN -c:v libx264 OUT.mp4")
    return streams[0]
