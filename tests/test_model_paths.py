"""One rule for model paths: every command that takes a model gives the same verdict, before torch is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vsgrpo.errors import VsgrpoError
from vsgrpo.families import find_model

CHILD = """
import contextlib, io, json, os, sys, time
from unittest import mock
from vsgrpo.cli import run

os.chdir(sys.argv[1])
mock.patch("vsgrpo.doctor.find_spec", lambda name: None).start()  # as without torch: it would compare tensors
mock.patch("vsgrpo.evaluation.ask.answer_request", side_effect=SystemExit).start()  # the model would be loaded
found = []
for words in json.load(sys.stdin):
    out, began = io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.suppress(SystemExit):
        run(words)
    found.append([" ".join(out.getvalue().split()), time.process_time() - began])
print(json.dumps({"torch": "torch" in sys.modules, "found": found}))
"""
COMMANDS = {
    "train": ["train", "grpo", "launch=cpu", "model.path={}", "data=missing", "output=out/train"],
    "train --dry-run": ["train", "grpo", "--dry-run", "launch=cpu", "model.path={}"],
    "eval": ["eval", "model.path={}", "benchmark.path=missing", "output=out/eval"],
    "eval of two": ["eval", "model.path=tiny", "model.path={}", "benchmark.path=missing", "output=out/evals"],
    "ask": ["ask", "model.path={}", "video=room.mp4", "How many chairs?"],
    "cache-videos": ["cache-videos", "launch=cpu", "model.path={}", "data=missing", "video.cache_dir=out/cache"],
    "check-data": ["check-data", "missing", "model.path={}"],
    "doctor": ["doctor", "model.path={}"],
    "score": ["score", "answers.jsonl", "model.path={}"],
    "build-cot": [
        *("build-cot", "data=missing", "output=out/cot", "cot.bridge=annotation", "reason.base_url=local"),
        "reason.model={}",
    ],
    "merge": ["merge", "{}", "output=out/merged"],
}
ANY_FAMILY = {"score", "build-cot"}
"""Commands for models of other families too: predictions of any model are scored, any model writes thoughts."""
REFUSED = {
    "gpt2": "gpt2: no such folder",
    "a/b/c": "a/b/c: no such folder",
    "runs/final": "runs/final: no such folder",  # runs/ is here: no hub id is meant
    "/no/such": "/no/such: no such folder",
    "~nouser/model": "~nouser/model: no such folder",
    "": ": no such folder",
    "file.safetensors": "file.safetensors: a file, not a folder",
    "runs": "runs: neither config.json nor adapter_config.json in this folder",
    "runs/empty": "runs/empty: neither config.json nor adapter_config.json in this folder",
    "runs/both": "runs/both: config.json and adapter_config.json are both in this folder",
    "runs/lost": "runs/lost/adapter_config.json: base_model_name_or_path=gone: no such folder",
}
NOT_OURS = {
    "runs/llama": "runs/llama: architecture llama is not supported, only qwen2_vl",
    "runs/bare": "runs/bare: no processor in this folder",
}
HUB = "Qwen/Qwen2-VL-2B-Instruct"
ACCEPTED = [
    *((path, path) for path in (HUB, "someone/other", "tiny", "model", "model/")),
    ("runs/adapter", "{}/model"),
    ("runs/checkpoint-2", HUB),
]


@pytest.fixture(scope="module")
def here(tiny_folder, tmp_path_factory):
    """Return a working folder with models, adapters and what is none of them."""
    folder = tmp_path_factory.mktemp("paths")
    (folder / "model").symlink_to(tiny_folder)
    contents = {
        "empty": {},
        "both": {"config.json": {"model_type": "qwen2_vl"}, "adapter_config.json": {}},
        "llama": {"config.json": {"model_type": "llama"}},
        "bare": {"config.json": {"model_type": "qwen2_vl"}},
        "adapter": {"adapter_config.json": {"base_model_name_or_path": str(folder / "model")}},
        "checkpoint-2": {"adapter_config.json": {"base_model_name_or_path": "Qwen/Qwen2-VL-2B-Instruct"}},
        "lost": {"adapter_config.json": {"base_model_name_or_path": "gone"}},
    }
    for name, files in contents.items():
        (folder / "runs" / name).mkdir(parents=True)
        for file, content in files.items():
            (folder / "runs" / name / file).write_text(json.dumps(content))
    for name in ("file.safetensors", "room.mp4", "answers.jsonl"):
        (folder / name).write_text("")
    return folder


def run_all(folder, words, **env):
    """Run commands in one process of their own; return what each said, its CPU seconds, and whether torch came in."""
    command, environment = [sys.executable, "-c", CHILD, str(folder)], {**os.environ, **env}
    child = subprocess.run(
        command, input=json.dumps(words), capture_output=True, text=True, check=True, env=environment
    )
    return json.loads(child.stdout)


@pytest.mark.parametrize("path", [*REFUSED, *NOT_OURS])
def test_what_is_no_model_is_refused_with_a_way_out(here, monkeypatch, path):
    monkeypatch.chdir(here)
    with pytest.raises(VsgrpoError) as caught:
        find_model(path)
    assert (REFUSED | NOT_OURS)[path] in caught.value.message and caught.value.hint
    if path in NOT_OURS:
        assert find_model(path, any_family=True) == path


@pytest.mark.parametrize(("path", "base"), ACCEPTED)
def test_what_can_be_a_model_is_accepted(here, monkeypatch, path, base):
    monkeypatch.chdir(here)
    assert find_model(path, any_family=True) == find_model(path) == base.format(here)


@pytest.mark.integration
def test_all_commands_give_the_verdict_of_the_rule_before_torch(here):
    # One path for each way that a command may take; every path is tried on the rule itself above.
    faults = {path: (REFUSED | NOT_OURS)[path] for path in ("gpt2", "", "runs/llama")}
    faults |= dict.fromkeys(("someone/other", "model"))
    pairs = [(path, name) for path in faults for name in COMMANDS if path or name != "merge"]
    words = [[word.format(path) for word in COMMANDS[name]] for path, name in pairs]
    result = run_all(here, words, HF_HUB_OFFLINE="1")  # asking whether the hub answers takes seconds
    assert not result["torch"]
    for (path, name), (said, seconds) in zip(pairs, result["found"], strict=True):
        fault = faults[path]
        if fault is None or (path in NOT_OURS and name in ANY_FAMILY):
            assert name == "merge" or not any(f"{path}: {fault}" in said for fault in ("no such folder", "neither"))
        elif not path:  # the configuration refuses it, with the key
            assert "model.path=" in said or "reason.model=" in said, (name, said)
        elif name == "merge":  # takes adapters only
            assert "no such folder" in said or "no adapter_config.json" in said, (path, said)
        else:
            assert f"={fault}" in said, (path, name, said)
        assert "Traceback" not in said and seconds < 2, (path, name, said)


@pytest.mark.integration
def test_a_tilde_is_the_home_folder_also_for_score(here, tmp_path):
    (tmp_path / "runs").mkdir()
    words = [["score", "answers.jsonl", "model.path=~/runs"], ["doctor", "model.path=~/runs"]]
    for said, _ in run_all(here, words, HOME=str(tmp_path))["found"]:
        assert f"model.path={tmp_path}/runs: neither config.json" in said


def test_a_run_folder_is_answered_with_its_final(tmp_path):
    (tmp_path / "final").mkdir()
    with pytest.raises(VsgrpoError) as caught:
        find_model(str(tmp_path))
    assert caught.value.hint.endswith(str(Path(tmp_path) / "final"))
