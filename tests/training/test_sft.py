import math

import pytest
import torch
from tiny_runs import make_trainer
from trl.trainer.sft_trainer import SFTTrainer

from vsgrpo.families import FAMILIES
from vsgrpo.modeling.tree import common_prefix_length
from vsgrpo.training import stages
from vsgrpo.training.stages import trl_config

pytestmark = pytest.mark.integration


def test_a_sample_is_the_prompt_then_the_answer_and_the_end_of_turn(make_config):
    trainer = make_trainer(make_config("sft"))
    rows = [trainer.train_dataset[i] for i in (0, 1)]
    batch = trainer.data_collator(rows)
    tokenizer = trainer.bundle.tokenizer
    for row, sample, ids in zip(rows, batch["samples"], batch["input_ids"].tolist(), strict=True):
        assert tokenizer.decode(sample.completion) == row["target"] + "<|im_end|>"
        assert tokenizer.decode(sample.prompt.token_ids).endswith("<|im_start|>assistant\n")
        own = [*sample.prompt.token_ids, *sample.completion]
        assert ids == own + [tokenizer.pad_token_id] * (len(ids) - len(own))
    assert trainer._count_items(batch) == sum(len(tokenizer(row["target"])["input_ids"]) + 1 for row in rows)


def test_loss_is_the_mean_over_answer_tokens_of_the_whole_update(make_config):
    trainer = make_trainer(make_config("sft"))
    rows = [trainer.train_dataset[i] for i in range(4)]
    batches = [trainer.data_collator(rows[:1]), trainer.data_collator(rows[1:])]
    count = sum(len(sample.completion) for batch in batches for sample in batch["samples"])
    assert trainer._get_num_items_in_batch(batches, torch.device("cpu")) == count
    parts = [trainer.compute_loss(trainer.model, batch, num_items_in_batch=count) for batch in batches]
    whole = trainer.compute_loss(trainer.model, trainer.data_collator(rows), num_items_in_batch=count)
    # Microbatches of 1 and 3 rows weigh by their tokens: their losses add up to the loss of all 4.
    torch.testing.assert_close(sum(parts), whole, atol=1e-5, rtol=0)
    # Random weights of init 0.08 over about 600 tokens: near ln 600 = 6.4.
    assert abs(whole.item() - math.log(len(trainer.bundle.tokenizer))) < 1.0


@pytest.mark.parametrize("tiny_folder", [*FAMILIES], indirect=True)
def test_no_flag_of_a_family_or_library_chooses_the_normaliser(make_config, monkeypatch, tiny_folder):
    ragged = ("trainer.per_device_train_batch_size=5", "trainer.gradient_accumulation_steps=3", "trainer.max_steps=1")
    logs = []
    for flag in (True, False):
        for family in FAMILIES.values():
            monkeypatch.setattr(family.model, "accepts_loss_kwargs", flag, raising=False)
        monkeypatch.setattr(SFTTrainer, "loss_is_scaled_for_ga", flag)
        trainer = make_trainer(make_config("sft", *ragged, name=str(flag)))
        assert trainer.model_accepts_loss_kwargs is True and trainer.loss_is_scaled_for_ga is True
        trainer.train()
        logs.append([trainer.state.log_history[0][name] for name in ("loss", "grad_norm")])
    assert logs[0] == logs[1]


def test_gpus_that_no_process_was_started_for_are_left_alone(make_config, monkeypatch):
    def on_two_gpus(*given):
        args = trl_config(*given)
        assert args.device.type == "cpu"  # looked up once
        args._n_gpu = 2  # what torch.cuda.device_count() would leave there
        return args

    monkeypatch.setattr(stages, "trl_config", on_two_gpus)
    trainer = make_trainer(make_config("sft", "trainer.per_device_train_batch_size=4"))
    # Else: DataParallel, and microbatches of 8.
    assert trainer.args.n_gpu == 1 and trainer.args.train_batch_size == 4


def test_the_tower_runs_once_per_video_of_a_batch_and_gets_gradients(make_config):
    trainer = make_trainer(make_config("sft"))
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])  # two questions on each of two videos
    trainer.compute_loss(trainer.model, batch).backward()
    assert trainer._store.num_videos == 2
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trainer.model.model.visual.parameters())


def test_the_tower_learns_at_its_own_rate_and_decays_by_it(make_config):
    """Plain gradient descent: w - rate * (gradient + decay * w), so at ten times the rate ten times as far."""
    given = ("trainer.optim=sgd", "trainer.weight_decay=0.5", "trainer.max_grad_norm=0", "trainer.max_steps=1")
    given += ("trainer.learning_rate=1e-4", "trainer.lr_scheduler_type=constant", "trainer.warmup_steps=0")
    moved = {}
    for number in (1, 10):
        trainer = make_trainer(
            make_config("sft", *given, f"trainer.vision_learning_rate={number}e-4", name=str(number))
        )
        before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
        trainer.train()
        assert trainer.state.log_history[0]["learning_rate"] == 1e-4
        assert trainer.state.log_history[0]["vision_learning_rate"] == pytest.approx(number * 1e-4)
        moved[number] = {name: weight.detach() - before[name] for name, weight in trainer.model.named_parameters()}
    for name, step in moved[1].items():
        factor = 10 if ".visual." in name else 1
        torch.testing.assert_close(moved[10][name], factor * step, atol=factor * 2e-7, rtol=0, msg=name)
    assert any(step.abs().max() > 1e-5 for name, step in moved[1].items() if ".visual.merger." in name)


def test_both_rates_are_logged_of_the_same_step(make_config):
    given = ("trainer.max_steps=3", "trainer.lr_scheduler_type=linear", "trainer.warmup_steps=0")
    given += ("trainer.learning_rate=3e-4", "trainer.vision_learning_rate=3e-3", "trainer.logging_steps=1")
    trainer = make_trainer(make_config("sft", *given))
    trainer.train()
    logged = [line for line in trainer.state.log_history if "learning_rate" in line]
    # linear from the first of three steps on: all, two thirds, one third
    assert [line["learning_rate"] for line in logged] == pytest.approx([3e-4, 2e-4, 1e-4])
    assert [line["vision_learning_rate"] for line in logged] == pytest.approx([3e-3, 2e-3, 1e-3])


@pytest.mark.both_families
def test_swapping_the_video_changes_the_loss(make_config):
    trainer = make_trainer(make_config("sft"))
    rows = [dict(trainer.train_dataset[i]) for i in (0, 2)]
    own = trainer.compute_loss(trainer.model, trainer.data_collator(rows)).item()
    rows[0]["media"], rows[1]["media"] = rows[1]["media"], rows[0]["media"]
    assert abs(own - trainer.compute_loss(trainer.model, trainer.data_collator(rows)).item()) > 1e-5


def test_a_short_run_lowers_the_loss(make_config):
    config = make_config("sft", "trainer.max_steps=12", "trainer.learning_rate=2e-3", "trainer.save_steps=12")
    trainer = make_trainer(config)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < 0.6 * losses[0]


def test_a_video_that_turns_out_bad_counts_nowhere(make_config):
    trainer = make_trainer(make_config("sft", "video.on_bad=skip"))
    rows = [trainer.train_dataset[i] for i in (0, 2)]
    alone = trainer.compute_loss(trainer.model, trainer.data_collator(rows[1:]))
    trainer.loader.quarantine[rows[0]["video"]] = "an earlier failure"
    batch = trainer.data_collator(rows)
    assert trainer._count_items(batch) == len(batch["samples"][1].completion)
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), alone, atol=1e-6, rtol=0)


@pytest.mark.both_families
def test_questions_packed_behind_one_video_train_like_single_ones(make_config):
    found = []
    for layout in ("on", "off"):
        trainer = make_trainer(make_config("sft", f"trainer.shared_prefix={layout}"))
        rows = [trainer.train_dataset[i] for i in range(4)]  # two questions on each of two videos
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
        loss.backward()
        grads = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
        found.append((loss.detach(), grads))
        counts = trainer.timer.take_counts()
        samples = trainer.data_collator(rows)["samples"]
        plain = sum(len(sample.prompt.token_ids) + len(sample.completion) for sample in samples)
        # Sharing saves, per video: its prefix for one of two questions, and the token that each of them ends with.
        saved = sum(
            common_prefix_length([a.prompt.token_ids, b.prompt.token_ids]) + 2 for a, b in (samples[:2], samples[2:])
        )
        assert counts["tokens/plain"] == plain
        assert counts["tokens/computed"] == (plain - saved if layout == "on" else plain)
        assert (trainer._store.num_calls, counts["videos/computed"]) == (2, 2)
    (packed, packed_grads), (single, single_grads) = found
    torch.testing.assert_close(packed, single, atol=1e-5, rtol=0)
    assert packed_grads.keys() == single_grads.keys() and any("visual" in name for name in packed_grads)
    for name, grad in packed_grads.items():
        torch.testing.assert_close(grad, single_grads[name], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("mode", ["think", "observe"])
def test_tagged_modes_train_on_thought_and_answer(make_config, mode):
    trainer = make_trainer(make_config("sft"))
    row = dict(trainer.train_dataset[0], target=f"<{mode}>I see chair 1.</{mode}><answer>1</answer>")
    [sample] = trainer.data_collator([row])["samples"]
    assert trainer.bundle.tokenizer.decode(sample.completion) == row["target"] + "<|im_end|>"
