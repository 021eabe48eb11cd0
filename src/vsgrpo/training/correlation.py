"""How alike the gradients of questions are: same video against other videos (`trainer.log_gradient_correlation`).

The variance of a mean of Q gradients grows by 1 + (Q - 1) rho, rho their correlation. Sharing a video among Q
questions pays while its gain in speed is above that; with these cosines a lab can decide on questions_per_video from
its own data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, groupby

import torch
from torch import Tensor, nn

from vsgrpo.training.samples import Sample

MAX_QUESTIONS = 32
"""Gradients kept per log; each is as large as the trained weights."""


class GradientCorrelation:
    """Collects one gradient per question and compares them pairwise.

    Args:
        model: whose trained parameters count.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._found: list[tuple[str, Tensor]] = []

    def add(self, video: str, loss: Callable[[], Tensor]) -> None:
        """Take the gradient of a question's loss, without touching the gradients that the optimizer will see."""
        if len(self._found) >= MAX_QUESTIONS:
            return
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(), self._parameters, allow_unused=True)
        parts = [gradient.flatten().float().cpu() for gradient in gradients if gradient is not None]
        vector = torch.cat(parts)
        norm = vector.norm()
        if norm > 0:
            self._found.append((video, vector / norm))

    def add_groups(
        self, samples: Sequence[Sample], advantages: Tensor, score: Callable[[list[Sample]], list[Tensor]]
    ) -> None:
        """Take the policy gradient of each question of a microbatch that has advantages.

        Args:
            samples, advantages: of the microbatch, one per completion.
            score: returns the log-probs (tokens,) of each sample, with gradient.
        """
        for _, group in groupby(range(len(samples)), key=lambda place: samples[place].row_key):
            rows = list(group)
            own, weights = [samples[row] for row in rows], advantages[rows]
            if not own[0].media or not bool(weights.any()):
                continue

            def loss(own: list[Sample] = own, weights: Tensor = weights) -> Tensor:
                means = torch.stack([scores.mean() for scores in score(own)])
                return -(weights.to(means.device) * means).sum()

            self.add("\n".join(own[0].prompt.videos), loss)

    def take(self) -> dict[str, float]:
        """Return the mean cosines of pairs since the last call, those that there are, and forget the gradients."""
        found, self._found = self._found, []
        cosines: dict[str, list[float]] = {"same_video": [], "other_video": []}
        for (video_a, a), (video_b, b) in combinations(found, 2):
            cosines["same_video" if video_a == video_b else "other_video"].append(float(a @ b))
        return {f"gradient_cosine/{name}": mean(values) for name, values in cosines.items() if values}


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean."""
    return sum(values) / len(values)
