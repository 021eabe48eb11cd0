"""The losses of GRPO and DPO, apart from the trainers that call them, and what is measured on their gradients.

What GRPO does with dead rows and with far references; TRL's loss does the rest. A row is dead where its video turned
out bad (video.on_bad=skip). A dead row leaves the numerator and the denominator of the loss, so an update has the loss
and the gradient that it would have without the row:

- grpo, sapo, dr_grpo, luspo: mean over the live rows of the update, in all microbatches of all processes.
- dapo, cispo, vespo: sum over the tokens of live rows / number of those tokens in the rollout buffer (all processes),
  rescaled to one update as TRL does.
- bnpo: mean over the microbatches (of all processes) that have a live row, each the mean over its own tokens.

A group that is dead on some processes only takes mean and deviation of its rewards over its live rows; one live row
alone has advantage 0. An update that spans several rollout buffers weighs each buffer by its microbatches, because the
live rows of a later buffer are not known yet. An update without any live row changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from statistics import fmean
from typing import Any, cast

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from vsgrpo.training.samples import Sample

TOKEN_MEANS = ("dapo", "cispo", "vespo")
"""Loss types that TRL divides by `num_items_in_batch`."""
MAX_LOG_RATIO = 20.0
"""Largest log-ratio of reference to policy per token. exp(20) keeps the k3 estimate finite in float32."""


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
    return LiveCounts(
        tuple(total[:num_microbatches]),
        tuple(total[num_microbatches:-1]),
        total[-1],
        len(samples) // num_microbatches * accelerator.num_processes,
        accelerator.num_processes,
    )


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
    """Tell whether no process has an advantage in its microbatch, so that all can leave out the same forward.

    Several processes synchronise gradients by hooks that a forward sets up, so the microbatch that synchronises keeps
    its forward; with sharded weights every microbatch does.
    """
    if accelerator.num_processes == 1:
        return not bool(advantages.any())
    simple = accelerator.distributed_type in (DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
    if not simple or accelerator.sync_gradients:
        return False
    return not bool(cast(Tensor, accelerator.reduce(advantages.abs().sum(), reduction="sum")).any())


def zero_loss(model: nn.Module) -> Tensor:
    """Return a loss of 0 whose gradient is zero for every trained parameter, as a zero-weighted forward would give."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.stack([parameter.flatten()[0].float() * 0.0 for parameter in trained]).sum()


def pair_losses(ratios: Tensor, lengths: Tensor, beta: float, loss_type: str) -> Tensor:
    """Return the loss of each pair.

    Args:
        ratios: (pairs, 2) log-prob under the policy minus under the reference, chosen and rejected.
        lengths: (pairs, 2) tokens of the answers.
        beta: strength of the reference.
        loss_type: sigmoid (arXiv 2305.18290 eq. 7), hinge (arXiv 2305.10425), ipo (arXiv 2310.12036 eq. 17, on means
            over the tokens, as TRL does).
    """
    if loss_type == "sigmoid":
        return -logsigmoid(beta * (ratios[:, 0] - ratios[:, 1]))
    if loss_type == "hinge":
        return (1 - beta * (ratios[:, 0] - ratios[:, 1])).relu()
    if loss_type == "ipo":
        means = ratios / lengths
        return (means[:, 0] - means[:, 1] - 1 / (2 * beta)) ** 2
    raise ValueError(f"loss_type={loss_type}: one of sigmoid, hinge, ipo")


MAX_QUESTIONS = 32
"""Gradients kept per log; each is as large as the trained weights."""


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

    def take(self) -> dict[str, float]:
        """Return the mean cosines of pairs since the last call, those that there are, and forget the gradients."""
        found, self._found = self._found, []
        cosines: dict[str, list[float]] = {"same_video": [], "other_video": []}
        for (video_a, a), (video_b, b) in combinations(found, 2):
            cosines["same_video" if video_a == video_b else "other_video"].append(float(a @ b))
        return {f"gradient_cosine/{name}": fmean(values) for name, values in cosines.items() if values}
