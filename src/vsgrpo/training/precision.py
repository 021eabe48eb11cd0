"""What is summed up in float32 while a model computes in bfloat16: weights that are trained, gradients, moments.

Weights: `modeling.model.load_model` holds those that are trained in float32, PEFT its adapters; ZeRO keeps a float32
copy of its part. AdamW's moments are of the type of what it updates. Gradients: here, for engines that would add up
microbatches and processes in bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vsgrpo.errors import SetupError


def sum_gradients_in_float32(trainer: Any) -> None:
    """Set what accelerate's plugins leave to bfloat16; a trainer's engine reads it when training begins.

    A DeepSpeed file of the user's that sets `data_types.grad_accum_dtype` is left as it is.
    """
    state = trainer.accelerator.state
    if trainer.is_deepspeed_enabled:
        settings = state.deepspeed_plugin.deepspeed_config
        settings.setdefault("data_types", {}).setdefault("grad_accum_dtype", "fp32")
    if trainer.is_fsdp_enabled and state.mixed_precision == "bf16":
        from torch.distributed.fsdp import MixedPrecisionPolicy

        state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.bfloat16
        )


def low_precision(model: nn.Module) -> str | None:
    """Return the name of a parameter that is trained and is not float32, None where there is none."""
    trained = ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    return next((name for name, parameter in trained if parameter.dtype != torch.float32), None)


class CheckPrecision(TrainerCallback):
    """Refuses to train weights whose updates would be rounded away.

    Args:
        profile: of the launch; ZeRO's weights are copies of what it trains.
    """

    def __init__(self, profile: str) -> None:
        self._zero = profile.startswith("zero")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Look at the weights as the engine and a resumed checkpoint left them.

        Raises:
            SetupError: a parameter that is trained is of another type than float32.
        """
        found = None if self._zero else low_precision(model)
        if found is not None:
            raise SetupError(
                f"{found}: trained in another type than float32, where an update of trainer.learning_rate is lost",
                hint="this is a bug of vsgrpo or of a plugin that casts the model, please report it",
            )
