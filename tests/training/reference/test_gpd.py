"""GPD against the independent reference: the teacher's prompt is recorded, all numbers are the stock model's."""

from dataclasses import replace

import pytest
import torch
from recording import reference_of
from reference import group_advantages, live
from test_algorithms import SMALL
from test_reference import EXACT, GROUPS, agrees, bury, end_often, layout, record
from tiny_runs import SPREAD, make_trainer, write_boxed_dataset

pytestmark = pytest.mark.integration
CLIP = 0.35
"""Of the distances of random weights some are above, some below."""

FILE = ("experiment=algorithm_gpd", *SMALL, "trainer.hf.steps_per_generation=8")
"""Four updates of a rollout."""


@pytest.mark.parametrize(
    ("tiny_folder", "tree", "options"),
    [
        ("qwen2_vl", True, ("trainer.loss_type=dapo", "trainer.temperature=0.8", "trainer.num_iterations=2")),
        ("qwen2_5_vl", False, (*FILE, "trainer.skip_zero_variance=true", "video.on_bad=skip")),
    ],
    indirect=["tiny_folder"],
)
def test_gpd(make_config, tiny_folder, tmp_path, tree, options):
    folder = write_boxed_dataset(tmp_path / "boxed", boxed=5)  # one scene has no boxes
    given = (SPREAD, *EXACT, *GROUPS, layout(tree), *options, f"data={folder}", f"model.path={tiny_folder}")
    given += ("trainer.gpd_weight=0.5", "trainer.gpd_below=0.55", f"trainer.gpd_clip={CLIP}", "trainer.save_steps=1000")
    given += ("trainer.max_steps=4",)
    trainer = end_often(make_trainer(make_config("grpo", *given)))
    per_buffer = trainer.num_iterations * trainer.args.steps_per_generation // 2
    if trainer.num_iterations == 1:
        bury(trainer, trainer._maker, 1)
    updates, reference = record(trainer), reference_of(trainer, tiny_folder, torch.float64)
    clipped, free, spared = 0, 0, 0
    for start in range(0, 4, per_buffer):
        buffer = updates[start : start + per_buffer]
        temperature = buffer[0].settings.temperature
        rows = {id(row): row for update in buffer for row in live(update.microbatches)}
        reference.load(buffer[0].weights)
        with torch.no_grad():
            old = {key: reference.logps(row, temperature) for key, row in rows.items()}
            pupils = {key: row for key, row in rows.items() if row.teacher}
            assert {row.reward < 0.55 for row in pupils.values()} == {True}
            assert all(row.teacher != row.prompt and len(row.teacher) > len(row.prompt) for row in pupils.values())
            taught = {
                key: reference.logps(replace(row, prompt=row.teacher), temperature) for key, row in pupils.items()
            }
        for key, row in rows.items():
            spared += row.reward < 0.55 and key not in pupils
            if key in pupils:
                apart = float(((taught[key] - old[key]).exp() - (taught[key] - old[key]) - 1).mean())
                clipped, free = clipped + (apart > CLIP), free + (apart <= CLIP)
        advantages = group_advantages([*rows.values()], "group")
        for update in buffer:
            reference.load(update.weights)
            loss = reference.grpo(update.microbatches, update.settings, old, advantages=advantages)
            own = reference.gpd(update.microbatches, taught, 0.5, CLIP, temperature)
            assert agrees(loss + own, reference, update)
    assert clipped and free and (spared or tree)  # spared: of the scene without boxes
