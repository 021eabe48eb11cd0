"""`vsgrpo serve`: the command that starts a vLLM server for rollouts and evaluations (docs/engine.md).

vLLM pins other versions of its libraries than this project, so it runs in an environment of its own, whose interpreter
VSGRPO_VLLM_PYTHON names. Its server computes no vision tower: features are sent to it.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from vsgrpo.config.serve import LORA_RANKS, ServeConfig
from vsgrpo.engine.wire import LOGPROBS_MODES, VLLM_VERSIONS
from vsgrpo.errors import ConfigError, DataError, SetupError
from vsgrpo.families import ADAPTER_CONFIG, BUILT, CONFIG, check_served, family_of, find_model
from vsgrpo.families.hub_models import check_reachable, local_model
from vsgrpo.families.vision_record import LIBRARY, text_rule
from vsgrpo.records import read_record
from vsgrpo.terminal import show

INTERPRETER = "VSGRPO_VLLM_PYTHON"
MERGE_FIRST = "merge it, serve the merged model and name it everywhere: vsgrpo merge {0} output=DIR"
_PLUGIN = Path(__file__).resolve().parents[1] / "server_plugin"
_ASK_VERSION = "import importlib.metadata as m; print(m.version('vllm'))"
_ASK_LIMIT_S = 60.0
_SET_UP = "docs/engine.md says how to make an environment for vLLM; for CPUs: bash scripts/prepare_vllm_cpu.sh DIR"
_LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServerCommand:
    """What starts a server: arguments, and variables that are added to the environment."""

    arguments: tuple[str, ...]
    variables: dict[str, str]

    def text(self) -> str:
        """Return a command for a shell, one setting a line."""
        first, rest = self.arguments[:4], self.arguments[4:]
        lines = [f"{name}={shlex.quote(value)}" for name, value in self.variables.items()] + [shlex.join(first)]
        for word in rest:
            if word.startswith("--"):
                lines.append(word)
            else:
                lines[-1] += f" {shlex.quote(word)}"
        return " \\\n  ".join(lines)


def serve(config: ServeConfig, *, only_print: bool = False) -> None:
    """Become the vLLM server that a config describes; with `only_print`, write its command to stdout.

    Raises:
        ConfigError: a model that vLLM serves by other rules than it was trained with.
        DataError: a model that cannot be loaded, or an adapter whose base is no model on disk.
        SetupError: no interpreter, no vLLM or another version there, or the port is in use.
    """
    command = server_command(config, interpreter())
    if only_print:
        show(command.text())
        return
    host, port = config.serve.host, config.serve.port
    _check_free(host, port)
    if host not in _LOCAL:
        show(f"warning: serve.host={host}: who reaches this port can load weights into the server", sys.stderr)
    show(f"serving {command.arguments[4]} on http://{host}:{port}; Ctrl-C ends it", sys.stderr)
    sys.stdout.flush()
    os.execve(command.arguments[0], command.arguments, {**os.environ, **command.variables})


def interpreter() -> str:
    """Return the interpreter of vLLM's environment.

    Raises:
        SetupError: it is not named, not there, has no vLLM, or one of a version that was not compared.
    """
    path = os.environ.get(INTERPRETER, "")
    if not path:
        raise SetupError(f"{INTERPRETER}: not set: the Python of vLLM's environment is needed", _SET_UP)
    if not (Path(path).is_file() and os.access(path, os.X_OK)):
        raise SetupError(f"{INTERPRETER}={path}: no program", _SET_UP)
    version = vllm_version(path)
    if version.partition("+")[0] not in VLLM_VERSIONS:
        known = ", ".join(VLLM_VERSIONS)
        what = f"{INTERPRETER}={path}: vllm {version}; compared with vsgrpo were {known} only"
        raise SetupError(what, f"install it there: {path} -m pip install vllm=={VLLM_VERSIONS[-1]}")
    return path


def vllm_version(path: str) -> str:
    """Return the version of vLLM beside an interpreter.

    Raises:
        SetupError: there is none, or the interpreter does not answer.
    """
    try:
        done = subprocess.run([path, "-c", _ASK_VERSION], capture_output=True, text=True, timeout=_ASK_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise SetupError(f"{INTERPRETER}={path}: no answer in {_ASK_LIMIT_S:g} s", _SET_UP) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        missing = "no vllm in this environment" if "PackageNotFoundError" in last else last[:200]
        raise SetupError(f"{INTERPRETER}={path}: {missing}", _SET_UP)
    return done.stdout.strip()


def server_command(config: ServeConfig, python: str) -> ServerCommand:
    """Return the command of a server.

    Raises:
        ConfigError, DataError: as `serve`.
        SetupError: a model of the hub that is not here, and the hub cannot be asked.
    """
    path = local_model(config.model.path, f"model.path={config.model.path}")
    model, asked = local_model(served_model(path), f"the base of {config.model.path}"), config.serve
    check_reachable([model])
    _check_length(model, asked.max_model_len)
    arguments = [python, "-m", "vllm.entrypoints.cli.main", "serve", model]
    arguments += ["--host", asked.host, "--port", str(asked.port), "--dtype", config.model.dtype]
    arguments += ["--max-model-len", str(asked.max_model_len)]
    # Token ids and features in, token ids out. No vision tower is built.
    arguments += ["--enable-scale-out", "--enable-mm-embeds", "--limit-mm-per-prompt", '{"image":0,"video":0}']
    # Unset sampling parameters are vLLM's, not those of the model's generation_config.json.
    arguments += ["--generation-config", "vllm", "--logprobs-mode", LOGPROBS_MODES[asked.sampling]]
    runner = os.environ.get("VLLM_USE_V2_MODEL_RUNNER", "0")
    processor = "KeyedSampling" if runner == "0" else "KeyedSamplingV2"
    arguments += ["--logits-processors", f"vsgrpo_keyed:{processor}"]
    variables = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_PLUGIN), os.environ.get("PYTHONPATH")])),
        "VLLM_SERVER_DEV_MODE": "1",  # /server_info, /collective_rpc and the resets of caches
        "VLLM_USE_V2_MODEL_RUNNER": runner,
        "VLLM_NO_USAGE_STATS": "1",
    }
    if asked.max_lora_rank:
        rank = next(rank for rank in LORA_RANKS if rank >= asked.max_lora_rank)
        arguments += ["--enable-lora", "--max-loras", "1", "--max-cpu-loras", "2", "--max-lora-rank", str(rank)]
        variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if asked.tensor_parallel_size > 1:
        arguments += ["--tensor-parallel-size", str(asked.tensor_parallel_size)]
    arguments += ["--gpu-memory-utilization", f"{asked.gpu_memory_utilization:g}", *asked.args]
    return ServerCommand(tuple(arguments), variables)


def served_model(path: str) -> str:
    """Return the full model that a server of model.path serves: itself, or the base of an adapter.

    Raises:
        ConfigError: a model that is built on first use, one of a family that was not compared, or one whose text goes
            on after a video by another rule than vLLM's.
        DataError: no such model, or an adapter that needs earlier ones in its base.
    """
    base = find_model(path)
    if base in BUILT:
        raise ConfigError(f"model.path={path}: is built by a run", hint="give the folder that a run built it in")
    if (Path(path) / "earlier_adapters").is_dir():
        what = f"model.path={path}: an adapter on a base with earlier adapters in it, which a server does not have"
        raise DataError(what, MERGE_FIRST.format(path))
    family = family_of(base)
    if family is not None:
        check_served(family, f"model.path={path}")
    if text_rule(path) == LIBRARY:
        what = f"model.path={path}: made with model.text_after_video=library; vLLM places text as published only"
        raise ConfigError(what, hint="roll out and evaluate it with vsgrpo's own engine (docs/limits.md)")
    return base


def check_servable(path: str, adapter: str | None, text_after_video: str) -> None:
    """Refuse an evaluation that servers cannot answer, before anything is loaded.

    Args:
        text_after_video: the rule that it goes by.

    Raises:
        ConfigError: as `served_model`, or several processes.
        DataError: an adapter on a base with earlier adapters.
    """
    for model in filter(None, (path, adapter)):
        served_model(model)
    if text_after_video == LIBRARY:
        what = "model.text_after_video=library: vLLM places text as published only"
        raise ConfigError(what, hint="set decoding.engine=own (docs/limits.md)")
    if adapter is not None and (Path(path) / ADAPTER_CONFIG).is_file():
        what = f"model.adapter={adapter}: model.path={path} is an adapter itself"
        raise DataError(what, MERGE_FIRST.format(path))
    if (world := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        what = f"decoding.engine=vllm: {world} processes would ask the same servers"
        raise ConfigError(what, hint="start `vsgrpo eval` alone: one process keeps all servers busy")


def _check_length(model: str, max_model_len: int) -> None:
    """Refuse more tokens than a model has positions, where its config.json is here."""
    if not (Path(model) / CONFIG).is_file():
        return
    config = read_record(Path(model) / CONFIG, {}, "copy the model again")
    text = config.get("text_config")
    limit = (text if isinstance(text, dict) else config).get("max_position_embeddings")
    if isinstance(limit, int) and max_model_len > limit:
        what = f"serve.max_model_len={max_model_len}: {model} has {limit} positions (max_position_embeddings)"
        raise ConfigError(what, hint=f"set serve.max_model_len={limit} or less")


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            what = f"serve.host={host} serve.port={port}: {error.strerror or error}"
            raise SetupError(what, "choose another serve.port, or end what uses it") from None
