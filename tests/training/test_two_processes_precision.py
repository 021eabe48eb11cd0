"""Full tuning in bfloat16 moves its weights whatever the engine: what is trained and what is summed is float32."""

import json

import pytest
import torch
from tiny_runs import SPREAD
from two_processes import TWO, arguments, finish, log, vsgrpo, weights, zero_file

pytestmark = pytest.mark.distributed

RUN = (SPREAD, "model.dtype=bfloat16", "model.freeze_vision=true", "trainer.learning_rate=1e-6", "trainer.beta=0.01")
RUN += ("trainer.num_generations=4", "trainer.per_device_train_batch_size=4", "trainer.gradient_accumulation_steps=2")
RUN += ("trainer.max_steps=2", "trainer.save_steps=2")


def moved(run_dir, model, profile):
    """Return the share of the language model's weights that are not what training began with."""
    if not profile.startswith("zero"):
        final, start = weights(run_dir), weights(model, ".")
        names = [name for name in final if ".layers." in name and "visual" not in name]
        assert names and all(final[name].dtype == torch.float32 for name in names)
        return mean_of([(final[name] != start[name]) for name in names])
    # The float32 copies began as bfloat16 weights: an entry that bfloat16 cannot hold has moved.
    files = sorted((run_dir / "checkpoint-2").rglob("*optim_states.pt"))
    assert len(files) == 2
    key = "single_partition_of_fp32_groups" if profile == "zero2" else "fp32_flat_groups"
    states = [torch.load(file, weights_only=False)["optimizer_state_dict"][key] for file in files]
    parts = [part.detach() for state in states for part in state]
    assert all(part.dtype == torch.float32 for part in parts)
    # padding and rows of the embedding that no text shows have not moved
    return mean_of([part != part.bfloat16().float() for part in parts])


def mean_of(masks):
    return sum(mask.sum().item() for mask in masks) / sum(mask.numel() for mask in masks)


@pytest.mark.parametrize(
    ("profile", "half", "least"),
    [
        pytest.param("ddp", "false", 0.98, id="ddp"),
        pytest.param("zero2", "true", 0.6, id="zero2"),
        pytest.param("zero2", "false", 0.6, id="zero2-without-autocast", marks=pytest.mark.slow),
        pytest.param("zero3", "true", 0.6, id="zero3"),
        pytest.param("fsdp2", "false", 0.98, id="fsdp2"),
    ],
)
def test_small_updates_count(profile, half, least, dataset_folder, tiny_folder, tmp_path, monkeypatch):
    given = [f"launch={profile}", *RUN, *TWO, f"trainer.bf16={half}"]
    if profile.startswith("zero"):
        given.append(zero_file(tmp_path, profile))
    run_dir, noted = tmp_path / "run", tmp_path / "types.json"
    monkeypatch.setenv("TEST_MARK", str(noted))
    words = arguments("grpo", dataset_folder, tiny_folder, run_dir, *given)
    code, _, err = finish(vsgrpo("grpo", words, mutation="note_types", fsdp_on_cpu=profile == "fsdp2"))
    assert code == 0, err[-3000:]
    share = moved(run_dir, tiny_folder, profile)
    print(f"{profile} bf16={half}: {share:.1%} moved")
    assert share >= least
    found = json.loads(noted.read_text())
    assert found["gradients"] == ["torch.float32"]
    assert found["moments"] in ([], ["torch.float32"])  # DeepSpeed's are in its checkpoint
    assert profile.startswith("zero") or found["held"] == ["torch.float32"]
    # The reference is computed as the policy is: nothing lies between them before the first update.
    assert log(run_dir)[0]["kl"] == 0.0
