"""The hub: a model is pushed and read back by its id, what is refused, and what a machine without a network says."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hub_server import Repo, serve_hub
from vsgrpo import hub
from vsgrpo.cli import run
from vsgrpo.data.manifest import TrainingManifest, write_training_manifest
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.families.vision_record import write_vision
from vsgrpo.modeling.model_card import write_model_card
from vsgrpo.push import list_files, push
from vsgrpo.tables import denied_rooms

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


COMMANDS = {
    "check-data": ["check-data", "data", "model.path=me/rooms"],
    "cache-videos": ["cache-videos", "launch=cpu", "model.path=me/rooms", "data=data", "video.cache_dir=cache"],
    "serve": ["serve", "model=me/adapter", "--print"],
    "merge": ["merge", "me/adapter", "output=merged"],
    "merge again": ["merge", "me/adapter", "output=merged"],
    "score": ["score", "said.jsonl", "benchmark.path=data/train.jsonl", "model.path=me/rooms"],
    "score of another": ["score", "said.jsonl", "benchmark.path=data/train.jsonl", "model.path=someone/nothing"],
}
EXPECTED = {name: 2 if name in ("merge again", "score") else 0 for name in COMMANDS}
LEAKED = {"scannet": [min(room for dataset, room in denied_rooms() if dataset == "scannet")]}
CHILD = """
import contextlib, io, json, sys
from vsgrpo.cli import run

found = {}
for name, words in json.load(sys.stdin).items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    found[name] = [code, out.getvalue(), err.getvalue()]
print(json.dumps(found))
"""


@pytest.mark.integration
def test_every_command_that_takes_a_model_takes_its_hub_id(tiny_folder, tmp_path, capsys):
    adapter, python = _adapter(tiny_folder, tmp_path), _python_with_vllm(tmp_path)
    assert run(["build-data", "experiment=demo_data", "source.num_scenes=2", f"output={tmp_path / 'data'}"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "data" / "train.jsonl").read_text().splitlines()]
    said = [json.dumps({"id": row["id"], "prediction": row["answer"]}) for row in rows]
    (tmp_path / "said.jsonl").write_text("\n".join(said))
    model = {path.name: path.read_bytes() for path in tiny_folder.iterdir()}
    write_vision(tmp_path, BUDGET, "published")
    model["vision.json"] = (tmp_path / "vision.json").read_bytes()
    write_training_manifest(tmp_path, TrainingManifest(base="trained", name="rooms", rooms=LEAKED))
    leaky = {**model, "training_manifest.json": (tmp_path / "training_manifest.json").read_bytes()}
    with serve_hub() as server:
        server.repos["models", "me/rooms"] = Repo(leaky)
        server.repos["models", "me/adapter"] = Repo({path.name: path.read_bytes() for path in adapter.iterdir()})
        environment = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"}
        environment |= {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        environment |= {"HF_HUB_DISABLE_XET": "1", "VSGRPO_VLLM_PYTHON": str(python)}
        done = subprocess.run(
            [sys.executable, "-c", CHILD],
            input=json.dumps(COMMANDS),
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        asked = [call.rpartition("/")[2] for call in server.calls if call.startswith("GET") and "/resolve/" in call]
    found = json.loads(done.stdout)
    assert {name: code for name, (code, *_) in found.items()} == EXPECTED, found
    snapshot = str(tmp_path / "hf" / "hub" / "models--me--{}" / "snapshots" / f"{1:040x}")
    assert f"model.path=me/rooms: {snapshot.format('rooms')}" in found["check-data"][2]
    assert f"main serve {snapshot.format('rooms')} " in found["serve"][1]  # the base of the adapter
    assert "in the cache      2 entries" in found["cache-videos"][1]
    assert (tmp_path / "merged" / "model.safetensors").is_file() and "output=merged: exists" in found["merge again"][2]
    assert "benchmark room" in found["score"][2] and "me/rooms" in found["score"][2]
    assert "someone/nothing: nothing of this name here, and no such model" in "".join(found["score of another"][1:])
    # check-data, the first, has asked for every file but the weights.
    assert asked.index("model.safetensors") == len(leaky) - 1
    assert asked.count("model.safetensors") == 1


def _adapter(folder, tmp_path):
    """Return an adapter that names its base by a hub id."""
    from vsgrpo.modeling.load import load
    from vsgrpo.modeling.save import save_model

    save_model(load(folder, tune="lora"), tmp_path / "adapter", merge=False, vision=BUDGET)
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": "me/rooms"}))
    return tmp_path / "adapter"


def _python_with_vllm(tmp_path):
    """Return an interpreter that finds the record of a vLLM beside it."""
    record = tmp_path / "packages" / "vllm-0.32.0.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{record.parent}" exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python
