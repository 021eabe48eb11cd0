"""GRPO whose completions a server draws: the same as our own rollout's, and the same loss."""

import json

import pytest
import torch
from tiny_runs import LORA, SPREAD, make_trainer

pytestmark = pytest.mark.integration
STEPS = ("trainer.max_steps=3", "trainer.learning_rate=0.5", "trainer.warmup_steps=0", "trainer.optim=sgd")
STEPS += ("trainer.max_completion_length=6",)
"""Adam would make steps of full size out of gradients that are rounding errors."""


def by_server(server, *more):
    given = ["rollout.engine=vllm", f"rollout.vllm.base_urls=[{server.url}]", "rollout.vllm.startup_timeout_s=20"]
    return [*given, "rollout.vllm.timeout_s=20", *more]


def lines(trainer, name):
    path = trainer.stage.folder.path / name
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kind", ["lora", "disk"])
def test_a_run_by_a_server_is_the_run_of_our_own_rollout(serve, make_config, kind):
    tune = (*LORA,) if kind == "lora" else ("model.tune=full", "model.freeze_vision=true")
    own = make_trainer(make_config("grpo", SPREAD, *STEPS, *tune, name="own"))
    own.train()
    server = serve()
    served = make_trainer(
        make_config("grpo", SPREAD, *STEPS, *tune, *by_server(server, f"rollout.vllm.sync={kind}"), name="served")
    )
    served.train()
    drawn = [[{**line, "step": line["step"]} for line in lines(each, "completions.jsonl")] for each in (own, served)]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 3 * 8
    logs = [[line for line in lines(each, "log.jsonl") if "loss" in line] for each in (own, served)]
    for mine, theirs in zip(*logs, strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], abs=1e-6)
        assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=1e-4)
        assert theirs["sampling/gap"] < 1e-5
    for (name, a), b in zip(own.model.named_parameters(), served.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name
