"""What completes inputs.json in the background leaves a folder alone that an earlier run has come back to."""

import threading

import pytest

from vsgrpo.data import inputs


@pytest.mark.parametrize("comes_back", [True, False])
def test_no_thread_writes_into_a_run_that_came_back(tmp_path, monkeypatch, comes_back):
    rows, goes_on = tmp_path / "train.jsonl", threading.Event()
    rows.write_text("{}")
    found = inputs.look_at([("rows", rows)])
    for entry in found.values():
        entry.sha256 = None
    monkeypatch.setattr(inputs, "remembered_sha256", lambda path: goes_on.wait(10) and "0" * 64)
    written = tmp_path / inputs.INPUTS_NAME
    inputs.write_inputs(tmp_path, found)
    thread = inputs.hash_in_background(tmp_path, found)
    if comes_back:
        inputs.stop_hashing(tmp_path)
        written.write_text("of the earlier run")
    goes_on.set()
    thread.join(10)
    assert (written.read_text() == "of the earlier run") == comes_back
    assert comes_back or "0" * 64 in written.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [inputs.INPUTS_NAME, "train.jsonl"]
