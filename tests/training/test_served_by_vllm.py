"""GRPO by a real vLLM server on a CPU is GRPO by our own rollout. By hand: VSGRPO_VLLM_PYTHON=... make test-vllm.

Killed in the middle and started again, the run goes on; killed for good, it stops with a checkpoint and goes on later.
"""

import json
import os
import threading
import time
from pathlib import Path

import pytest
from test_served import STEPS
from tiny_runs import LORA, SMALL, SPREAD, write_dataset
from two_processes import assert_equal_runs, log

from real_server import RealServer
from vsgrpo.config.compose import load_config
from vsgrpo.engine import serve
from vsgrpo.errors import RunError
from vsgrpo.families.family import TinySizes
from vsgrpo.modeling.tiny import build_tiny
from vsgrpo.training.worker import train

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(serve.INTERPRETER not in os.environ, reason=f"{serve.INTERPRETER} is not set (docs/engine.md)"),
]
FULL = ("model.tune=full", "model.freeze_vision=true")
GIVEN = ("trainer.num_generations=4", "trainer.per_device_train_batch_size=8", "trainer.gradient_accumulation_steps=1")
GIVEN += (SPREAD, *STEPS, "trainer.max_completion_length=24", "trainer.max_steps=4")


class Lab:
    """A model, its server, and runs on one data set."""

    def __init__(self, folder, family):
        self.folder = folder
        self.rows = write_dataset(folder / "rows")
        build_tiny(folder / "model", family=family, sizes=TinySizes(hidden_size=128))
        self.server = RealServer(folder / "model", folder / "server.log")

    def config(self, name, *more, served=True):
        run_dir = self.folder / name
        run_dir.mkdir(exist_ok=True)
        given = [f"data={self.rows}", f"output={run_dir}", *SMALL, *GIVEN, f"model.path={self.folder / 'model'}", *more]
        if served:
            given += ["rollout.engine=vllm", f"rollout.vllm.base_urls=[{self.server.url}]"]
        return load_config("train", ["trainer=grpo", *given])


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl"])
def lab(request, tmp_path_factory):
    made = Lab(tmp_path_factory.mktemp(request.param), request.param)
    made.server.start()
    yield made
    made.server.kill()


def when_drawn(config, steps, action):
    """Do something once a run has drawn so many steps, in a thread."""
    path = Path(config.run.dir) / "completions.jsonl"

    def watch():
        end = time.monotonic() + 300
        while not (path.is_file() and path.read_bytes().count(b"\n") >= 8 * steps):
            if time.monotonic() > end:
                return
            time.sleep(0.01)
        action()

    threading.Thread(target=watch, daemon=True).start()


def report(what, run, own):
    norms, apart = assert_equal_runs(run.run.dir, own.run.dir)
    gaps = [line["sampling/gap"] for line in log(run.run.dir)]
    print(
        f"\n{what}: 32 of 32 completions equal, gap {max(gaps):.1e}, grad_norm {norms:.1e}, weights {apart:.1e} apart"
    )


@pytest.mark.parametrize("kind", ["lora", "disk"])
def test_a_run_by_vllm_is_the_run_of_our_own_rollout(lab, kind):
    tune = LORA if kind == "lora" else FULL
    own = lab.config(f"own-{kind}", *tune, served=False)
    run = lab.config(f"served-{kind}", *tune, f"rollout.vllm.sync={kind}")
    assert train(own) == train(run) == 0
    report(f"{lab.folder.name}, {kind}", run, own)
    if kind == "disk":  # the next test wants the model's own weights
        lab.server.kill()
        lab.server.start()


def test_a_run_outlives_its_server(lab):
    own = lab.config("own-alone", *LORA, served=False)
    again = lab.config("again", *LORA)

    def restart():
        lab.server.kill()
        lab.server.start(wait=False)

    when_drawn(again, 2, restart)
    assert train(own) == train(again) == 0
    lab.server.wait()
    report(f"{lab.folder.name}, killed and started again", again, own)


def test_a_run_whose_server_is_gone_goes_on_later(lab):
    own = lab.config("own-resumed", *LORA, served=False)
    run = lab.config("resumed", *LORA, "rollout.vllm.startup_timeout_s=2", "trainer.save_steps=100")
    when_drawn(run, 2, lab.server.kill)
    with pytest.raises(RunError, match=r"step \d: .*no server answers after 2 seconds") as error:
        train(run)
    assert "is written, --resume goes on from it" in error.value.hint
    kept = sorted(json.loads((Path(run.run.dir) / "run.json").read_text())["checkpoints"])
    lab.server.start()
    assert train(run, resume=True) == train(own) == 0
    report(f"{lab.folder.name}, killed for good, resumed from checkpoint {kept[-1]}", run, own)
