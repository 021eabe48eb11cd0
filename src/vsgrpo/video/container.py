"""A video file before decoding: is it a video, is all of it there, which packets has it, which stream is the film.

Decoders play what is left of a cut file and say nothing, so that uniform sampling would move. Most containers state
their own length in the first bytes, or frames and seconds in their headers; MPEG-TS is made of packets of one length.
Others (MPEG program streams, raw streams) state nothing: a tail that is missing there cannot be known, unless the cut
goes through a packet.
"""

import itertools
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vsgrpo.errors import DataError
from vsgrpo.files import file_state
from vsgrpo.terminal import counted

BAD_VIDEO_HINT = "replace or rebuild the file, or set video.on_bad=skip to leave its rows out"

_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
_MAX_MISSING_S = 0.25
"""Seconds by which a stated length may exceed the end of the last frame, rounding aside."""
_STATE_LENGTH = ("mov", "matroska", "asf", "flv")
"""Containers that state a length; FFmpeg estimates that of others from time stamps or bit rates."""
_MXF_PARTITION = bytes.fromhex("060e2b34020501010d01020101")  # then 2: header, 4: footer


def bad_video(path: str, problem: str, hint: str = BAD_VIDEO_HINT) -> DataError:
    """Return the error of a file that cannot be used as it is."""
    return DataError(f"{path}: {problem}", hint)


def check_file(path: str) -> None:
    """Check what no decoder reports well: missing, empty, a web page, an mp4 without moov, a file that is cut off.

    Sources: ISO/IEC 14496-12 (boxes of mp4 and mov), RIFF, RFC 8794 (EBML of Matroska), ASF specification 3.2, RFC 3533
    (pages of Ogg), ISO/IEC 13818-1 (packets of MPEG-TS), SMPTE ST 377-1 (partitions of MXF), GIF89a.

    Raises:
        DataError: by the file's name.
    """
    size = check_there(path)
    if size is None:
        return  # a pipe or device: reading it here could block; the decoder gets it under its time limit
    try:
        with open(path, "rb") as file:
            _check_whole(path, file, size)
    except OSError as error:
        raise bad_video(path, f"cannot be read ({error.strerror})", "check the path and its rights") from None


def check_there(path: str) -> int | None:
    """Check that a path names something with content; return its bytes, None for a pipe or device.

    Raises:
        DataError: by the file's name.
    """
    try:
        status = Path(path).stat()
    except OSError as error:
        raise bad_video(path, f"cannot be opened ({error.strerror})", "check the path") from None
    if stat.S_ISDIR(status.st_mode):
        raise bad_video(path, "is a folder, not a video", "name the video file itself")
    if not stat.S_ISREG(status.st_mode):
        return None
    if status.st_size == 0:
        raise bad_video(path, "is empty")
    return status.st_size


def file_stamp(path: str) -> tuple[str, int, int, int]:
    """Return what changes when a file is replaced: its name and `files.file_state`.

    Raises:
        DataError: it is not there.
    """
    try:
        size, written, changed = file_state(Path(path))
    except OSError as error:
        raise bad_video(path, f"cannot be opened ({error.strerror})", "check the path") from None
    return path, size, written, changed


def _check_whole(path: str, file: BinaryIO, size: int) -> None:
    start = file.read(4096)
    if start.lstrip()[:1] == b"<":
        raise bad_video(path, "starts with '<', a web page and not a video", "download the file again")
    if start[4:8] == b"ftyp":
        _check_boxes(path, file, size)
    elif start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        _check_length(path, 8 + int.from_bytes(start[4:8], "little"), size)
    elif start[:4] == _EBML:
        _check_length(path, _matroska_length(start), size)
    elif start[:16] == _ASF_HEADER:
        at = start.find(_ASF_FILE_PROPERTIES)
        if at >= 0:  # GUID, 64-bit size, file id, then the 64-bit length of the file; 0 in a broadcast
            _check_length(path, int.from_bytes(start[at + 40 : at + 48], "little"), size)
    elif start[:4] == b"OggS":
        _check_end(path, file, size, _ends_stream)
    elif start[:4] == b"GIF8":
        _check_end(path, file, size, lambda tail: tail.rstrip(b"\0").endswith(b";"))
    elif start[:14] == _MXF_PARTITION + b"\2":
        _check_end(path, file, size, lambda tail: _MXF_PARTITION + b"\4" in tail)
    elif start[:1] == b"G" and start[188:189] == b"G":
        _check_packets(path, file, size, 188, 0)
    elif start[4:5] == b"G" and start[196:197] == b"G":  # M2TS: four bytes of time before each packet
        _check_packets(path, file, size, 192, 4)


def _check_length(path: str, stated: int, size: int) -> None:
    if stated > size:
        raise bad_video(path, f"cut off, its header states {counted(stated, 'byte')} and the file has {size}")


def _check_boxes(path: str, file: BinaryIO, size: int) -> None:
    """Walk the top-level boxes of an mp4 or mov file: 32-bit size, type, 64-bit size if size = 1."""
    offset, kinds = 0, set()
    while offset + 8 <= size:
        file.seek(offset)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        elif length == 0:
            length = size - offset
        if length < 8:
            break
        kinds.add(kind)
        if offset + length > size and kind in (b"mdat", b"moov", b"moof"):
            needed = f"box {kind.decode()} needs {offset + length} bytes and the file has {size}"
            raise bad_video(path, f"cut off, {needed}")
        offset += length
    if b"moov" not in kinds:
        raise bad_video(path, "has no moov box (the writer did not finish)")


def _matroska_length(start: bytes) -> int:
    """Return the bytes that a Matroska or WebM file states: up to the end of its Segment; 0 for a live recording."""
    at = start.find(_SEGMENT)
    if at < 0 or at + 12 > len(start):
        return 0
    first = start[at + 4]
    width = 9 - first.bit_length()  # leading zeros of the first byte + 1
    if width > 8:
        return 0
    unknown = (1 << 7 * width) - 1
    value = int.from_bytes(start[at + 4 : at + 4 + width], "big") & unknown
    return 0 if value == unknown else at + 4 + width + value


def _check_end(path: str, file: BinaryIO, size: int, is_end: Callable[[bytes], bool]) -> None:
    file.seek(max(0, size - (1 << 17)))
    if not is_end(file.read()):
        raise bad_video(path, "cut off, it has not the end that its format asks for")


def _ends_stream(tail: bytes) -> bool:
    """Whether the last page of an Ogg file is whole and marked as the end of its stream."""
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < 27:
        return False
    lengths = page[27 : 27 + page[26]]
    return len(page) >= 27 + len(lengths) + sum(lengths) and bool(page[5] & 4)


def _check_packets(path: str, file: BinaryIO, size: int, length: int, at: int) -> None:
    """Check that an MPEG-TS file is whole packets of `length` bytes, each with its sync byte at `at`."""
    if size % length:
        raise bad_video(path, f"cut off, its {size} bytes are not whole MPEG-TS packets of {length}")
    for offset in range(0, size, length << 14):
        file.seek(offset)
        syncs = file.read(length << 14)[at::length]
        if syncs.strip(b"G"):
            number = offset // length + len(syncs) - len(syncs.lstrip(b"G"))
            raise bad_video(path, f"damaged at MPEG-TS packet {number}, which has no sync byte")


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
        raise bad_video(path, f"holds no video stream{cover}")
    packets: dict[int, list[Packet]] = {stream.index: [] for stream in streams}
    names = {stream.index: stream.codec_context.name if stream.codec_context else "" for stream in streams}
    vp8, raw = ({index for index, name in names.items() if name == codec} for codec in ("vp8", "rawvideo"))
    for packet in container.demux(streams):
        if packet.size == 0:  # the flush packet at the end, or a chunk that repeats the frame before
            continue
        content = bytes(packet)
        if packet.is_corrupt or (not content.strip(b"\0") and packet.stream_index not in raw):
            number = len(packets[packet.stream_index])
            raise bad_video(path, f"cut off or damaged at frame {number}")
        # RFC 6386 9.1: bit 4 of a VP8 frame says whether it is shown.
        hidden = packet.is_discard or (packet.stream_index in vp8 and not content[0] >> 4 & 1)
        found = Packet(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, hidden)
        packets[packet.stream_index].append(found)
    return packets


def film_stream(path: str, container: Any, packets: dict[int, list[Packet]]) -> Any:
    """Return the stream that is the film."""
    from av.stream import Disposition

    most = max(len(part) for part in packets.values())
    if most == 0:
        raise bad_video(path, "holds no video frames")
    # One picture beside a stream of many is a cover that its writer did not mark.
    streams = [container.streams[index] for index, part in packets.items() if len(part) >= min(2, most)]
    if len(streams) > 1:
        streams = [stream for stream in streams if stream.disposition & Disposition.default]
    if len(streams) != 1:
        numbers = ", ".join(str(index) for index in packets)
        several = f"holds several videos (streams {numbers}), and not one of them is marked as default"
        raise bad_video(path, several, "choose one: ffmpeg -i IN -map 0:v:0 -c copy OUT")
    if streams[0].codec_context is None:
        raise bad_video(path, "its codec is unknown to FFmpeg", "convert it: ffmpeg -i IN -c:v libx264 OUT.mp4")
    return streams[0]


def check_tail(path: str, container: Any, stream: Any, packets: list[Packet]) -> None:
    """Check that the film holds what its header states: frames, or seconds."""
    held, stated = len(packets), stream.frames
    name = container.format.name
    if held < stated and name.startswith("mov"):  # an edit list may leave frames out
        with open_container(path, {"ignore_editlist": "1"}) as whole:
            held = len(packets_of(path, whole)[stream.index])
    if name.startswith("avi"):  # chunks without data count: they repeat the frame before
        held = max((packet.pts or packet.dts or 0) + 1 for packet in packets)
    if held < stated:
        raise bad_video(path, f"cut off, its header promises {counted(stated, 'frame')} and it holds {held}")
    stamps = sorted(packet.pts for packet in packets if packet.pts is not None)
    if not container.duration or not name.startswith(_STATE_LENGTH) or len(stamps) < 2:
        return
    # The stated length counts from 0, or from the start.
    length_s = container.duration / 1e6 + min(0.0, (container.start_time or 0) / 1e6)
    last = max((packet.pts or 0) + packet.duration for packet in packets)
    longest = max(later - earlier for earlier, later in itertools.pairwise(stamps))
    allowed_s = max(_MAX_MISSING_S, 2 * float(longest * stream.time_base))
    missing_s = length_s - float(last * stream.time_base)
    if missing_s > allowed_s and length_s - _end_of_others(path, stream.index) > allowed_s:
        missing = f"its header states {length_s:.1f} s and its frames end {missing_s:.1f} s before"
        raise bad_video(path, f"cut off, {missing}")


def _end_of_others(path: str, film: int) -> float:
    """Return the time in seconds at which the last packet of another stream ends, sound for instance."""
    end = 0.0
    with open_container(path) as container:
        for packet in container.demux():
            if packet.stream_index != film and packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return end
