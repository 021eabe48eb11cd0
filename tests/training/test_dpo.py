import math

import pytest
import torch
from tiny_runs import LORA, make_parts, make_trainer

from vsgrpo.training.measure import PhaseTimer
from vsgrpo.training.samples import SampleMaker
from vsgrpo.training.sft_dpo import pair_losses
from vsgrpo.training.worker import train

pytestmark = pytest.mark.integration


def margins(trainer):
    return [line["rewards/margins"] for line in trainer.state.log_history if "rewards/margins" in line]


def test_losses_by_hand():
    # ratios (1.0, -0.5) and (0, 0), beta 0.1: deltas 1.5 and 0
    ratios, lengths = torch.tensor([[1.0, -0.5], [0.0, 0.0]]), torch.tensor([[2, 1], [1, 1]])
    expected = [-math.log(1 / (1 + math.exp(-0.15))), math.log(2)]
    torch.testing.assert_close(pair_losses(ratios, lengths, 0.1, "sigmoid"), torch.tensor(expected))
    torch.testing.assert_close(pair_losses(ratios, lengths, 0.1, "hinge"), torch.tensor([0.85, 1.0]))
    # means 1.0 / 2 and -0.5 / 1: difference 1.0, minus 1 / (2 x 0.1) = 5
    torch.testing.assert_close(pair_losses(ratios, lengths, 0.1, "ipo"), torch.tensor([16.0, 25.0]))


def test_a_pair_is_two_leaves_of_one_prompt(make_config):
    parts = make_parts(make_config("dpo"))
    maker = SampleMaker(parts.bundle, parts.loader, PhaseTimer())
    samples = maker.make_answered([parts.dataset[i] for i in (0, 1)], ["target", "rejected"])
    chosen, rejected = samples[:2]
    assert chosen.prompt is rejected.prompt and chosen.media is rejected.media
    texts = [parts.bundle.tokenizer.decode(sample.completion) for sample in samples]
    wanted = [text for row in (parts.dataset[0], parts.dataset[1]) for text in (row["target"], row["rejected"])]
    assert texts == [f"{text}<|im_end|>" for text in wanted]
    assert [sample.index for sample in samples] == [0, 1, 0, 1]


@pytest.mark.parametrize("layout", ["on", "off"])
@pytest.mark.parametrize("tuning", [("model.freeze_vision=true",), ("model.freeze_vision=false",), LORA])
def test_margins_are_exactly_zero_at_step_0_and_then_grow(make_config, tuning, layout):
    overrides = (*tuning, f"trainer.shared_prefix={layout}", "trainer.max_steps=4", "trainer.learning_rate=2e-3")
    trainer = make_trainer(
        make_config("dpo", *overrides, "trainer.lr_scheduler_type=constant", "trainer.warmup_steps=0")
    )
    trainer.train()
    first, *_, last = margins(trainer)
    assert first == 0.0 and last > 0
    assert trainer.state.log_history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.both_families
def test_tree_and_plain_layout_give_the_same_loss_and_gradients(make_config):
    found = []
    for layout in ("on", "off"):
        trainer = make_trainer(make_config("dpo", f"trainer.shared_prefix={layout}", "model.freeze_vision=true"))
        with torch.no_grad():  # away from the reference, so that the loss is not ln 2 for all
            trainer.model.model.language_model.layers[-1].self_attn.v_proj.weight.mul_(1.5)
        loss = trainer.compute_loss(trainer.model, trainer.data_collator([trainer.train_dataset[i] for i in range(4)]))
        loss.backward()
        grads = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
        found.append((loss.detach(), grads))
    (a, grads_a), (b, grads_b) = found
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert abs(a.item() - math.log(2)) > 1e-4 and grads_a.keys() == grads_b.keys()
    for name, grad in grads_a.items():
        torch.testing.assert_close(grad, grads_b[name], atol=1e-5, rtol=1e-3)


def test_the_tower_runs_once_per_video_for_both_answers(make_config):
    trainer = make_trainer(make_config("dpo", *LORA))
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])  # two questions on each of two videos
    trainer.compute_loss(trainer.model, batch).backward()
    assert (trainer._store.num_calls, trainer._store.num_videos) == (2, 2)  # for 8 answers and for the reference
    assert "ref" not in trainer.model.peft_config


@pytest.mark.parametrize("layout", ["on", "off"])
def test_tokens_of_a_step_are_exact(make_config, layout):
    trainer = make_trainer(make_config("dpo", *LORA, f"trainer.shared_prefix={layout}"))
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])  # two questions on each of two videos
    trainer.timer.take_counts()
    trainer.compute_loss(trainer.model, batch)
    samples = batch["samples"]
    answers = sum(len(sample.completion) for sample in samples)
    plain = sum(len(sample.prompt.token_ids) for sample in samples) + answers
    shared = 0
    for a, b in ((samples[0], samples[2]), (samples[4], samples[6])):  # samples 0, 1 are the answers to one question
        ids, others = a.prompt.token_ids, b.prompt.token_ids
        cut = next(i for i, (x, y) in enumerate(zip(ids, others, strict=False)) if x != y)
        shared += cut + (len(ids) - cut - 1) + (len(others) - cut - 1)
    counts = trainer.timer.take_counts()
    # once by the policy, once by the reference
    assert counts["tokens/plain"] == 2 * plain
    assert counts["tokens/computed"] == 2 * (shared + answers if layout == "on" else plain)


@pytest.mark.both_families
def test_swapping_the_video_changes_the_margin_pass(make_config):
    trainer = make_trainer(make_config("dpo", *LORA))
    rows = [dict(trainer.train_dataset[i]) for i in (0, 2)]

    def scores():
        samples = trainer.data_collator(rows)["samples"]
        inputs = [sample.media[0] for sample in samples]
        features = trainer._store.features(inputs)
        return trainer._answer_logps(trainer.model, samples, features)[0].detach()

    own = scores()
    rows[0]["media"], rows[1]["media"] = rows[1]["media"], rows[0]["media"]
    assert (own - scores()).abs().min() > 1e-5


def test_a_video_that_turns_out_bad_counts_nowhere(make_config):
    trainer = make_trainer(make_config("dpo", "video.on_bad=skip", "model.freeze_vision=true"))
    with torch.no_grad():
        trainer.model.model.language_model.layers[0].self_attn.q_proj.weight.mul_(1.5)
    rows = [trainer.train_dataset[i] for i in (0, 2)]
    alone = trainer.compute_loss(trainer.model, trainer.data_collator(rows[1:]))
    trainer._maker._loader.quarantine[rows[0]["video"]] = "an earlier failure"
    both = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    torch.testing.assert_close(both, alone, atol=1e-6, rtol=0)


@pytest.mark.both_families
def test_a_run_writes_whole_weights_that_grpo_starts_from(make_config):
    probe = "trainer.probe_longest=on"
    config = make_config("dpo", *LORA[:2], "model.merge_on_save=null", "trainer.learning_rate=1e-3", probe)
    assert config.merges() and train(config) == 0
    final = f"{config.run.dir}/final"
    grpo = make_config("grpo", *LORA, f"model.path={final}", "trainer.max_steps=1", probe, name="grpo")
    assert not grpo.merges() and train(grpo) == 0
