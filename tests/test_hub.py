"""The hub: a model is pushed and read back by its id, what is refused, and what a machine without a network says."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hub_server import serve_hub
from vsgrpo import hub
from vsgrpo.cli import run
from vsgrpo.data.manifest import TrainingManifest, write_training_manifest
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.families.vision_record import write_vision
from vsgrpo.modeling.model_card import write_model_card
from vsgrpo.push import list_files, push

BUDGET = {"num_frames": 4, "min_pixels": 3136, "max_pixels": 6272}


@pytest.fixture
def run_dir(tiny_folder, tmp_path):
    """A finished run: model, lineage, card, config and one evaluation."""
    folder = tmp_path / "run"
    final = folder / "final"
    final.mkdir(parents=True)
    for path in tiny_folder.iterdir():
        (final / path.name).write_bytes(path.read_bytes())
    write_vision(final, BUDGET, "published")
    write_training_manifest(final, TrainingManifest(base="trained", name="rooms", num_rows=3, verdict_rows="clean"))
    (folder / "config.yaml").write_text("model: {}\ntrainer: {}\n")
    (folder / "run.json").write_text(json.dumps({"status": "done"}))
    write_model_card(final)
    for name, model in (("eval", final), ("other", tiny_folder)):
        (folder / name).mkdir()
        (folder / name / "results.json").write_text(json.dumps({"model": {"path": str(model)}}))
    return folder


def vsgrpo(server, tmp_path, *words, **more):
    """Run the command line against a hub, with caches of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"}
    environment |= {"HF_ENDPOINT": server, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HUB_DISABLE_XET": "1", **more}  # large files by LFS: Xet's storage is a service of its own
    command = [sys.executable, "-m", "vsgrpo.cli", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_what_is_sent_is_the_model_its_settings_and_its_scores(run_dir, capsys):
    names = {name for name, _, _ in list_files(run_dir)}
    assert {"README.md", "vision.json", "training_manifest.json", "training/config.yaml"} <= names
    assert (
        "evaluations/eval/results.json" in names and "evaluations/other/results.json" not in names
    )  # of another model
    assert run(["push", str(run_dir), "repo=me/rooms", "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "me/rooms (private): nothing was sent"
    sizes = [int(line.split()[0].replace(",", "")) for line in said[:-2]]
    assert sum(sizes) == int(said[-2].split()[0].replace(",", "")) and len(sizes) == len(names)


@pytest.mark.parametrize("name", ["README.md", "vision.json", "training_manifest.json", "model.safetensors"])
def test_a_missing_file_is_named_and_nothing_is_sent(run_dir, name):
    (run_dir / "final" / name).unlink()
    with pytest.raises(DataError, match=r"model\.safetensors|missing: ") as error:
        push(run_dir, "me/rooms", dry_run=True)
    assert name.removeprefix("model") in error.value.message


def test_what_nobody_else_could_load_is_refused(run_dir, tmp_path):
    with pytest.raises(ConfigError, match="repo=rooms: not OWNER/NAME"):
        push(run_dir, "rooms")
    (run_dir / "final").rename(run_dir / "checkpoint-1")
    with pytest.raises(DataError, match="no final/ in this run"):
        list_files(run_dir)
    names = {name for name, _, _ in list_files(run_dir / "checkpoint-1")}
    assert "training/config.yaml" in names


def test_a_hub_that_cannot_be_asked_is_said_within_seconds(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "127.0.0.1:9 cannot be reached" in (hub.why_unreachable() or "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.why_unreachable() == "HF_HUB_OFFLINE=1 forbids to ask the hub"


@pytest.mark.integration
def test_a_pushed_model_is_read_back_by_its_id_with_its_records(run_dir, tmp_path):
    with serve_hub() as server:
        words = ("push", str(run_dir), "repo=me/rooms")
        no_token = vsgrpo(server.endpoint, tmp_path, *words)
        assert no_token.returncode == 2 and "hf auth login" in no_token.stderr
        no_right = vsgrpo(server.endpoint, tmp_path, *words, HF_TOKEN="reader")
        assert no_right.returncode == 2 and "this token has no right to do that" in no_right.stderr
        unknown = vsgrpo(server.endpoint, tmp_path, *words, HF_TOKEN="nobody")
        assert unknown.returncode == 2 and "does not know this token" in unknown.stderr
        assert not server.repos
        pushed = vsgrpo(server.endpoint, tmp_path, *words, HF_TOKEN="writer")
        assert pushed.returncode == 0, pushed.stderr
        assert pushed.stdout.splitlines()[-1] == f"pushed: {server.endpoint}/me/rooms"
        repo = server.repos["models", "me/rooms"]
        sent = {name: path.read_bytes() for name, path, _ in list_files(run_dir)}
        assert repo.private and repo.files == {**sent, ".gitattributes": b""}
        assert repo.commits == 2  # one commit for all files
        twice = vsgrpo(server.endpoint, tmp_path, *words, HF_TOKEN="writer")
        assert twice.returncode == 2 and "holds" in twice.stderr and "--overwrite" in twice.stderr
        # read back
        video = tmp_path / "room.mp4"
        _write_video(video)
        ask = ("ask", "model=me/rooms", f"video={video}", "How many chairs?", "--json")
        answer = vsgrpo(server.endpoint, tmp_path, *ask, HF_TOKEN="reader")
        assert answer.returncode == 0, answer.stderr
        reply = json.loads(answer.stdout)
        assert reply["num_frames"] == 4 and reply["max_pixels"] == 6272  # of its vision.json
        private = vsgrpo(server.endpoint, tmp_path, *ask, HF_HOME=str(tmp_path / "other"))
        assert private.returncode == 2 and "no such model on the hub" in private.stderr
        endpoint = server.endpoint
    began = time.monotonic()
    cached = vsgrpo(endpoint, tmp_path, *ask)  # the hub is gone, the model is in the cache
    assert cached.returncode == 0 and json.loads(cached.stdout)["answers"] == reply["answers"]
    assert "Retrying" not in cached.stderr
    gone = vsgrpo(endpoint, tmp_path, "ask", "model=me/nothing", f"video={video}", "How many?")
    assert gone.returncode == 2 and "cannot be reached" in gone.stderr and gone.stderr.count("\n") == 2
    assert time.monotonic() - began < 120


def _write_video(path: Path) -> None:
    import numpy as np

    from vsgrpo.video.writer import write_video

    write_video(path, list(np.random.default_rng(0).integers(0, 256, (8, 56, 56, 3), np.uint8)), fps=1)
