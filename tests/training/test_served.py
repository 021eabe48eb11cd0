"""GRPO whose completions a server draws: the same as our own rollout's, and the same loss."""

import json
import math

import pytest
import torch
from tiny_runs import LORA, SPREAD, make_trainer

from vsgrpo.modeling.logps import logps

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


def test_groups_are_drawn_anew_by_a_server_too(serve, make_config):
    words = ("reward.names=[spread_reward:fifths]", "trainer.group_filter={min: 0.01, max: 0.99}", *STEPS, *LORA)
    words += ("trainer.temporal_generations=2",)
    own = make_trainer(make_config("grpo", *words, name="own"))
    own.train()
    served = make_trainer(make_config("grpo", *words, *by_server(serve()), name="served"))
    served.train()
    assert lines(own, "completions.jsonl") == lines(served, "completions.jsonl")
    logs = [[line for line in lines(each, "log.jsonl") if "loss" in line] for each in (own, served)]
    assert sum(line["group_filter/redrawn"] for line in logs[0]) > 0
    for mine, theirs in zip(*logs, strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], abs=1e-6) and theirs["sampling/gap"] < 1e-5


def group_rows(trainer):
    """Return the first two rows four times each."""
    return [dict(trainer.train_dataset[i]) for i in (0, 2) for _ in range(4)]


def loss_of(trainer, rows):
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer._generate_and_score_completions(rows)
    return batch, trainer._compute_loss(trainer.model, batch)


SHIFTS = (-1.0, 0.4, -0.2)
"""Of the server's log-probs, in turn: ours are higher by 1, lower by 0.4, higher by 0.2."""


def ratios(mode, length):
    """Return the factor of each token of a completion, clipped or masked at 2: exp(1) = 2.72 is the only one above."""
    tokens = [math.exp(-SHIFTS[place % 3]) for place in range(length)]
    whole = math.prod(tokens)
    if mode == "token_truncate":
        return [min(ratio, 2.0) for ratio in tokens]
    if mode == "token_mask":
        return [ratio if ratio <= 2 else 0.0 for ratio in tokens]
    return [min(whole, 2.0) if mode == "sequence_truncate" else whole if whole <= 2 else 0.0] * length


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_log_probs_that_are_not_ours_are_corrected(serve, make_config, mode):
    server = serve()
    given = ("rollout.vllm.max_logprob_gap=10", f"rollout.vllm.is_mode={mode}", "trainer.loss_type=grpo")
    config = make_config("grpo", SPREAD, *LORA, *STEPS, "trainer.beta=0", *by_server(server, *given))
    trainer = make_trainer(config)
    server.does.shift = SHIFTS
    batch, loss = loss_of(trainer, group_rows(trainer))
    loss.backward()
    found = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    lengths = [len(sample.completion) for sample in batch["samples"]]
    assert max(lengths) >= 3 and batch["advantages"].abs().min() > 0

    # The ratio to the policy that drew is 1, so the loss of a row is the mean of -advantage * factor of its tokens.
    samples = batch["samples"]
    features = {item.key: each for s in samples for item, each in zip(s.media, s.features, strict=True)}
    scored = logps(trainer.model, trainer._trees(samples), features, layout=trainer._layout)
    terms = []
    for (scores, _), advantage, length in zip(scored, batch["advantages"], lengths, strict=True):
        factors = torch.tensor(ratios(mode, length))
        terms.append((-advantage * factors * torch.exp(scores - scores.detach())).mean())
    expected = torch.stack(terms).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    expected.backward()
    for name, parameter in trainer.model.named_parameters():
        if name in found:
            assert torch.allclose(found[name], parameter.grad, rtol=1e-3, atol=1e-6), name


def test_a_video_that_turns_out_bad_is_not_asked_about_and_counts_nowhere(serve, make_config):
    server = serve()
    config = make_config("grpo", SPREAD, *LORA, *STEPS, "trainer.beta=0", "video.on_bad=skip", *by_server(server))
    trainer = make_trainer(config)
    rows = group_rows(trainer)
    alone, expected = loss_of(trainer, rows[4:])
    before = server.number
    trainer._maker._loader.quarantine[rows[0]["video"]] = "an earlier failure"
    batch, loss = loss_of(trainer, rows)
    assert server.number == before + 4
    assert [s.completion for s in batch["samples"][4:]] == [s.completion for s in alone["samples"]]
    assert [len(s.completion) for s in batch["samples"][:4]] == [1] * 4
    assert batch["importance_sampling_ratio"][:4, 0].tolist() == [1.0] * 4
    assert not batch["sampling_per_token_logps"].isnan().any()
    assert batch["completion_mask"][:4].sum() == 0
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_other_temperatures_are_drawn_by_the_servers_own_sampler(serve, make_config):
    server = serve(sampling="seeded")
    config = make_config("grpo", SPREAD, *LORA, *STEPS, "trainer.temperature=0.7", *by_server(server))
    trainer = make_trainer(config)
    batch, _ = loss_of(trainer, group_rows(trainer))
    asked = [body["sampling_params"] for path, body in server.requests if path == "/inference/v1/generate"]
    assert {params["temperature"] for params in asked} == {0.7} and all("seed" in params for params in asked)
    # Its log-probs are those of the temperature that it drew at, as ours are.
    assert trainer._metrics["train"]["sampling/gap"][0] < 1e-5
    assert torch.allclose(batch["importance_sampling_ratio"], torch.ones(()), atol=1e-4)


def test_what_a_log_says_of_servers(serve, make_config):
    server = serve()
    server.preemptions = 5  # of others
    trainer = make_trainer(make_config("grpo", SPREAD, *LORA, *STEPS, *by_server(server)))
    server.preemptions = 7
    trainer.train()
    found = [line for line in lines(trainer, "log.jsonl") if "loss" in line]
    assert [line["sampling/preemptions"] for line in found] == [2, 0, 0]
    names = ("sampling_logp_difference/mean", "importance_sampling_ratio/max", "gap")
    assert all(f"sampling/{name}" in line for line in found for name in names)
