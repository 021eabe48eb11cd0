"""One rule for every container and codec: equal upright frames in order from every backend, or refused by name."""

import re
from pathlib import Path

import av
import numpy as np
import pytest
from container_files import FILMS, FRAMES, NUM_FRAMES, REFUSED, copied, encode, headless
from numbered_video import read_numbers

from vsgrpo.errors import DataError, SetupError
from vsgrpo.video.reader import DECODERS, load_backend, probe, read_frames, read_uniform_frames

CASES = Path(__file__).parents[3] / "shared" / "cases" / "video"
DOCS = Path(__file__).parents[2] / "docs" / "troubleshooting.md"


def installed() -> list[str]:
    found = []
    for backend in DECODERS:
        try:
            load_backend(backend)
            found.append(backend)
        except SetupError:
            pass
    return found


@pytest.mark.parametrize("kind", FILMS)
def test_every_backend_gives_the_same_upright_frames_or_refuses(tmp_path, kind):
    name, write, decord_reads = FILMS[kind]
    path = write(tmp_path / name)
    numbers = list(range(12, NUM_FRAMES) if "copied" in kind else range(NUM_FRAMES))
    for backend in installed():
        try:
            header, uniform = read_uniform_frames(path, 8, backend)
        except DataError as error:
            assert backend != "pyav" and not (backend == "decord" and decord_reads), error.message
            assert str(path) in error.message and "video.backend=pyav" in error.hint
            continue
        assert backend != "decord" or decord_reads
        assert (header.num_frames, header.height, header.width) == (len(numbers), 48, 64)
        wanted = [round(index) for index in np.linspace(0, len(numbers) - 1, 8)]
        assert read_numbers(uniform) == [numbers[index] for index in wanted]
        everything = read_frames(path, range(len(numbers)), backend)
        assert read_numbers(everything) == numbers
        if kind not in ("GIF",):
            assert np.abs(everything.astype(int) - np.stack([FRAMES[number] for number in numbers])).mean() < 25


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_cut_damaged_or_not_one_film_is_refused_by_every_backend(tmp_path, kind):
    name, write, words = REFUSED[kind]
    path = write(tmp_path / name)
    for backend in installed():
        for timeout_s in (None, 30):
            with pytest.raises(DataError) as caught:
                read_uniform_frames(path, NUM_FRAMES, backend, timeout_s)
            assert str(path) in caught.value.message and "\n" not in caught.value.message
            if backend == "pyav":
                assert re.search(words, caught.value.message), caught.value.message


def test_frames_that_an_edit_list_hides_are_not_part_of_the_film(tmp_path):
    pytest.importorskip("decord")
    path = copied(tmp_path / "a.mp4", 12, 15)  # cut at frame 15, copied from the keyframe before, frame 12
    assert probe(path).num_frames == 25
    assert read_numbers(read_frames(path, range(25))) == list(range(15, 40))
    with pytest.raises(DataError, match=r"video.backend=decord cannot be trusted .*edited"):
        probe(path, "decord")


def test_frames_before_the_first_keyframe_are_not_part_of_the_film(tmp_path):
    path = headless(tmp_path / "a.ts", 5)  # keyframes at 0, 12, 24, 36: the first that is there is 12
    total = probe(path).num_frames
    numbers = read_numbers(read_frames(path, range(total)))
    assert numbers == list(range(40 - total, 40)) and total <= 28


def test_a_title_in_another_encoding_is_no_reason_to_refuse(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Kueche 1"
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(FRAMES[5], format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"Kueche 1", b"K\xfcche 12"))
    assert read_numbers(read_frames(path, [0])) == [5]


def test_the_mean_frame_rate_is_that_of_the_time_stamps(tmp_path):
    # 40 frames, the last at 39 * 39 // 8 + 39 = 229 ticks of 1/25 s: 39 / 9.16 s
    for name in ("a.mp4", "a.mkv"):
        path = encode(tmp_path / name, "libx264", times=[i * i // 8 + i for i in range(40)])
        assert probe(path).fps == pytest.approx(39 / (229 / 25), rel=2e-3)


def test_sound_that_ends_after_the_film_is_no_missing_tail(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        film = container.add_stream("libx264", rate=25)
        film.height, film.width, film.pix_fmt = 48, 64, "yuv420p"
        sound = container.add_stream("aac", rate=16000)
        for start in range(0, 80000, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(sound.encode(frame))
        for pixels in FRAMES:
            container.mux(film.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(film.encode(None))
        container.mux(sound.encode(None))
    assert probe(path).num_frames == NUM_FRAMES  # 1.6 s of film, 5 s of sound


def test_messages_name_the_codec_and_the_backend_that_reads_it(tmp_path):
    pytest.importorskip("decord")
    path = encode(tmp_path / "a.mp4", "libsvtav1", options={"preset": "10"})
    with pytest.raises(DataError, match=r"a.mp4: video.backend=decord .*av1 in mp4") as caught:
        probe(path, "decord")
    assert caught.value.hint == "video.backend=pyav reads it (av1)"


@pytest.mark.parametrize("error", [ValueError, RuntimeError, KeyError, OSError, AttributeError])
def test_whatever_a_library_raises_on_a_file_names_the_file(video_100, monkeypatch, error):
    def fails(*_):
        raise error("x")

    monkeypatch.setitem(DECODERS, "pyav", fails)
    with pytest.raises(DataError, match=r"video 100=a.mp4: pyav cannot decode it"):
        read_frames(video_100, [0])


def test_the_docs_list_what_each_backend_reads():
    rows = re.findall(r"^\| (.+?) \| reads \| (reads|refuses) \|", DOCS.read_text(encoding="utf-8"), re.M)
    assert dict(rows) == {kind: "reads" if decord else "refuses" for kind, (_, _, decord) in FILMS.items()}
    refused = re.findall(r"^\| (.+?) \| refused \|", DOCS.read_text(encoding="utf-8"), re.M)
    assert refused == list(REFUSED)


@pytest.mark.skipif(not CASES.is_dir(), reason="the collection of failing inputs is not part of the repository")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base.mp4", range(60)),
        ("mpeg4.avi", range(60)),
        ("ms.wmv", range(60)),
        ("m2.mpg", range(60)),
        ("base.ts", range(60)),
        ("av1.mp4", range(60)),
        ("cover_first.mkv", range(60)),
        ("ss_copy.mp4", range(15, 60)),
        ("cut_full.mkv", "cut off"),
        ("cut_vp9.webm", "cut off"),
        ("cut_mjpeg.avi", "cut off"),
        ("zerotail.mp4", "cannot decode it|damaged"),
        ("audio.mp4", "holds no video stream"),
    ],
)
def test_the_collected_cases(name, expected):
    for backend in installed():
        try:
            total = read_uniform_frames(CASES / name, 8, backend)[0].num_frames
            assert read_numbers(read_frames(CASES / name, range(total), backend)) == list(expected)
        except DataError as error:
            refuses = isinstance(expected, str)
            assert refuses or backend != "pyav"
            assert re.search(expected, error.message) if refuses else "video.backend=pyav" in error.hint


@pytest.mark.skipif(not CASES.is_dir(), reason="the collection of failing inputs is not part of the repository")
def test_the_collected_turned_case_is_upright():
    frames = read_frames(CASES / "rot90.mp4", range(60))
    assert frames.shape[1:3] == (128, 96)
    assert read_numbers(np.rot90(frames, -1, (1, 2))) == list(range(60))  # as stored
