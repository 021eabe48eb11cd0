"""Steps whose loss, reward or gradient is no number: left out, counted, written down; at a limit the run ends.

One update with such a gradient ruins every weight. Nothing is decided by one process alone: a loss that is no number
makes a gradient that is none, which data parallelism shares, and all processes agree on leaving the update out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vsgrpo.errors import RunError
from vsgrpo.modeling.bundle import ModelBundle, vision_token_ids
from vsgrpo.training.samples import Sample

SCHEMA_VERSION = 1
HINT = "look at its rewards, lower trainer.learning_rate, and go on from the last checkpoint with --resume"


class BadSteps:
    """Counts the bad steps of one stage, writes them down and leaves them out.

    Args:
        folder: of the run; a bad step leaves bad_batch-STEP-PROCESS.json there.
        bundle: its tokenizer turns prompts and completions back into text.
        process: number of this process.
        limit: trainer.max_bad_steps: this one stops the run.
        say: shows a line to the user.

    Attributes:
        count: bad steps of this stage so far.
    """

    def __init__(self, folder: Path, bundle: ModelBundle, process: int, limit: int, say: Callable[[str], None]) -> None:
        self.count = 0
        self._folder = folder
        self._tokenizer = bundle.tokenizer
        self._process = process
        self._limit = limit
        self._vision_ids = frozenset(vision_token_ids(bundle.model))
        self._say = say
        self._microbatches: list[dict[str, Any]] = []
        self._reason: str | None = None
        self._buffer_reason: str | None = None

    def saw(self, inputs: Any, loss: Tensor) -> bool:
        """Note a microbatch; return whether its loss is no number."""
        if not isinstance(inputs, Mapping) or "samples" not in inputs:
            return False
        value = loss.detach().mean()
        if not any("rewards" in batch for batch in self._microbatches):  # else the whole rollout is noted already
            batch = {"loss": value, "samples": inputs["samples"], "advantages": inputs.get("advantages")}
            self._microbatches.append(batch)
        if math.isfinite(value.item()):
            return False
        self._reason = self._reason or f"loss is {value.item()}"
        return True

    def new_rollout(self) -> None:
        """Forget what was wrong with the rewards of the last rollout."""
        self._buffer_reason = None

    def bad_rewards(self, rewards: Tensor, scored: Sequence[bool], samples: Sequence[Sample]) -> Tensor:
        """Mark all steps of this rollout as bad where a completion has no finite reward, and leave it unscored.

        TRL would make advantages of 0 out of infinite rewards and train on without a word.

        Args:
            rewards: (completions of all processes, functions); NaN where a function gave None.
            scored: of each completion; the others may be NaN.
            samples: of this process.

        Returns:
            rewards with NaN for the bad completions.
        """
        bad = rewards.isinf().any(dim=1) | rewards.isnan().all(dim=1)
        bad &= torch.tensor(scored, device=rewards.device)
        if not bad.any():
            return rewards
        self._buffer_reason = f"rewards {rewards[bad][0].tolist()} of a completion"
        first = self._process * len(samples)
        own = rewards[first : first + len(samples)].tolist()
        self._microbatches = [{"samples": list(samples), "rewards": own, "loss": None, "advantages": None}]
        rewards = rewards.clone()
        rewards[bad] = torch.nan
        return rewards

    def check(self, step: int, grad_norm: Any, model: nn.Module, *, updated: bool = False) -> bool:
        """Look at a step before its update, on all processes alike; a bad one loses its gradients.

        An optimizer passes over parameters without a gradient, so weights, moments and weight decay stay as they were.

        Args:
            step: optimizer steps over all stages before this one.
            grad_norm: of all gradients, before clipping.
            updated: the engine has made the update already (DeepSpeed, inside its backward pass).

        Returns:
            whether the step was bad.

        Raises:
            RunError: it was the last one allowed, or has reached the weights.
        """
        norm = float(grad_norm) if grad_norm is not None else 0.0
        reason = self._buffer_reason or self._reason
        if reason is None and not math.isfinite(norm):
            reason = f"grad_norm is {norm}"
        bad = _on_any_process(reason is not None, model)
        if not bad:
            self._microbatches = []
            return False
        self.count += 1
        reason = reason or "another process has a bad step"
        path = self._dump(step, reason, norm)
        self._reason, self._microbatches = None, []
        if updated or self.count >= self._limit:
            after = " after the engine's update, the weights are ruined" if updated else ""
            raise RunError(f"step {step}: {reason}{after}; the samples of this process are in {path}", hint=HINT)
        self._say(f"step {step}: {reason}: left out ({self.count} of at most {self._limit}), see {path}")
        leave_out(model)
        return True

    def stop_now(self, step: int) -> RunError:
        """Return the error for a loss that an engine would put into the weights inside its backward pass."""
        reason = self._reason or self._buffer_reason or "bad step"
        path = self._dump(step, reason, None)
        return RunError(f"step {step}: {reason}; the samples of this process are in {path}", hint=HINT)

    def _dump(self, step: int, reason: str, norm: float | None) -> Path:
        content = {
            "schema_version": SCHEMA_VERSION,
            "step": step,
            "process": self._process,
            "reason": reason,
            "grad_norm": json_number(norm),
            "samples": [record for item in enumerate(self._microbatches) for record in self._records(*item)],
        }
        path = self._folder / f"bad_batch-{step}-{self._process}.json"
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    def _records(self, number: int, batch: dict[str, Any]) -> list[dict[str, Any]]:
        samples: list[Sample] = batch["samples"]
        advantages = [None] * len(samples) if batch["advantages"] is None else batch["advantages"].tolist()
        rewards = batch.get("rewards") or [[sample.reward] for sample in samples]
        loss = None if batch["loss"] is None else batch["loss"].item()
        return [
            {
                "microbatch": number,
                "id": sample.row_key,
                "index": sample.index,
                "prompt": self._text(sample.prompt.token_ids),
                "completion": self._text(sample.completion),
                "rewards": [json_number(value) for value in own],
                "advantage": json_number(advantage),
                "loss": json_number(loss),
            }
            for sample, own, advantage in zip(samples, rewards, advantages, strict=True)
        ]

    def _text(self, ids: Sequence[int]) -> str:
        """Return token ids as text, the placeholders of a video or image once."""
        kept = [
            token
            for place, token in enumerate(ids)
            if token not in self._vision_ids or place == 0 or ids[place - 1] != token
        ]
        return self._tokenizer.decode(kept)


def leave_out(model: nn.Module) -> None:
    """Drop the gradients of an update: the optimizer then passes over its parameters."""
    for parameter in model.parameters():
        parameter.grad = None


def _on_any_process(flag: bool, model: nn.Module) -> bool:
    if not torch.distributed.is_initialized():
        return flag
    device = next(model.parameters()).device
    agreed = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(agreed, op=torch.distributed.ReduceOp.MAX)
    return bool(agreed.item())


def json_number(value: Any) -> Any:
    """Return a value as JSON can say it: numbers that are none as "NaN", "Infinity", "-Infinity"."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
