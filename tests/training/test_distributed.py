"""What engines do to weights, and what differs between processes, stops the run."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vsgrpo.errors import RunError, SetupError
from vsgrpo.training import distributed
from vsgrpo.training.distributed import CheckEngine, EqualCalls, shard_kind
from vsgrpo.training.measure import PhaseTimer
from vsgrpo.training.waits import named_wait

STATE = SimpleNamespace(global_step=3, is_world_process_zero=True)


def test_weights_must_lie_as_the_profile_says():
    model = nn.Linear(2, 2)
    assert shard_kind(list(model.parameters())) == "whole"
    for launch in ("zero3", "fsdp2"):
        with pytest.raises(SetupError, match=f"launch={launch}: the weights are whole, not {launch}"):
            CheckEngine(None, launch, 60.0).on_step_begin(None, STATE, None, model=model)
    model.weight.ds_id = 0
    with pytest.raises(SetupError, match="launch=ddp: the weights are zero3, not whole"):
        CheckEngine(None, "ddp", 60.0).on_step_begin(None, STATE, None, model=model)


def test_another_number_of_calls_on_a_process_stops_the_run(monkeypatch):
    model = nn.Linear(2, 2)
    model.weight.ds_id = 0  # sharded by ZeRO-3
    model.model = nn.Module()
    model.model.language_model = nn.Identity()
    model.model.visual = nn.Identity()  # no trained weight: its calls may differ
    timer, other = PhaseTimer(), [2]
    monkeypatch.setattr(distributed, "gather_numbers", lambda own: [own, *other])
    calls = EqualCalls(timer)
    for _ in range(2):  # the count begins anew in each step, with one hook
        calls.on_step_begin(None, STATE, None, model=model)
        model.model.language_model(torch.zeros(1))
        model.model.language_model(torch.zeros(1))
        model.model.visual(torch.zeros(1))
        with timer.phase("generate"), timer.phase("prefill"):  # rollouts may differ
            model.model.language_model(torch.zeros(1))
        calls.on_step_end(None, STATE, None)
    other[0] = 3
    with pytest.raises(RunError, match="step 3: the processes called the model 2, 3 times"):
        calls.on_step_end(None, STATE, None)
    calls.on_train_end(None, STATE, None)
    assert not model.model.language_model._forward_pre_hooks


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[unbound_buffer.cc:81] Timed out waiting 1800000ms for recv", "waited launch.timeout_s=60 s for another"),
        ("[pair.cc:547] Connection closed by peer [127.0.0.1]:4", "lost another process"),
        ("The size of tensor a (0) must match", None),
    ],
)
def test_a_collective_call_that_fails_names_process_and_phase(text, told, monkeypatch):
    timer = PhaseTimer()
    with pytest.raises(RuntimeError), timer.phase("reward"), timer.phase("generate"):
        raise RuntimeError(text)
    monkeypatch.setenv("RANK", "2")
    error = named_wait(RuntimeError(text), timer, 9, 60.0)
    assert named_wait(TimeoutError(text), timer, 9, 60.0) is None  # not torch's
    if told is None:
        assert error is None
    else:
        assert f"process 2 in phase generate of step 9 {told}" in error.message
