"""Which groups are drawn anew, with what, and that a run with them goes on as it would have."""

import json

import pytest
from test_going_on import BUFFERED, difference, train
from tiny_runs import make_trainer

from vsgrpo.training.group_filter import other_rows, poor_groups

FILTER = ("reward.names=[spread_reward:fifths]", "trainer.group_filter={min: 0.01, max: 0.99}")
"""Rewards of 0 and 1, which four completions often share."""


def test_groups_of_equal_rewards_or_a_mean_outside_are_poor():
    rewards = [1, 1, 0, 1, 0, 0, 0.5, 0.5]  # four groups of two, means 1, .5, 0, .5
    assert poor_groups(rewards, [True] * 8, 2, 0.01, 0.99) == [0, 2, 3]
    assert poor_groups(rewards, [True] * 8, 2, 0.6, 0.99) == [0, 1, 2, 3]
    # a dead row earns nothing: (1) alone, and (0, 0) without its dead third
    assert poor_groups([1, 0, 0, 1, 0, 0], [True, False, False, False, True, True], 3, -1, 2) == [0, 1]
    assert poor_groups([1, 0, 9, 1, 0, 1], [True, True, False, True, True, True], 3, 0.01, 0.99) == []


def test_other_rows_are_keyed_and_not_in_the_buffer():
    keys = [f"demo/{i}" for i in range(20)]
    found = list(other_rows(keys, {"demo/3", "demo/7"}, 42, 5))
    assert sorted(found) == [i for i in range(20) if i not in (3, 7)]
    assert found == list(other_rows(keys, {"demo/3", "demo/7"}, 42, 5))
    assert found != list(other_rows(keys, {"demo/3", "demo/7"}, 42, 6))


@pytest.mark.integration
def test_poor_groups_get_other_questions(make_config):
    trainer = make_trainer(make_config("grpo", *FILTER, "trainer.group_filter_rounds=3", "trainer.max_steps=1"))
    drawn, scored = [], []
    draw, score = trainer.draw, trainer.score

    def drawing(samples):
        drawn.append([sample.row_key for sample in samples])
        draw(samples)

    def scoring(rows, samples):
        assert [row["row_key"] for row in rows] == [sample.row_key for sample in samples]
        found = score(rows, samples)
        scored.append(found[:, 0].tolist())
        return found

    trainer.draw, trainer.score = drawing, scoring
    trainer.train()
    assert len(drawn[0]) == 8 and len(drawn) > 1
    kept, seen = {}, set()
    places = list(range(8))
    for keys, rewards in zip(drawn, scored, strict=True):
        assert seen.isdisjoint(keys)  # no question twice
        seen |= set(keys)
        kept |= dict(zip(places, zip(keys, rewards, strict=True), strict=True))
        rich = {g for g in (0, 1) if len({kept[i][1] for i in range(4 * g, 4 * g + 4)}) > 1}
        places = [i for i in range(8) if i // 4 not in rich]
    lines = [json.loads(line) for line in (trainer.stage.folder.path / "completions.jsonl").open()]
    assert [(line["id"], line["reward"]) for line in lines] == [kept[i] for i in range(8)]
    groups = [[line["advantage"] for line in lines[i : i + 4]] for i in (0, 4)]
    (log,) = [json.loads(line) for line in (trainer.stage.folder.path / "log.jsonl").open() if "reward" in line]
    assert log["group_filter/redrawn"] == sum(map(len, drawn[1:])) / 8
    assert log["group_filter/left"] == sum(not any(group) for group in groups) / 2


@pytest.mark.integration
def test_a_run_with_a_filter_a_shuffled_arm_and_a_schedule_goes_on(make_config):
    schedule = r"reward.schedule={spread_reward\:fifths: [[0, 1.0], [6, 0.5]]}"
    given = (*BUFFERED, *FILTER, "trainer.temporal_generations=2", schedule)
    whole = train(make_config("grpo", *given, "trainer.max_steps=6", name="whole"))
    run = train(make_config("grpo", *given, "trainer.max_steps=4"))
    train(make_config("grpo", *given, "trainer.max_steps=6"), resume=True)
    assert difference(run, whole) == 0
    lines = [json.loads(line) for line in (run / "log.jsonl").open()]
    assert any(line.get("group_filter/redrawn") for line in lines if line["step"] > 4)
    drawn = [[json.loads(line) for line in (each / "completions.jsonl").open()] for each in (run, whole)]
    assert drawn[0] == drawn[1]
    assert any(line.get("rewards/temporal/mean") for line in lines)
