"""Dead rows, far references and bad steps (loss or gradient is no number), left out of the loss that TRL computes.

A row is dead where its video turned out bad (video.on_bad=skip). A dead row leaves the numerator and the denominator of
GRPO's loss, so an update has the loss and the gradient that it would have without the row:

- grpo, sapo, dr_grpo, luspo: mean over the live rows of the update, in all microbatches of all processes.
- dapo, cispo, vespo: sum over the tokens of live rows / number of those tokens in the rollout buffer (all processes),
  rescaled to one update as TRL does.
- bnpo: mean over the microbatches (of all processes) that have a live row, each the mean over its own tokens.

A group that is dead on some processes only takes mean and deviation of its rewards over its live rows; one live row
alone has advantage 0. An update that spans several rollout buffers weighs each buffer by its microbatches, because the
live rows of a later buffer are not known yet. An update without any live row changes nothing.

One gradient that is no number ruins every weight. No process decides alone: such a loss makes such a gradient, which
data parallelism shares, and all processes agree on leaving the update out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, groupby
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn

from vsgrpo.errors import RunError
from vsgrpo.modeling.bundle import ModelBundle, vision_token_ids
from vsgrpo.training.distributed import largest
from vsgrpo.training.progress import json_number
from vsgrpo.training.samples import Sample

TOKEN_MEANS = ("dapo", "cispo", "vespo")
"""Loss types that TRL divides by `num_items_in_batch`."""
MAX_LOG_RATIO = 20.0
"""Largest log-ratio of reference to policy per token. exp(20) keeps the k3 estimate finite in float32."""
MAX_QUESTIONS = 32
"""Gradients kept per log; each is as large as the trained weights."""
BAD_BATCH_SCHEMA_VERSION = 1
HINT = "look at its rewards, lower trainer.learning_rate, and go on from the last checkpoint with --resume"


@dataclass(frozen=True)
class LiveCounts:
    """Live rows of one rollout buffer, over all processes.

    Attributes:
        rows: live rows of each microbatch.
        processes: processes with a live row in each microbatch.
        tokens: completion tokens of live rows that no mask leaves out, in the whole buffer.
        rows_per_microbatch: live and dead.
        num_processes: of the run.
    """

    rows: tuple[int, ...]
    processes: tuple[int, ...]
    tokens: int
    rows_per_microbatch: int
    num_processes: int

    def scale(self, loss_type: str, microbatches: Sequence[int]) -> float:
        """Return the factor that takes dead rows out of the denominator of TRL's loss, 1 where there are none.

        TRL divides by all rows (or microbatches) of the update, whose dead rows add 0 to the numerator.

        Args:
            loss_type: of GRPO.
            microbatches: numbers within the buffer of those that belong to the update.
        """
        if loss_type in TOKEN_MEANS:
            return 1.0
        if loss_type == "bnpo":
            parts, live = self.num_processes, sum(self.processes[i] for i in microbatches)
        else:
            parts, live = self.rows_per_microbatch, sum(self.rows[i] for i in microbatches)
        return parts * len(microbatches) / live if live else 1.0


def count_live(accelerator: Any, samples: Sequence[Sample], mask: Tensor, num_microbatches: int) -> LiveCounts:
    """Count the live rows of a buffer; every process calls it.

    Args:
        samples: of this process, in order.
        mask: (samples, tokens) tokens that the loss reads, 0 for dead rows.
        num_microbatches: equal parts that the buffer is cut into.
    """
    live = torch.tensor([sample.media is not None for sample in samples], device=mask.device)
    rows = live.view(num_microbatches, -1).sum(1)
    own = torch.cat([rows, (rows > 0).long(), mask.sum().long()[None]])
    total = accelerator.reduce(own, reduction="sum").tolist()
    of_rows, of_processes = tuple(total[:num_microbatches]), tuple(total[num_microbatches:-1])
    per_microbatch = len(samples) // num_microbatches * accelerator.num_processes
    return LiveCounts(of_rows, of_processes, total[-1], per_microbatch, accelerator.num_processes)


def microbatches_of_update(step: int, start: int, length: int, per_buffer: int) -> range:
    """Return the numbers, within the buffer that serves microbatch `step`, of the microbatches of its update.

    Args:
        step: microbatches trained before this one.
        start: microbatches trained before the update.
        length: microbatches of the update.
        per_buffer: microbatches of a buffer.
    """
    buffer = step // per_buffer * per_buffer
    return range(max(start - buffer, 0), min(start + length - buffer, per_buffer))


def bound_reference(reference: Tensor, scores: Tensor, *, corrected: bool) -> tuple[Tensor, int]:
    """Bound the reference's log-probs, so that TRL's KL term and its gradient stay finite.

    Where the reference is more than MAX_LOG_RATIO above the policy, k3 = exp(r) - r - 1 of the log-ratio r is taken at
    r = MAX_LOG_RATIO and its gradient is 0. Such a token is drawn once in 5e8 tokens; with the gradient of -exp(r) it
    would own the whole clipped update. `corrected` (use_bias_correction_kl) multiplies the term by the importance
    ratio, whose gradient has k3 as a factor: there the token leaves the KL term, value and gradient 0.

    Deviation: k3 (Schulman, "Approximating KL divergence") has no bound.

    Args:
        reference: (rows, tokens) log-probs.
        scores: (rows, tokens) log-probs of the policy, with gradient.

    Returns:
        log-probs to take for the reference's, and how many were bounded.
    """
    above = reference > scores.detach() + MAX_LOG_RATIO
    # Not detached: the difference to the policy is then a constant, and no gradient goes through it.
    bounded = scores.detach() if corrected else scores + MAX_LOG_RATIO
    return torch.where(above, bounded, reference), int(above.sum())


def is_without_advantage(accelerator: Any, advantages: Tensor) -> bool:
    """Tell whether no process has an advantage in its microbatch; all get the same answer."""
    return not bool(cast(Tensor, accelerator.reduce(advantages.abs().sum(), reduction="sum")).any())


def needs_forward(accelerator: Any) -> bool:
    """Tell whether the running microbatch must call the model though its loss is 0.

    The hooks that synchronise gradients are set up by a forward; with sharded weights every call is collective.
    """
    simple = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
    is_synchronised = accelerator.num_processes > 1 and accelerator.sync_gradients
    return is_synchronised or accelerator.distributed_type not in simple


def zero_loss(model: nn.Module) -> Tensor:
    """Return a loss of 0 whose gradient is zero for every trained parameter, as a zero-weighted forward would give."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.stack([parameter.flatten()[0].float() * 0.0 for parameter in trained]).sum()


class GradientCorrelation:
    """Measures how alike the gradients of questions are: same video against other videos.

    (`trainer.log_gradient_correlation`.) The variance of a mean of Q gradients grows by 1 + (Q - 1) rho, rho their
    correlation. Sharing a video among Q questions pays while its gain in speed is above that; with these cosines a lab
    can decide on questions_per_video from its own data.

    Args:
        model: whose trained parameters count.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._found: list[tuple[str, Tensor]] = []

    def add(self, samples: Sequence[Sample], advantages: Tensor, score: Callable[[list[Sample]], list[Tensor]]) -> None:
        """Take the policy gradient of each question that has advantages; those of the optimizer stay as they are.

        Args:
            samples, advantages: of a microbatch, one per completion.
            score: returns the log-probs (tokens,) of each sample, with gradient.
        """
        for _, group in groupby(range(len(samples)), key=lambda place: samples[place].row_key):
            rows = list(group)
            own, weights = [samples[row] for row in rows], advantages[rows]
            if not own[0].media or not bool(weights.any()) or len(self._found) >= MAX_QUESTIONS:
                continue
            with torch.enable_grad():
                means = torch.stack([scores.mean() for scores in score(own)])
                loss = -(weights.to(means.device) * means).sum()
                gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
            vector = torch.cat([gradient.flatten().float().cpu() for gradient in gradients if gradient is not None])
            norm = vector.norm()
            if norm > 0:
                self._found.append(("\n".join(own[0].prompt.videos), vector / norm))

    def take(self) -> dict[str, list[float]]:
        """Return the cosines of pairs on this process since the last call, and forget the gradients."""
        found, self._found = self._found, []
        cosines: dict[str, list[float]] = {"same_video": [], "other_video": []}
        for (video_a, a), (video_b, b) in combinations(found, 2):
            cosines["same_video" if video_a == video_b else "other_video"].append(float(a @ b))
        return cosines


@dataclass
class BadSteps:
    """Counts the bad steps of one stage, writes them down and leaves them out.

    Attributes:
        folder: of the run; a bad step leaves bad_batch-STEP-PROCESS.json there.
        bundle: its tokenizer turns prompts and completions back into text.
        process: number of this process.
        limit: trainer.max_bad_steps: this one stops the run.
        say: shows a line to the user.
        count: bad steps of this stage so far.
    """

    folder: Path
    bundle: ModelBundle
    process: int
    limit: int
    say: Callable[[str], None]
    count: int = 0

    def __post_init__(self) -> None:
        self._vision_ids = frozenset(vision_token_ids(self.bundle.model))
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

    def found(self, steps: range) -> int:
        """Return at how many of these steps, over all stages, process 0 has written a bad step down."""
        return sum((self.folder / f"bad_batch-{step}-0.json").is_file() for step in steps)

    def new_rollout(self) -> None:
        """Forget what was wrong with the rewards of the last rollout."""
        self._buffer_reason = None

    def bad_rewards(self, rewards: Tensor, scored: Sequence[bool], samples: Sequence[Sample]) -> Tensor:
        """Mark all steps of this rollout as bad where a completion has no finite reward; return NaN as its rewards.

        TRL would make advantages of 0 out of infinite rewards and train on without a word.

        Args:
            rewards: (completions of all processes, functions); NaN where a function gave None.
            scored: of each completion; the others may be NaN.
            samples: of this process.
        """
        bad = rewards.isinf().any(dim=1) | rewards.isnan().all(dim=1)
        bad &= torch.tensor(scored, device=rewards.device)
        if not bad.any():
            return rewards
        self._buffer_reason = f"rewards {rewards[bad][0].tolist()} of a completion"
        first = self.process * len(samples)
        own = rewards[first : first + len(samples)].tolist()
        self._microbatches = [{"samples": list(samples), "rewards": own, "loss": None, "advantages": None}]
        rewards = rewards.clone()
        rewards[bad] = torch.nan
        return rewards

    def check(self, step: int, grad_norm: Any, model: nn.Module, *, updated: bool) -> None:
        """Look at a step before its update, on all processes alike; a bad one loses its gradients.

        An optimizer passes over parameters without a gradient, so weights, moments and weight decay stay as they were.

        Args:
            step: optimizer steps over all stages before this one.
            grad_norm: of all gradients, before clipping.
            updated: the engine has made the update already (DeepSpeed, inside its backward pass).

        Raises:
            RunError: it was the last one allowed, or has reached the weights.
        """
        norm = float(grad_norm) if grad_norm is not None else 0.0
        reason = self._buffer_reason or self._reason
        if reason is None and not math.isfinite(norm):
            reason = f"grad_norm is {norm}"
        if not largest(int(reason is not None), next(model.parameters()).device):
            self._microbatches = []
            return
        self.count += 1
        reason = reason or "another process has a bad step"
        path = self._dump(step, reason, norm)
        self._reason, self._microbatches = None, []
        if updated or self.count >= self.limit:
            after = " after the engine's update, the weights are ruined" if updated else ""
            raise RunError(f"step {step}: {reason}{after}; the samples of this process are in {path}", hint=HINT)
        self.say(f"step {step}: {reason}: left out ({self.count} of at most {self.limit}), see {path}")
        leave_out(model)

    def stop_now(self, step: int) -> RunError:
        """Return the error for a loss that an engine would put into the weights inside its backward pass."""
        reason = self._reason or self._buffer_reason or "bad step"
        path = self._dump(step, reason, None)
        return RunError(f"step {step}: {reason}; the samples of this process are in {path}", hint=HINT)

    def _dump(self, step: int, reason: str, norm: float | None) -> Path:
        content = {
            "schema_version": BAD_BATCH_SCHEMA_VERSION,
            "step": step,
            "process": self.process,
            "reason": reason,
            "grad_norm": json_number(norm),
            "samples": [record for item in enumerate(self._microbatches) for record in self._records(*item)],
        }
        path = self.folder / f"bad_batch-{step}-{self.process}.json"
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
        runs = ([token] if token in self._vision_ids else run for token, run in groupby(ids))
        return self.bundle.tokenizer.decode([*chain.from_iterable(runs)])


def leave_out(model: nn.Module) -> None:
    """Drop the gradients of an update: the optimizer then passes over its parameters."""
    for parameter in model.parameters():
        parameter.grad = None
