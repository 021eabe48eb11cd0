"""What goes wrong with a server: refused before the first step, mended, or the run stops with a checkpoint."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from test_served import STEPS, by_server
from tiny_runs import LORA, SPREAD, make_trainer, write_dataset

from fake_server import FakeServer
from vsgrpo.errors import ConfigError, RunError, SetupError
from vsgrpo.modeling.bundle import base_model, prompt_positions
from vsgrpo.modeling.load import LoraSettings, load
from vsgrpo.modeling.save import save_model
from vsgrpo.modeling.tiny import build_tiny
from vsgrpo.training.preflight import check_run
from vsgrpo.training.served import farthest
from vsgrpo.training.worker import train
from vsgrpo.video.writer import write_video

pytestmark = pytest.mark.integration
FULL = ("model.tune=full", "model.freeze_vision=true", "rollout.vllm.sync=disk")
PER_STEP = 8
"""Completions of a step, of two videos or one."""


@pytest.fixture
def run(make_config):
    """Return a function (server, overrides) -> config of a run by a server; no server: by our own rollout."""

    def make(server, *more, name="served"):
        tune = [word for word in (FULL if FULL[0] in more else LORA) if server is not None or "rollout" not in word]
        return make_config("grpo", SPREAD, *STEPS, *tune, *(by_server(server) if server else ()), *more, name=name)

    return make


@pytest.fixture
def lora_folder(tiny_folder, tmp_path):
    save_model(load(tiny_folder, tune="lora", lora=LoraSettings(r=4), offline=True), tmp_path / "adapter", merge=False)
    return tmp_path / "adapter"


def completions(config):
    with open(f"{config.run.dir}/completions.jsonl") as stream:
        lines = [json.loads(line) for line in stream]
    return {(line["step"], line["id"], line["index"]): (line["completion"], line["advantage"]) for line in lines}


def checkpoints(config):
    with open(f"{config.run.dir}/run.json") as stream:
        return sorted(json.load(stream).get("checkpoints", {}))


def at_step(server, step, action):
    """Let something happen to a server before a completion of a step, once."""
    done = []

    def event(number):
        # one token for each video of a step comes first, and 2 completions of the handshake before all steps
        if not done and server.count("/v1/load_lora_adapter") + server.count("/collective_rpc") > step:
            done.append(action())

    server.does.event = event


@pytest.mark.parametrize(
    ("server", "more", "words"),
    [
        ({"version": "0.29.1"}, (), r"vLLM 0\.29\.1; compared with vsgrpo were 0\.32\.0 only"),
        (
            {"info": {"model_config": {"max_model_len": 40}}},
            (),
            r"takes 40 tokens, a prompt and its completion have up",
        ),
        ({"info": {"model_config": {"logprobs_mode": "processed_logprobs"}}}, (), "sampling=keyed needs raw_logprobs"),
        ({}, ("trainer.temperature=0.7",), "returns raw_logprobs, sampling=seeded needs processed_logprobs"),
        ({"info": {"model_config": {"dtype": "torch.float16"}}}, (), "computes in float16, this side in float32"),
        ({"info": {"lora_config": {"max_lora_rank": 2}}}, (), r"takes adapters of rank 2 at most, model\.lora\.r=8"),
        ({"info": {"lora_config": {"max_lora_rank": None}}}, (), r"takes no adapters, model\.lora\.r=8"),
        ({"shift": (0.2,)}, (), r"before the first step: row .*: log-probs of the servers are 0\.2 from ours"),
    ],
)
def test_a_server_that_is_not_what_a_run_needs_is_refused_before_the_first_step(serve, run, server, more, words):
    started = serve()
    for name, value in server.items():
        setattr(started.does, name, value)
    config = run(started, *more)
    with pytest.raises(SetupError, match=words) as error:
        train(config)
    assert error.value.hint and "\n" not in error.value.message
    assert checkpoints(config) == []


def test_a_server_of_another_model_is_refused_before_the_first_step(serve, run, tmp_path):
    build_tiny(tmp_path / "other", seed=5)
    with pytest.raises(SetupError, match=r"before the first step: row .*: log-probs of the servers are") as error:
        train(run(serve(folder=tmp_path / "other")))
    assert "another model" in error.value.hint


def test_models_that_servers_would_draw_otherwise_are_refused_without_asking_them(run, lora_folder):
    def refused(*more):
        with pytest.raises(ConfigError) as error:
            check_run(run(None, "rollout.engine=vllm", *more), [])
        return error.value

    assert "Qwen3-VL is not drawn from by a server" in refused("model.path=tiny_3").message
    error = refused("model.text_after_video=library")
    assert (
        error.message.startswith("model.text_after_video=library: vLLM places text")
        and "rollout.engine=own" in error.hint
    )
    error = refused(f"model.path={lora_folder}")
    assert error.message.startswith(f"model.path={lora_folder}: an adapter, merged here in memory")
    assert f"vsgrpo merge {lora_folder}" in error.hint
    assert refused(f"model.adapter={lora_folder}").message.startswith(f"model.adapter={lora_folder}: an adapter")
    check_run(run(None, "rollout.engine=vllm", f"model.path={lora_folder}", "rollout.vllm.sync=disk"), [])


@pytest.mark.parametrize("tiny_folder", ["qwen2_5_vl"], indirect=True, scope="session")
def test_text_that_is_placed_by_another_rule_is_found_by_the_video_that_reaches_farthest(
    serve, make_config, tiny_folder, tmp_path, monkeypatch
):
    """Four of five videos are of 4 seconds, the fifth of 32: its two patches are 16 seconds, 32 positions, apart."""
    folder = write_dataset(tmp_path / "rows", num_scenes=5)
    frames = np.random.default_rng(9).integers(0, 256, (32, 56, 56, 3), dtype=np.uint8)
    write_video(folder / "videos" / "3.mp4", list(frames), fps=1)
    given = (f"data={folder}", "rollout.vllm.max_logprob_gap=0.01")
    server = serve()
    config = make_config("grpo", SPREAD, *STEPS, *LORA, *by_server(server, *given))
    trainer = make_trainer(config)
    sample = farthest(trainer._maker, trainer.train_dataset, trainer.bundle)
    assert sample.row_key.endswith("3")
    assert prompt_lag(trainer.bundle.model, sample) == 33 - 2  # 1 + 32, after 2 rows of tokens
    load_as_here = type(server).start

    def by_library(self):
        load_as_here(self)
        self.base.text_after_video = "library"

    monkeypatch.setattr(type(server), "start", by_library)
    monkeypatch.setattr(server, "load_adapter", lambda body: load_by_library(server, body))
    server.restart()
    with pytest.raises(
        SetupError, match=r"before the first step: row demo/\w+3: log-probs of the servers are"
    ) as error:
        train(config)
    assert "place text after a video otherwise" in error.value.hint


def load_by_library(server, body):
    FakeServer.load_adapter(server, body)
    base_model(server.adapters[body["lora_name"]]).text_after_video = "library"
    return "Success"


def prompt_lag(model, sample):
    """Return by how many positions two rules of text after a video part."""
    found = []
    inner = base_model(model)
    before = inner.text_after_video
    for rule in ("published", "library"):
        inner.text_after_video = rule
        media = [item.medium for item in sample.media]
        found.append(prompt_positions(model, sample.prompt.token_ids, media).next_position)
    inner.text_after_video = before
    return found[0] - found[1]


def test_no_server_is_an_error_after_the_time_that_it_may_take(serve, run, capsys):
    server = serve()
    server.stop()
    with pytest.raises(SetupError, match=r"no server answers after 0\.3 seconds") as error:
        train(run(server, "rollout.vllm.startup_timeout_s=0.3"))
    assert "vsgrpo serve" in error.value.hint
    assert f"waiting for the server at {server.url}" in capsys.readouterr().err


@pytest.mark.parametrize("tune", [(), FULL], ids=["lora", "disk"])
def test_a_server_that_is_started_anew_gets_everything_back(serve, run, tune):
    own, server = run(None, *tune[:2], name="own"), serve()
    served = run(server, *tune)
    at_step(server, 1, lambda: threading.Thread(target=server.restart).start())
    assert train(own) == train(served) == 0
    assert completions(own) == completions(served) and len(completions(own)) == 3 * PER_STEP
    assert server.weights == ("default" if not tune else server.weights) and not server.adapters


def stop(server):
    threading.Thread(target=server.stop).start()


def wrong(**behaviour):
    def change(server):
        for name, value in behaviour.items():
            setattr(server.does, name, value)

    return change


@pytest.mark.parametrize(
    ("tune", "action", "more", "words"),
    [
        ((), stop, ("rollout.vllm.startup_timeout_s=0.5",), r"step 1: .*no server answers after 0\.5 seconds"),
        ((), wrong(mute=10**6), ("rollout.vllm.timeout_s=2",), r"step 1: .*no answer in 2 seconds"),
        ((), wrong(finish_reason="abort"), (), r"step 1: .*finish_reason=abort"),
        ((), wrong(error=500), (), r"step 1: .*HTTP 500"),
        ((), wrong(shift=(0.5, -0.5)), (), r"step 1: completions: log-probs of the servers are 0\.5 from ours"),
        (FULL, wrong(weight_version="another-7"), (), r"step 1: .*drew with the weights another-7, not with"),
    ],
    ids=["dead", "frozen", "aborted", "engine dead", "gap", "stale"],
)
def test_a_run_that_cannot_go_on_is_saved_and_goes_on_later(serve, run, tune, action, more, words):
    own, server = run(None, *tune[:2], name="own"), serve()
    served = run(server, *tune, "trainer.save_steps=100", *more)
    at_step(server, 1, lambda: action(server))
    with pytest.raises(RunError, match=words) as error:
        train(served)
    assert error.value.exit_code == 1 and "checkpoint-1 is written, --resume goes on from it" in error.value.hint
    assert checkpoints(served) == ["1"]
    if server.alive:
        server.stop()
    server.does = type(server.does)()
    server.start()
    assert train(served, resume=True) == train(own) == 0
    assert completions(served) == completions(own)


def test_features_that_a_server_mixes_up_stop_the_run(serve, run):
    server = serve()

    def mix():
        for given in server.features.values():
            given.tensor.add_(3.0)  # of another tower

    at_step(server, 1, mix)
    with pytest.raises(RunError, match=r"step 1: completions: log-probs of the servers are") as error:
        train(run(server, "rollout.vllm.max_logprob_gap=0.01"))
    assert "features of another vision tower" in error.value.hint


def test_weights_of_a_run_are_gone_when_it_is_done(serve, run):
    server = serve()
    config = run(server)
    left = f"{config.run.dir}/rollout_weights"
    assert train(config) == 0
    assert not server.adapters and list(Path(left).iterdir()) == []
    loaded = [body["lora_name"] for path, body in server.requests if path == "/v1/load_lora_adapter"]
    dropped = [body["lora_name"] for path, body in server.requests if path == "/v1/unload_lora_adapter"]
    assert len(set(loaded)) == 3 and loaded == dropped
