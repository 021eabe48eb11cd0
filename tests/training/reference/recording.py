"""Records the updates of a trainer that runs its own `train()`: what the reference needs, and what must agree."""

from dataclasses import dataclass, field

import torch
from reference import Grpo, Medium, Reference, Row
from transformers import TrainerCallback


@dataclass
class Update:
    """One optimizer step."""

    weights: dict
    microbatches: list = field(default_factory=list)
    gradients: dict = field(default_factory=dict)
    loss: float = float("nan")
    settings: Grpo | None = None


class Recording(TrainerCallback):
    """Args: the trainer; `plan(trainer, step)` is called before each step, to change settings between steps."""

    def __init__(self, trainer, plan=None):
        self.updates: list[Update] = []
        self._trainer, self._plan = trainer, plan
        self._rows: dict[int, Row] = {}
        self._media: dict[str, Medium] = {}
        self._kept = []
        compute = trainer.compute_loss

        def recorded(model, inputs, *args, **kwargs):
            self.updates[-1].microbatches.append([self._row(sample) for sample in inputs["samples"]])
            return compute(model, inputs, *args, **kwargs)

        trainer.compute_loss = recorded
        trainer.add_callback(self)

    def on_step_begin(self, args, state, control, **kwargs):
        if self._plan is not None:
            self._plan(self._trainer, state.global_step)
        weights = {name: tensor.detach().clone() for name, tensor in self._trainer.model.state_dict().items()}
        self.updates.append(Update(weights, settings=settings_of(self._trainer)))

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        named = self._trainer.model.named_parameters()
        self.updates[-1].gradients = {name: p.grad.detach().clone() for name, p in named if p.grad is not None}

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.updates[-1].loss = logs["loss"]

    def _row(self, sample):
        if id(sample) not in self._rows:
            self._kept.append(sample)  # its id stays its own
            media = sample.media
            self._rows[id(sample)] = Row(
                sample.row_key,
                tuple(sample.prompt.token_ids),
                tuple(sample.completion),
                None if media is None else tuple(self._medium(item) for item in media),
                sample.reward,
                self._rewards(sample.completion),
                () if sample.teacher is None else tuple(sample.teacher.token_ids),
            )
        return self._rows[id(sample)]

    def _rewards(self, completion):
        """Return what each reward gives where there are several; their functions read token ids alone."""
        functions = getattr(self._trainer, "reward_funcs", [])
        if len(functions) < 2:
            return ()
        given = {"completions": [""], "completion_ids": [list(completion)]}
        found = [function(**given)[0] for function in functions]
        return tuple(float("nan") if value is None else float(value) for value in found)  # None: T-GRPO's bonus

    def _medium(self, item):
        if item.key not in self._media:
            self._media[item.key] = Medium(item.frames.clone(), item.medium.seconds_per_patch, item.medium.kind)
        return self._media[item.key]


def settings_of(trainer):
    """Return the settings of a GRPO trainer's loss, None for other trainers."""
    if not hasattr(trainer, "num_generations"):
        return None
    names = ("sapo_temperature_pos", "sapo_temperature_neg", "delta", "use_bias_correction_kl")
    names += ("off_policy_mask_threshold", "multi_objective_aggregation")
    names += ("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg")
    return Grpo(
        loss_type=trainer.loss_type,
        importance_sampling_level=trainer.importance_sampling_level,
        epsilon=trainer.epsilon_low,
        epsilon_high=trainer.epsilon_high,
        beta=trainer.beta,
        temperature=trainer.temperature,
        scale_rewards=trainer.scale_rewards,
        max_completion_length=trainer.max_completion_length,
        mask_truncated_completions=trainer.mask_truncated_completions,
        eos_ids=tuple(trainer.eos_token_ids),
        **{name: getattr(trainer.args, name) for name in names},
    )


def reference_of(trainer, folder, dtype=torch.float32):
    """Return a stock model of the trainer's shape; its LoRA settings are plain values of the config."""
    lora = trainer.model.peft_config["default"]
    targets = lora.target_modules if isinstance(lora.target_modules, str) else sorted(lora.target_modules)
    settings = {"r": lora.r, "lora_alpha": lora.lora_alpha, "target_modules": targets}
    return Reference(folder, settings, trainer.bundle.text_after_video, dtype)


def start_adapter(trainer, size=0.05):
    """Give lora_B values, so that policy and reference differ and lora_A has gradients in the first step."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)


def disagreement(loss, gradients, update):
    """Return how far a trainer is from the reference: of the loss, of the gradient, of the gradient's worst tensor.

    The loss is measured against its size, at least 1; where log-probs are a factor of it (cispo, vespo) against the
    size of those, where a completion's length is (luspo) against the longest. A tensor is measured against its own
    norm, or a hundredth of the whole gradient's where that is more: float32 leaves no more of it.
    """
    assert gradients.keys() == update.gradients.keys()
    kind = update.settings.loss_type if update.settings else ""
    longest = max(len(row.completion) for rows in update.microbatches for row in rows)
    size = {"cispo": 7.0, "vespo": 7.0, "luspo": float(longest)}.get(kind, 1.0)
    whole = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()
    apart = {name: (gradient - update.gradients[name]).norm() for name, gradient in gradients.items()}
    worst = max(apart[name] / max(gradient.norm(), whole / 100) for name, gradient in gradients.items())
    total = torch.stack([*apart.values()]).norm() / whole
    return abs(loss.item() - update.loss) / max(abs(loss.item()), size), total.item(), worst.item()
