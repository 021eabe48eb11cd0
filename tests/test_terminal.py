"""What reaches a terminal cannot steer it, and what the machine caused is one line."""

import errno
import json
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from training.tiny_runs import make_rows
from vsgrpo.cli import run
from vsgrpo.data.rows import row_to_dict
from vsgrpo.errors import DataError, RunError, SetupError, from_machine
from vsgrpo.terminal import Progress, complain, counted, printable

EVIL = "a\x1b[2J\x1b]0;title\x07b\x9b31m\u202ec\x7f"
SHOWN = "a\\x1b[2J\\x1b]0;title\\x07b\\x9b31m\\u202ec\\x7f"


def test_controls_are_shown_and_letters_of_all_scripts_stay():
    assert printable(EVIL) == SHOWN and printable("\ud83d") == "\\ud83d"
    for text in ("line\n\ttab", "\u6c99\u53d1\u3000caf\u00e9\u00a0m\u00b2", "\U0001f468\u200d\U0001f469", ""):
        assert printable(text) == text
    assert printable("a\nb", keep="") == "a\\nb"


def test_one_is_told_in_the_singular():
    found = [counted(number, "row is", "rows are") for number in (0, 1, 2)]
    assert found == ["0 rows are", "1 row is", "2 rows are"]
    assert [counted(number, "scan") for number in (0, 1, 2)] == ["0 scans", "1 scan", "2 scans"]


def test_an_error_stays_on_its_line(capsys):
    complain(f"{EVIL}\nhint: none", "b\r")
    assert capsys.readouterr().err == f"error: {SHOWN}\\nhint: none\nhint: b\\r\n"


def test_progress_of_slow_items_says_how_long_each_takes_and_that_it_has_begun(capsys):
    times = iter([0.0, 40.0, 60.0, 62.0])  # begun, then one call per item
    progress = Progress("questions", 3, "answers of up to 4096 tokens", clock=lambda: next(times))
    assert capsys.readouterr().err == "questions 0/3  answers of up to 4096 tokens\n"
    progress.advance()
    progress.advance()
    progress.advance()
    assert capsys.readouterr().err.splitlines() == [
        "questions 1/3  40 s each  1:20 left",  # two more of 40 s
        "questions 2/3  30 s each  0:30 left",
        "questions 3/3  21 s each  1:02 in all",  # 62 / 3 = 20.7
    ]


@pytest.fixture
def evil_dataset(tmp_path):
    (row,) = make_rows(0)[:1]
    line = row_to_dict(replace(row, question=f"How many {EVIL} are there?", scene_name="demo\x1b[31m"))
    (tmp_path / "train.jsonl").write_text(json.dumps(line) + "\n")
    return tmp_path


def test_rows_are_printed_without_their_controls(evil_dataset, capsys):
    assert run(["inspect", str(evil_dataset)]) == 0
    out = capsys.readouterr().out
    assert SHOWN in out and not set(out) & {"\x1b", "\x07", "\x9b", "\u202e"}


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b.jsonl"), RunError, "a/b.jsonl: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), DataError, "x: Permission denied"),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "n" * 300),
            DataError,
            "n" * 197 + "...: File name too long",
        ),
        (
            RuntimeError("Error while serializing: I/O error: x (os error 28)"),
            RunError,
            "a file: No space left on device",
        ),
        (MemoryError(), RunError, "out of memory (MemoryError)"),
        (RuntimeError("can't start new thread"), RunError, "out of memory (can't start new thread)"),
        (ImportError("x.so: failed to map segment from shared object"), RunError, "out of memory (x.so: failed to map"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), RunError, "out of memory (DefaultCPU"),
        (RuntimeError("I/O error: x (os error 2)"), DataError, "a file: No such file or directory"),
        (OSError(errno.EINVAL, "Invalid argument", "a?b"), DataError, "a?b: Invalid argument"),
        (OSError(errno.EIO, "Input/output error", "x"), RunError, "x: Input/output error"),
    ],
)
def test_what_the_machine_caused_is_told_as_such(error, kind, text):
    known = from_machine(error)
    assert type(known) is kind and known.message.startswith(text) and known.hint


@pytest.mark.parametrize(
    ("error", "kind", "message", "way_out"),
    [
        (OSError(errno.EADDRINUSE, "Address already in use"), SetupError, "the network: Address already", "its port"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), SetupError, "the network: Conn", "address"),
        (socket.gaierror(-2, "Name or service not known"), SetupError, "the network: Name or", "machine reaches it"),
        (OSError(errno.EMFILE, "Too many open files", "x"), RunError, "x: Too many open files", "ulimit -n"),
        (OSError(errno.ENFILE, "Too many open files"), RunError, "the system: Too many open files", "ulimit -n"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), RunError, "the system: Res", "ulimit -u"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), RunError, "the system: Cannot allocate", "ulimit -v"),
        (OSError(errno.ENOLCK, "No locks available"), SetupError, "a file: No locks", "another file system"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), RunError, "out of GPU memory (CUDA", "video.num_frames"),
        (RuntimeError("CUDA error: out of memory\nx"), RunError, "out of GPU memory (CUDA error", "video.num_frames"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when"), RunError, "out of GPU memory", "num_frames"),
    ],
)
def test_not_every_refusal_is_about_a_path_or_the_memory_of_the_host(error, kind, message, way_out):
    known = from_machine(error)
    assert type(known) is kind and known.message.startswith(message) and way_out in known.hint


@pytest.mark.parametrize(
    "error",
    [
        *(KeyError("x"), RuntimeError("shapes differ"), ValueError("y"), RecursionError("own")),
        # of no file and no limit, and texts that only quote the words
        *(OSError(errno.EBADF, "Bad file descriptor"), OSError(errno.EINVAL, "Invalid argument")),
        *(KeyError("out of memory"), ValueError("cannot allocate memory"), RuntimeError("row 3: is out of memory")),
    ],
)
def test_our_own_faults_keep_their_traceback(error):
    assert from_machine(error) is None


def test_json_too_deep_to_parse_is_an_error_of_the_file(tmp_path, capsys):
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 200_000)
    assert run(["verify-geometry", f"meta={deep}", f"questions={deep}"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("error: ") and err[1].startswith("hint: ") and len(err) == 2


def test_a_broken_config_of_a_run_is_named(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("run: {dir: [\n")
    for command in (["report", str(tmp_path)],):
        assert run(command) == 2
        assert f"error: {tmp_path}/config.yaml: not readable as YAML" in capsys.readouterr().err


@pytest.mark.integration
def test_a_terminal_without_unicode_gets_escapes(evil_dataset):
    env = {"PYTHONIOENCODING": "ascii", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-m", "vsgrpo.cli", "inspect", str(evil_dataset)], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0 and "1 of 1 row" in done.stdout


@pytest.mark.integration
def test_a_full_disk_is_one_line(tmp_path):
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); "
    limit += "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    words = ["import-data", str(tmp_path / "in.jsonl"), f"output={tmp_path / 'out'}"]
    lines = [
        {"question": f"How many chairs? {k}", "answer": "2", "video": "v.mp4", "scene_name": f"s{k}"} for k in range(99)
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "v.mp4").write_bytes(b"0")
    code = f"{limit} from vsgrpo.cli import run; sys.exit(run({words!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-2].startswith("error: ")
