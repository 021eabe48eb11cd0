"""Each experiment algorithm_* against the independent reference, with the settings of its file on the tiny model."""

import pytest
import torch
from recording import reference_of
from reference import group_advantages, live
from test_reference import EXACT, agrees, end_often, layout, record
from tiny_runs import SPREAD, make_trainer

from vsgrpo.config.yaml_files import config_groups

pytestmark = pytest.mark.integration

NAMES = [name for name in config_groups()["experiment"] if name.startswith("algorithm_") and name != "algorithm_gpd"]
"""GPD needs rows with boxes: test_gpd.py."""
SMALL = (
    *(
        "model=tiny",
        "launch=cpu",
        "launch.num_processes=1",
        "trainer.bf16=false",
        "trainer.gradient_checkpointing=false",
        "video.num_frames=8",
    ),
    *("trainer.num_generations=4", "trainer.per_device_train_batch_size=4", "trainer.gradient_accumulation_steps=2"),
    *(
        "trainer.max_completion_length=16",
        "trainer.learning_rate=2e-3",
        "trainer.max_steps=4",
        "trainer.save_steps=1000",
        "model.lora.r=8",
    ),
)
"""Of the file stays what makes the algorithm: losses, clips, scales, masks."""
TWO_REWARDS = "reward.names=[spread_reward:spread,spread_reward:thirds]"


def run_of(make_config, tiny_folder, name, *options):
    given = (f"experiment={name}", f"model.path={tiny_folder}", *EXACT, *SMALL, *options)
    config = make_config("grpo", *given, TWO_REWARDS if name == "algorithm_gdpo" else SPREAD)
    updates_per_rollout = 1
    if "steps_per_generation" in config.trainer.hf:
        updates_per_rollout = 4
        config = make_config("grpo", *given, SPREAD, "trainer.hf.steps_per_generation=8")
    trainer = end_often(make_trainer(config))
    updates, reference = record(trainer), reference_of(trainer, tiny_folder, torch.float64)
    return updates, reference, updates_per_rollout


def type_advantages(rows):
    """EMA-GRPO in its first rollout (arXiv 2512.03043): the spread of a type is that of its rewards of this rollout."""
    found = {}
    for kind in ("count", "area"):
        own = [row for row in rows if row.group.split("/")[1].startswith(kind)]
        spread = torch.tensor([row.reward for row in own]).double().std(correction=0)
        centred = group_advantages(own, "none")
        assert max(map(abs, centred.values())) < 5 * spread
        found |= {key: float(value / spread) for key, value in centred.items()}
    return found


def check(updates, reference, updates_per_rollout, scale=None):
    """Compare every update; return the reference's log-ratios of completions with a negative advantage."""
    assert len(updates) == 4
    drifts = []
    for start in range(0, 4, updates_per_rollout):
        buffer = updates[start : start + updates_per_rollout]
        rows = [row for update in buffer for row in live(update.microbatches)]
        reference.load(buffer[0].weights)
        with torch.no_grad():
            old = {id(row): reference.logps(row, buffer[0].settings.temperature) for row in rows}
        advantages = group_advantages(rows, "group")
        for update in buffer:
            reference.load(update.weights)
            loss = reference.grpo(
                update.microbatches, update.settings, old, rows, updates_per_rollout, scale and scale(rows)
            )
            assert agrees(loss, reference, update)
            for row in live(update.microbatches):
                if advantages[id(row)] < 0:
                    with torch.no_grad():
                        drifts.append(float((old[id(row)] - reference.logps(row)).mean()))
    return drifts


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("tiny_folder", "tree"), [("qwen2_vl", True), ("qwen2_5_vl", False)], indirect=["tiny_folder"])
def test_the_settings_of_its_file(make_config, tiny_folder, name, tree):
    updates, reference, updates_per_rollout = run_of(make_config, tiny_folder, name, layout(tree))
    check(updates, reference, updates_per_rollout, type_advantages if name == "algorithm_ema" else None)


def test_completions_that_drifted_count_nowhere(make_config, tiny_folder):
    # The file's 0.5 nats a token are more than four updates drift here.
    bound = "trainer.off_policy_mask_threshold=0.001"
    drifts = check(*run_of(make_config, tiny_folder, "algorithm_off_policy_mask", bound))
    assert 0 < sum(drift > 0.001 for drift in drifts) < len(drifts)


def test_the_names_say_what_is_compared():
    expected = {"grpo", "gspo", "dapo", "dr_grpo", "cispo", "sapo", "bnpo", "luspo", "gdpo"}
    expected |= {"ema", "two_sided", "off_policy_mask", "scale_batch", "t_grpo"}
    assert {name.removeprefix("algorithm_") for name in NAMES} == expected
