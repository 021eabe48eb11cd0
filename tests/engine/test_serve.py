"""`vsgrpo serve`: the command, and everything that it refuses before a server is started."""

import json
import os
import shlex
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from vsgrpo.config.compose import load_config
from vsgrpo.engine import serve
from vsgrpo.errors import ConfigError, DataError, SetupError

PRINTER = """
import json, os, sys
names = ("PYTHONPATH", "VLLM_SERVER_DEV_MODE")
print(json.dumps({"arguments": sys.argv[1:], **{name: os.environ[name] for name in names}}))
"""


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An interpreter beside which a `vllm` of a given version prints how it was started."""

    def make(version="0.32.0+cpu"):
        packages = tmp_path / "packages"
        record = packages / f"vllm-{version}.dist-info"
        record.mkdir(parents=True)
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
        program = packages / "vllm" / "entrypoints" / "cli" / "main.py"
        program.parent.mkdir(parents=True)
        program.write_text(PRINTER)
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nPYTHONPATH="{packages}:$PYTHONPATH" exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        monkeypatch.setenv(serve.INTERPRETER, str(python))
        monkeypatch.delenv("VLLM_USE_V2_MODEL_RUNNER", raising=False)
        return python

    return make


def config(*words):
    return load_config("serve", list(words))


def test_the_printed_command_runs_and_hands_on_every_setting(environment, tiny_folder):
    environment()
    text = serve.server_command(config(f"model={tiny_folder}", "serve.port=8123"), serve.interpreter()).text()
    found = json.loads(subprocess.run(text, shell=True, check=True, capture_output=True, text=True).stdout)
    arguments = found["arguments"]
    assert arguments[:2] == ["serve", str(tiny_folder)]
    value = dict(pairwise(arguments))
    assert (value["--host"], value["--port"], value["--max-model-len"]) == ("127.0.0.1", "8123", "8192")
    assert json.loads(value["--limit-mm-per-prompt"]) == {"image": 0, "video": 0}
    assert {"--enable-scale-out", "--enable-mm-embeds", "--enable-lora"} <= set(arguments)
    assert (value["--generation-config"], value["--logprobs-mode"]) == ("vllm", "raw_logprobs")
    assert (Path(found["PYTHONPATH"].split(os.pathsep)[1]) / "vsgrpo_keyed.py").is_file()
    assert found["VLLM_SERVER_DEV_MODE"] == "1"


def test_serve_becomes_the_server(environment, tiny_folder):
    environment()
    words = [sys.executable, "-m", "vsgrpo.cli", "serve", f"model={tiny_folder}", "serve.port=8124"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["arguments"][:2] == ["serve", str(tiny_folder)]
    assert f"serving {tiny_folder} on http://127.0.0.1:8124" in done.stderr


@pytest.mark.parametrize("rank, flag", [(0, None), (1, "1"), (9, "16"), (64, "64"), (65, "128")])
def test_ranks_are_those_that_vllm_has_room_for(environment, tiny_folder, rank, flag):
    command = serve.server_command(config(f"model={tiny_folder}", f"serve.max_lora_rank={rank}"), "python")
    words = list(command.arguments)
    assert ("--enable-lora" in words) == (flag is not None)
    assert flag is None or words[words.index("--max-lora-rank") + 1] == flag
    assert ("VLLM_ALLOW_RUNTIME_LORA_UPDATING" in command.variables) == (flag is not None)


def test_sampling_chooses_the_kind_of_log_probs_and_arguments_are_passed_on(environment, tiny_folder):
    words = ["serve.sampling=seeded", 'serve.args=["--enable-sleep-mode", "--seed=3"]']
    text = serve.server_command(config(f"model={tiny_folder}", *words), "python").text()
    assert "--logprobs-mode processed_logprobs" in text
    assert shlex.split(text.replace("\\\n", " "))[-2:] == ["--enable-sleep-mode", "--seed=3"]


def test_the_second_model_runner_gets_its_own_processor(monkeypatch, tiny_folder):
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    command = serve.server_command(config(f"model={tiny_folder}"), "python")
    assert "vsgrpo_keyed:KeyedSamplingV2" in command.arguments
    assert command.variables["VLLM_USE_V2_MODEL_RUNNER"] == "1"


def refused(kind, *words):
    with pytest.raises(kind) as caught:
        serve.server_command(config(*words), "python")
    return caught.value.message, caught.value.hint


def test_models_that_a_server_would_compute_otherwise_are_refused(tiny_folder, tmp_path):
    assert "is built by a run" in refused(ConfigError, "model=tiny")[0]
    assert "Qwen3-VL is not drawn from by a server" in refused(ConfigError, "model=Qwen/Qwen3-VL-2B-Instruct")[0]
    assert "no such folder" in refused(DataError, f"model={tmp_path / 'none'}")[0]
    limit = json.loads((tiny_folder / "config.json").read_text())["text_config"]["max_position_embeddings"]
    what, hint = refused(ConfigError, f"model={tiny_folder}", f"serve.max_model_len={limit + 1}")
    assert what.startswith(f"serve.max_model_len={limit + 1}: ") and hint == f"set serve.max_model_len={limit} or less"


def test_an_adapter_is_served_by_its_base_unless_that_has_others_in_it(tiny_folder, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tiny_folder)}))
    assert serve.served_model(str(adapter)) == str(tiny_folder)
    (adapter / "earlier_adapters" / "0").mkdir(parents=True)
    what, hint = refused(DataError, f"model={adapter}")
    assert "earlier adapters" in what and f"vsgrpo merge {adapter} output=DIR" in hint


def test_a_model_by_the_rule_of_the_library_is_refused(tiny_folder, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        (folder / file.name).symlink_to(file)
    budget = {"num_frames": 16, "min_pixels": 3136, "max_pixels": 100352}
    rules = {"schema_version": 1, "text_after_video": "library", "vision_marks": "published"}
    (folder / "vision.json").write_text(json.dumps(budget | rules))
    assert "model.text_after_video=library" in refused(ConfigError, f"model={folder}")[0]


def test_an_interpreter_must_be_named_run_and_have_the_right_vllm(environment, monkeypatch, tmp_path):
    def problem():
        with pytest.raises(SetupError) as caught:
            serve.interpreter()
        return caught.value.message

    monkeypatch.delenv(serve.INTERPRETER, raising=False)
    assert problem().startswith("VSGRPO_VLLM_PYTHON: not set")
    monkeypatch.setenv(serve.INTERPRETER, str(tmp_path / "none"))
    assert problem().endswith("no program")
    monkeypatch.setenv(serve.INTERPRETER, sys.executable)  # it has everything but vllm
    assert problem().endswith("no vllm in this environment")
    environment("0.29.1")
    assert "vllm 0.29.1; compared with vsgrpo were 0.32.0 only" in problem()


def test_a_port_in_use_is_said_before_a_server_takes_half_a_minute_to_say_it(environment, tiny_folder):
    environment()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SetupError, match=f"serve.port={port}: Address already in use"):
            serve.serve(config(f"model={tiny_folder}", f"serve.port={port}"))


def test_what_serve_sets_itself_is_no_further_argument():
    with pytest.raises(ConfigError, match="sets --port itself"):
        config("model=a/b", 'serve.args=["--port=3"]')
