"""Exact frames and broken files, the same from every decoder."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from numbered_video import numbered_frame, read_numbers, write_mp4

from vsgrpo.errors import DataError, SetupError
from vsgrpo.video import reader
from vsgrpo.video.reader import VideoHeader, content_hash, probe, read_frames, read_uniform_frames

INDICES = [0, 1, 29, 30, 31, 59, 60, 75, 99, 98, 3, 3, 99]
BROKEN = ["missing", "empty", "html", "half", "random", "no_moov", "audio", "folder"]


@pytest.fixture(params=["pyav", "decord", "torchcodec"])
def backend(request, video_100):
    try:
        probe(video_100, request.param)
    except SetupError as error:
        pytest.skip(error.message)
    return request.param


@pytest.mark.parametrize("timeout_s", [None, 30])
def test_frames_are_exact_with_keyframes_every_30(video_100, backend, timeout_s):
    frames = read_frames(video_100, INDICES, backend, timeout_s)
    assert frames.shape == (len(INDICES), 48, 64, 3)
    assert read_numbers(frames) == INDICES


@pytest.mark.parametrize(("gop", "b_frames"), [(30, 3), (250, 2), (1, 0), (7, 1)])
def test_frames_are_exact_with_b_frames(tmp_path, backend, gop, b_frames):
    path = tmp_path / "b.mp4"
    write_mp4(path, [numbered_frame(i) for i in range(100)], gop=gop, b_frames=b_frames)
    assert read_numbers(read_frames(path, INDICES, backend)) == INDICES
    assert read_numbers(read_frames(path, range(100), backend)) == list(range(100))


def test_decord_and_pyav_give_the_same_pixels(video_100):
    assert (read_frames(video_100, INDICES, "decord") == read_frames(video_100, INDICES, "pyav")).all()


def test_header_and_uniform_frames(video_100, backend):
    header, frames = read_uniform_frames(video_100, 4, backend)
    assert header == probe(video_100, backend) == VideoHeader(num_frames=100, fps=24.0, height=48, width=64)
    assert read_numbers(frames) == [0, 33, 66, 99]  # 99 / 3 = 33


def test_a_frame_that_does_not_exist_is_an_error(video_100, backend):
    with pytest.raises(DataError, match=r"frame 100 asked for, it has frames 0 to 99"):
        read_frames(video_100, [0, 100], backend)


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("timeout_s", [None, 30])
def test_a_broken_file_is_named(broken_files, backend, kind, timeout_s):
    path = broken_files(kind)
    with pytest.raises(DataError, match=str(path)) as caught:
        read_uniform_frames(path, 8, backend, timeout_s)
    assert caught.value.hint and "\n" not in caught.value.message
    with pytest.raises(DataError, match=str(path)):
        probe(path, backend, timeout_s)


@pytest.mark.parametrize(
    ("kind", "words"), [("half", "cut off"), ("no_moov", "no moov"), ("html", "web page"), ("empty", "is empty")]
)
def test_the_reason_does_not_depend_on_the_decoder(broken_files, backend, kind, words):
    with pytest.raises(DataError, match=words):
        read_uniform_frames(broken_files(kind), 8, backend)


def test_an_unknown_backend_names_the_choices(video_100):
    with pytest.raises(SetupError, match=r"video.backend=opencv") as caught:
        probe(video_100, "opencv")
    assert "pyav|decord|torchcodec" in caught.value.hint


@pytest.mark.faults
@pytest.mark.parametrize("ask", [probe, content_hash])
def test_a_pipe_that_nobody_writes_ends_by_the_time_limit(tmp_path, video_100, ask):
    path = tmp_path / "pipe.mp4"
    os.mkfifo(path)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"pipe.mp4.*video.timeout_s=0.3"):
        ask(path, timeout_s=0.3)
    assert time.monotonic() - start < 60  # nobody ever writes
    with pytest.raises(DataError, match=r"pipe.mp4: is not a regular file"):
        ask(path, timeout_s=None)
    assert read_numbers(read_frames(video_100, [5], timeout_s=30)) == [5]  # the next file gets a new worker


@pytest.mark.faults
def test_a_worker_that_stands_still_is_killed(video_100):
    probe(video_100, timeout_s=30)
    process = reader._CHILD.process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    threading.Timer(0.5, os.kill, (process.pid, signal.SIGCONT)).start()
    probe(video_100, timeout_s=30)  # a pause within the limit is no error
    pipe = video_100.parent / "hang.mp4"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match=r"video.timeout_s"):
        probe(pipe, timeout_s=0.2)
    assert process.poll() is not None


@pytest.mark.faults
def test_a_worker_that_dies_on_a_file_names_it(tmp_path, video_100):
    probe(video_100, timeout_s=30)
    process = reader._CHILD.process
    assert process is not None
    pipe = tmp_path / "crash.mp4"
    os.mkfifo(pipe)
    threading.Timer(0.3, os.kill, (process.pid, signal.SIGSEGV)).start()
    with pytest.raises(DataError, match=r"crash.mp4: the pyav process died on it \(exit status -11\)"):
        probe(pipe, timeout_s=30)
    assert probe(video_100, timeout_s=30).num_frames == 100


def test_a_forked_child_starts_its_own_worker(video_100):
    probe(video_100, timeout_s=30)
    process = reader._CHILD.process
    assert process is not None
    child = os.fork()
    if child == 0:
        ok = read_numbers(read_frames(video_100, [7], timeout_s=30)) == [7]
        reader._CHILD.stop()
        os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert process.poll() is None and probe(video_100, timeout_s=30).num_frames == 100
    assert reader._CHILD.process is process


def test_reading_imports_nothing_heavy(video_100):
    code = (
        "import sys; from vsgrpo.video.reader import read_frames; read_frames(sys.argv[1], [0]);"
        "print([name for name in ('torch', 'torchvision', 'decord', 'scipy', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(video_100)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
