"""TRL 1.16's private methods that we override: their names and parameters must be those we were written against."""

import inspect

import pytest
from transformers import Trainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.sft_trainer import SFTTrainer

from vsgrpo.training.base import StageTrainer
from vsgrpo.training.grpo import SpatialGRPOTrainer
from vsgrpo.training.sft_dpo import SpatialDPOTrainer, SpatialSFTTrainer

OWN = {"__init__", "run_step", "current_epoch", "_sampling", "_trees", "_collate", "_row_order"}
OWN |= {"_write_completions", "_answer_logps", "_reference_logps", "_share_of_update", "_note_answers", "_note_pairs"}
OWN |= {
    "_look_at",
    "_take_bad_loss",
    "_bound_kl",
    "_policy_logps",
    "_count_items",
    "_live_scale",
    "_idle_tower",
    "_send_table",
}
OWN |= {"_make_samples", "_add"}
OWN |= {"draw", "row_keys", "score", "follow_schedule"}
OPEN = {"training_step", "create_model_card", "_maybe_log_save_evaluate"}
"""Overridden with *args, **kwargs: whatever comes goes on to the stock method."""


def overridden(ours, stock):
    bases = [base for base in reversed(ours.__mro__) if issubclass(base, StageTrainer)]
    methods = {name: value for base in bases for name, value in vars(base).items()}
    return [
        pytest.param(ours, stock, name, id=f"{stock.__name__}.{name}")
        for name, value in methods.items()
        if callable(value) and name not in OWN and not name.startswith("__")
    ]


@pytest.mark.parametrize(
    ("ours", "stock", "name"),
    [
        *overridden(SpatialGRPOTrainer, GRPOTrainer),
        *overridden(SpatialSFTTrainer, SFTTrainer),
        *overridden(SpatialDPOTrainer, DPOTrainer),
    ],
)
def test_an_override_has_the_parameters_of_the_stock_method(ours, stock, name):
    assert hasattr(stock, name), f"{stock.__name__} of the installed TRL has no {name}"
    if name in OPEN:
        return
    expected = list(inspect.signature(getattr(stock, name)).parameters)
    assert list(inspect.signature(getattr(ours, name)).parameters) == expected


def test_attributes_of_trl_that_the_overrides_read_are_still_set():
    source = inspect.getsource(GRPOTrainer)
    for name in ("_step", "_buffered_inputs", "_metrics", "eos_token_ids", "reward_weights", "_dist"):
        assert f"self.{name} = " in source or f"self.{name}: " in source, name
    for name in ("beta", "loss_types", "ref_model"):
        assert f"self.{name} = " in inspect.getsource(DPOTrainer), name
    assert "self._get_output_dir(" in inspect.getsource(Trainer._save_checkpoint)
