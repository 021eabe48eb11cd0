"""T-GRPO: which completions earn the bonus, what the shuffled arm shows, what it adds to a step and what it leaves."""

import json
from itertools import chain

import pytest
import torch
from tiny_runs import SPREAD, make_trainer

from vsgrpo.training.samples import compute_features
from vsgrpo.training.temporal import in_order, patch_order, shuffled_sample, temporal_bonus

NAN = float("nan")


def test_who_earns_the_bonus():
    # Means (1 + .2 + .05 + 0) / 4 = .3125 against .8 x .4 = .32 (no), and .8 x .39 = .312 (yes: those above .1).
    own = [1, 0.2, 0.05, 0]
    assert temporal_bonus(own, [[0.4, 0.4]], 4, 0.8) == [0, 0, 0, 0]
    assert temporal_bonus(own, [[0.39, 0.39]], 4, 0.8) == [1, 1, 0, 0]
    # A dead row (NaN) counts nowhere; an image has no shuffled arm; a group whose rows are all dead earns none.
    assert temporal_bonus([1, NAN, 1, 1, NAN, NAN], [[1], [], [1]], 2, 0.8) == [1, 0, 0, 0, 0, 0]


def test_an_order_is_keyed_and_never_the_videos_own():
    orders = {tuple(patch_order("v", 3, 42, step)) for step in range(60)}
    assert len(orders) == 5 and (0, 1, 2) not in orders  # 3! - 1
    assert patch_order("v", 8, 42, 3) == patch_order("v", 8, 42, 3) != patch_order("w", 8, 42, 3)
    rows = torch.arange(6).view(6, 1)  # three patches of two
    assert in_order(rows, [2, 0, 1])[:, 0].tolist() == [4, 5, 0, 1, 2, 3]


@pytest.mark.integration
@pytest.mark.both_families
def test_shuffled_features_are_those_of_shuffled_frames(make_config, tiny_folder):
    trainer = make_trainer(make_config("grpo", SPREAD, "video.num_frames=8", "model.freeze_vision=true"))
    (sample,) = trainer._maker.make([trainer.train_dataset[0]], [0])
    sample.features = tuple(compute_features([sample], trainer._store, trainer.timer).values())
    other = shuffled_sample(sample, 4, 42, 0)
    assert other.prompt.token_ids == sample.prompt.token_ids and other.prompt.videos != sample.prompt.videos
    (seen,) = trainer._store.features(list(other.media)).values()  # the tower on frames in that order
    assert torch.allclose(seen.tensor, other.features[0].tensor, atol=1e-6)
    assert not torch.allclose(seen.tensor, sample.features[0].tensor, atol=1e-3)


def watched(trainer):
    """Return lists that fill with the samples of each draw."""
    draws, draw = [], trainer.draw

    def drawing(samples):
        draw(samples)
        draws.append(list(samples))

    trainer.draw = drawing
    return draws


@pytest.mark.integration
def test_the_bonus_of_a_step_is_that_of_its_completions(make_config):
    words = ("reward.names=[spread_reward:fifths]", "trainer.group_filter={min: 0.01, max: 0.99}")
    words += ("trainer.temporal_generations=2", "trainer.temporal_bonus=0.5", "model.freeze_vision=true")
    trainer = make_trainer(make_config("grpo", *words))
    draws = watched(trainer)
    trainer.train()
    arms = [samples for samples in draws if samples[0].index >= 4]
    assert [len(arm) for arm in arms] == [4, 4]  # two questions a step, in the groups that the filter left
    assert trainer.loader.num_decoded == len(
        {item.key for s in chain(*draws) for item in s.media if "order" not in item.key}
    )
    path = trainer.stage.folder.path
    lines = [json.loads(line) for line in (path / "completions.jsonl").open()]
    logs = [line for line in map(json.loads, (path / "log.jsonl").open()) if "reward" in line]
    for arm, step, log in zip(arms, (0, 1), logs, strict=True):
        own = [line for line in lines if line["step"] == step]
        earned = []
        for number, group in enumerate((own[:4], own[4:])):
            assert {sample.row_key for sample in arm[2 * number : 2 * number + 2]} == {line["id"] for line in group}
            right = [line["reward"] > 0 for line in group]
            others = [sample.completion[0] % 5 == 0 for sample in arm[2 * number : 2 * number + 2]]
            bonus = sum(right) / 4 >= 0.8 * sum(others) / 2
            earned += [good and bonus for good in right]
            assert [line["reward"] for line in group] == [good * (1 + 0.5 * bonus) for good in right]
        assert log["rewards/temporal/mean"] == sum(earned) / 8
        assert log["temporal/shuffled"] == sum(sample.completion[0] % 5 == 0 for sample in arm) / 4


@pytest.mark.integration
def test_a_step_without_it_draws_once(make_config):
    trainer = make_trainer(make_config("grpo", SPREAD))
    draws = watched(trainer)
    trainer.train()
    assert [len(samples) for samples in draws] == [8, 8]
    assert trainer.reward_func_names == ["spread"]


def test_weights_follow_their_schedule():
    from vsgrpo.config.compose import load_config

    given = ["trainer=grpo", "data=d", "output=o", "prompt=think", "reward.weights=[1,2]"]
    points = "[[10, 1.0], [20, 0.0], [30, 0.5]]"
    reward = load_config(
        "train", [*given, f"reward.schedule={{format: {points}}}", "reward.names=[accuracy,format]"]
    ).reward
    found = [reward.scheduled(["accuracy", "format"], [1.0, 2.0], step)[1] for step in (0, 10, 15, 20, 25, 40)]
    assert found == [2, 2, 1, 0, 0.5, 1]  # 2 x (1, 1, .5, 0, .25, .5)


@pytest.mark.integration
def test_the_weights_of_a_step_make_its_rewards(make_config):
    names = "reward.names=[spread_reward:fifths,spread_reward:thirds]"
    schedule = r"reward.schedule={spread_reward\:thirds: [[0, 1.0], [2, 0.0]]}"
    trainer = make_trainer(make_config("grpo", names, schedule))
    drawn = watched(trainer)
    trainer.train()
    lines = [json.loads(line) for line in (trainer.stage.folder.path / "completions.jsonl").open()]
    for samples, step, weight in zip(drawn, (0, 1), (1.0, 0.5), strict=True):
        expected = [(s.completion[0] % 5 == 0) + weight * (s.completion[0] % 3 == 0) for s in samples]
        assert [line["reward"] for line in lines if line["step"] == step] == expected
    logs = [line for line in map(json.loads, (trainer.stage.folder.path / "log.jsonl").open()) if "reward" in line]
    assert [line["reward_weight/spread_reward:thirds"] for line in logs] == [1.0, 0.5]
