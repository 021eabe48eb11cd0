"""The child process that answers what may hang or crash. The functions at the top run in the child."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vsgrpo.child import Child
from vsgrpo.errors import DataError, SetupError


def prepare(request):
    """Import nothing, or die as a broken library does."""
    if request[0] == "broken":
        os.kill(os.getpid(), signal.SIGSEGV)


def answer(request):
    what, value = request
    if what == "sleep":
        time.sleep(value)
    if what == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "refuse":
        raise DataError(value, hint="another one")
    return value


@pytest.fixture
def child(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    child = Child(prepare, answer)
    yield child
    child.stop()


def test_answers_come_back_as_they_are_and_errors_with_their_hint(child):
    frames = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    header, found = child.ask(("return", ("header", frames)), 30)
    assert header == "header" and found.dtype == frames.dtype and (found == frames).all()
    found[0] = 0  # ours to write to
    with pytest.raises(DataError, match="bad film") as caught:
        child.ask(("refuse", "bad film"), 30)
    assert caught.value.hint == "another one"
    process = child.process
    assert child.ask(("return", 3), 30) == 3 and child.process is process


@pytest.mark.faults
def test_a_late_child_is_killed_and_a_dead_one_named_and_both_are_replaced(child):
    with pytest.raises(TimeoutError):
        child.ask(("sleep", 60), 0.2)
    with pytest.raises(ChildProcessError) as caught:
        child.ask(("die", None), 30)
    assert caught.value.args == (-signal.SIGSEGV,)
    assert child.ask(("return", 3), 30) == 3


@pytest.mark.faults
def test_a_child_that_cannot_start_is_no_fault_of_the_request(child):
    with pytest.raises(SetupError, match=r"test_child: its child process died \(exit status -11\)"):
        child.ask(("broken", None), 30)
    assert child.ask(("return", 3), 30) == 3


def test_threads_get_their_own_answers(child):
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda n: child.ask(("return", n), 30), range(40))) == list(range(40))


def test_an_interrupt_leaves_no_answer_for_the_next_request(child):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        check_interrupt(child)
    finally:
        signal.signal(signal.SIGINT, before)


def check_interrupt(child):
    child.ask(("return", 1), 30)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        child.ask(("sleep", 5), 30)
    assert child.ask(("return", 2), 30) == 2
