"""Files appear whole or not at all, folders are locked, and what is replaced can be had back."""

import os
import pwd
import subprocess
import sys
import time

import pytest

from vsgrpo import files
from vsgrpo.data.check import _memory
from vsgrpo.doctor import deepspeed, hub_cache, wandb
from vsgrpo.errors import DataError
from vsgrpo.files import file_sha256, publish, recover, remembered_sha256
from vsgrpo.paths import drop_aside, is_set_aside, locked, refuse_inputs_inside, set_aside, take_back


@pytest.fixture
def synced(monkeypatch):
    """Return the list of what was synced: inode numbers, in order."""
    done = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(os.fstat(handle).st_ino), real(handle))[1])
    return done


def content(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_publish_syncs_every_file_and_folder_before_the_name_and_the_parent_after(synced, tmp_path):
    part = tmp_path / ".part"
    write(part / "deep", weights="1")
    write(part, state="2")
    inodes = {path.stat().st_ino for path in (part, part / "deep", part / "deep" / "weights", part / "state")}
    write(tmp_path / "final", state="old")
    publish(part, tmp_path / "final")
    assert content(tmp_path) == {"final/deep/weights": "1", "final/state": "2"}
    assert set(synced[:-1]) == inodes and synced[-1] == tmp_path.stat().st_ino


def test_a_folder_that_a_killed_publish_moved_aside_comes_back(monkeypatch, tmp_path):
    write(tmp_path / "final", state="old")
    write(tmp_path / ".part", state="new")
    real, calls = os.replace, []

    def killed(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path / ".part", tmp_path / "final")
    monkeypatch.undo()
    assert not (tmp_path / "final").exists()
    assert recover(tmp_path / "final")
    assert content(tmp_path / "final") == {"state": "old"}
    assert not recover(tmp_path / "final")


@pytest.mark.parametrize("step", range(6))
def test_set_aside_can_be_undone_wherever_it_was_killed(step, monkeypatch, tmp_path):
    """Moves: a, b and the folder of both; then (new content written) back: the folder, a, b."""
    write(tmp_path, a="old a", b="old b", other="stays")
    real, calls = os.replace, []

    def killed(source, target):
        if len(calls) == step:
            raise KeyboardInterrupt
        calls.append(source)
        real(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        set_aside(tmp_path, ["a", "b"])
        write(tmp_path, a="new", c="new")
        take_back(tmp_path, [tmp_path / "a", tmp_path / "c"])
    monkeypatch.undo()
    assert is_set_aside(tmp_path)
    assert take_back(tmp_path, [tmp_path / "a", tmp_path / "c"])
    assert content(tmp_path) == {"a": "old a", "b": "old b", "other": "stays"}
    assert not is_set_aside(tmp_path) and not take_back(tmp_path, [])


def test_what_is_set_aside_goes_when_the_new_content_is_complete(tmp_path):
    write(tmp_path, a="old")
    set_aside(tmp_path, ["a"])
    write(tmp_path, a="new")
    drop_aside(tmp_path)
    assert content(tmp_path) == {"a": "new"}
    drop_aside(tmp_path)


def test_a_folder_is_locked_against_other_processes_and_left_as_it_was_found(tmp_path):
    folder = tmp_path / "deep" / "run"
    hold = "import sys; from pathlib import Path; from vsgrpo.paths import locked\n"
    hold += "with locked(Path(sys.argv[1]), 'output', 'writing'): print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdin is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(DataError, match=f"output={folder}: another process is writing there"):
        locked(folder, "output", "writing").__enter__()
    other.stdin.close()
    assert other.wait(timeout=10) == 0
    assert list(tmp_path.iterdir()) == []
    with locked(folder, "output", "writing"):
        write(folder, a="1")
    assert content(folder) == {"a": "1", ".lock": ""}


def test_inputs_in_a_folder_to_be_replaced_are_refused_through_links_too(tmp_path):
    write(tmp_path / "run" / "final", config="")
    (tmp_path / "link").symlink_to(tmp_path / "run" / "final")
    for path in (tmp_path / "run", tmp_path / "run" / "final", tmp_path / "link", tmp_path / "x" / ".." / "run"):
        with pytest.raises(DataError, match=r"model\.path=.*: lies in run\.dir="):
            refuse_inputs_inside(tmp_path / "run", "run.dir", [("data.path", None), ("model.path", path)])
    refuse_inputs_inside(tmp_path / "run", "run.dir", [("model.path", tmp_path / "run2"), ("data.path", tmp_path)])


def test_a_hash_is_remembered_until_the_file_changes(monkeypatch, tmp_path):
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "memory"))
    monkeypatch.setattr(files, "_SETTLED_NS", 0)
    file = tmp_path / "video.mp4"
    file.write_bytes(b"one")
    first = remembered_sha256(file)
    assert first == file_sha256(file)
    monkeypatch.setattr(files, "_MEMORY", {})
    monkeypatch.setattr(files, "_READ", set())
    monkeypatch.setattr(files, "file_sha256", lambda path: pytest.fail("hashed again"))
    assert remembered_sha256(file) == first
    monkeypatch.setattr(files, "file_sha256", file_sha256)
    before = file.stat()
    time.sleep(0.01)
    file.write_bytes(b"two")  # as long, and the time of writing set back
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert remembered_sha256(file) == file_sha256(file) != first


def test_without_a_home_nothing_is_remembered_and_nothing_fails(monkeypatch, tmp_path):
    """A container that runs under any user id has neither HOME nor an entry in the list of users."""
    for name in (files.CACHE_VARIABLE, "XDG_CACHE_HOME", "HOME", "TORCH_EXTENSIONS_DIR", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    monkeypatch.setattr(files, "_SETTLED_NS", 0)
    monkeypatch.chdir(tmp_path)
    assert files.user_cache() is None and _memory(tmp_path) is None
    (tmp_path / "video.mp4").write_bytes(b"one")
    assert remembered_sha256(tmp_path / "video.mp4") == file_sha256(tmp_path / "video.mp4")
    assert [*wandb(), *deepspeed(), hub_cache()]
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.user_cache() == tmp_path / "xdg" / "vsgrpo"
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "own"))
    assert files.user_cache() == tmp_path / "own" and _memory(tmp_path) is not None


def test_a_file_that_has_just_changed_is_not_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "memory"))
    (tmp_path / "video.mp4").write_bytes(b"one")
    remembered_sha256(tmp_path / "video.mp4")
    assert not (tmp_path / "memory").exists()
