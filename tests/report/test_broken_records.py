"""Files that an earlier command wrote, changed since: what reads them says file, key and kind in one line."""

import json
import os
import shutil
from pathlib import Path

import pytest

from vsgrpo.cli import run
from vsgrpo.files import write_atomic

LAB = Path(__file__).parents[1] / "legacy" / "lab"
CHANGES = {
    "settings.json": [b"[]", b"", b'{"benchmark": 3}', b'{"prompt": {"mode": 1}}'],
    "results.json": [b"null", b"", b'{"benchmark": {"file": -1}}', b'{"benchmark": [], "scorer": {}}'],
    "predictions.jsonl": [b"[]\n", b"{}\n", b'{"id": [], "prediction": "x"}\n', b'{"id": "a", "prediction": [3]}\n'],
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_evaluation_that_was_changed(tmp_path, name, capsys):
    for content in CHANGES[name]:
        shutil.copytree(LAB / "evaluation", tmp_path / "e", dirs_exist_ok=True)
        (tmp_path / "e" / name).write_bytes(content)
        assert run(["inspect", str(tmp_path / "e"), f"rows={LAB / 'dataset' / 'train.jsonl'}"]) == 2, content
        assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'e' / name}"), content


@pytest.mark.integration
def test_a_run_that_was_changed(tmp_path, capsys):
    changes = {
        "run.json": [b"[]", b"null", b'{"status": []}'],
        "config.yaml": [b"trainer: 3\n", b"run: x\n", b"data: {path: a, mix: abc}\n", b"data: {path: a, mix: [3]}\n"],
        "log.jsonl": [
            b"\xff\xfe\n",
            b'{"schema_version": 1, "step": "x", "loss": 1}\n',
            b"[]\n",
            b"[" * 200_000 + b"\n",
        ],
        "completions.jsonl": [b'{"step": 1}\n', b'{"step": 1, "id": [], "completion": 3}\n', b'{"step": 1, [\n'],
        "e/results.json": [b"[]", b"{}", json.dumps({"title": 1, "scorer": [], "scores": {"a": "b"}}).encode()],
    }
    for name, contents in changes.items():
        for content in contents:
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
            shutil.copytree(LAB / "run", tmp_path / "run")
            (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "run" / name).write_bytes(content)
            assert run(["report", str(tmp_path / "run")]) == 2, (name, content[:40])
            error = capsys.readouterr().err
            assert error.startswith(f"error: {tmp_path / 'run' / name}") and error.count("\n") == 2, error


@pytest.mark.parametrize("command", ["report", "inspect"])
def test_a_page_replaces_nothing_but_a_page(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    given = [command, str(LAB / "run")] if command == "report" else [command, str(LAB / "dataset"), "--limit", "1"]
    (tmp_path / "rows.jsonl").write_text('{"id": "a"}\n')
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("rows.jsonl", "pipe", "folder", ""):
        assert run([*given, f"output={name}"]) == 2, name
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 2, error
    assert (tmp_path / "rows.jsonl").read_text() == '{"id": "a"}\n' and (tmp_path / "pipe").is_fifo()
    for _ in range(2):
        assert run([*given, "output=page"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "page", "pipe", "rows.jsonl"]


def test_a_write_that_fails_names_the_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError) as error:
        write_atomic(tmp_path / "file" / "a.json", "x")
    assert error.value.filename == str(tmp_path / "file" / "a.json")
    write_atomic(tmp_path / "half.json", json.dumps({"a": "x\ud83d"}, ensure_ascii=False))
    assert json.loads((tmp_path / "half.json").read_text()) == {"a": "x\ud83d"}
