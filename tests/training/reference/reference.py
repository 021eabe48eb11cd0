"""Independent reference of one update: stock transformers and peft, one forward per completion, nothing of vsgrpo.

Loss and gradients come from what was recorded: token ids, frames, rewards and the weights before the update. Formulas
are written from their papers; where TRL's reading counts (normalisers of GRPO's variants), its documentation is named.
A row without media is dead: it is left out before anything is computed.

Legend: C tokens of one completion.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForImageTextToText, AutoProcessor

from token_positions import token_positions


@dataclass(frozen=True, eq=False)
class Medium:
    """A video or image: (T, C, H, W) uint8 frames, and seconds per temporal patch of a video."""

    frames: Tensor
    seconds: float | None
    kind: str = "video"


@dataclass(frozen=True, eq=False)
class Row:
    """One completion: the group it belongs to, token ids, media (None: dead), reward (GRPO), and its parts (GDPO).

    `teacher`: the prompt of the teacher (GPD); empty: it does not teach.
    """

    group: str
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    media: tuple[Medium, ...] | None
    reward: float | None = None
    rewards: tuple[float, ...] = ()
    teacher: tuple[int, ...] = ()


@dataclass(frozen=True)
class Grpo:
    """Settings of a GRPO loss, under TRL's names."""

    loss_type: str
    importance_sampling_level: str
    epsilon: float
    epsilon_high: float
    delta: float | None
    beta: float
    use_bias_correction_kl: bool
    temperature: float
    scale_rewards: str
    max_completion_length: int
    mask_truncated_completions: bool
    eos_ids: tuple[int, ...]
    sapo_temperature_pos: float
    sapo_temperature_neg: float
    vespo_k_pos: float
    vespo_lambda_pos: float
    vespo_k_neg: float
    vespo_lambda_neg: float
    off_policy_mask_threshold: float | None
    multi_objective_aggregation: str


def live(microbatches: Iterable[Iterable[Row]]) -> list[Row]:
    """Return the rows of an update that have their media, in order."""
    return [row for rows in microbatches for row in rows if row.media is not None]


class Reference:
    """A stock model that scores rows one by one.

    Args:
        folder: model and processor as `from_pretrained` reads them.
        lora: arguments of LoraConfig, None for full tuning.
        text_after_video: `library`: by the stock model's own positions; `published`: by `token_positions`.
        dtype: of weights and all arithmetic.
    """

    def __init__(
        self, folder: Any, lora: Mapping[str, Any] | None, text_after_video: str, dtype: torch.dtype = torch.float32
    ) -> None:
        self.text_after_video = text_after_video
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
        if lora is not None:
            self.model = get_peft_model(self.model, LoraConfig(**lora))
        self.model.eval().to(dtype)
        self.start: Any = None
        """The model as the run began, where all weights are trained."""

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights by the names of the model's own state_dict."""
        self.model.load_state_dict(weights)

    def logps(self, row: Row, temperature: float = 1.0) -> Tensor:
        """Return the log-probs (C,) of a completion's tokens."""
        ids = torch.tensor([[*row.prompt, *row.completion]])
        config = self.model.config
        inner = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        inner.model.rope_deltas = None
        kinds = (ids == config.image_token_id).int() + (ids == config.video_token_id).int() * 2
        given: dict[str, Any] = {"mm_token_type_ids": kinds}
        films = [medium for medium in row.media or () if medium.kind == "video"]
        pictures = [medium.frames[0] for medium in row.media or () if medium.kind == "image"]
        if pictures:
            images = self.processor.image_processor(images=pictures, do_resize=False, return_tensors="pt")
            given |= {
                "pixel_values": images["pixel_values"].to(self.model.dtype),
                "image_grid_thw": images["image_grid_thw"],
            }
        if films:
            videos = self.processor.video_processor(
                videos=[medium.frames for medium in films],
                do_sample_frames=False,
                do_resize=False,
                cap_pixels_per_frame=False,
                return_tensors="pt",
            )
            given |= {
                "pixel_values_videos": videos["pixel_values_videos"].to(self.model.dtype),
                "video_grid_thw": videos["video_grid_thw"],
            }
            if config.model_type == "qwen2_5_vl":
                given["second_per_grid_ts"] = torch.tensor([medium.seconds for medium in films])
            # Qwen3's families place each frame by itself: the stock model's positions are those of both rules.
            if self.text_after_video == "published" and config.model_type not in ("qwen3_vl", "qwen3_5"):
                given["position_ids"] = self._published(ids[0].tolist(), videos["video_grid_thw"].tolist(), films)
        logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **given).logits[0]
        start = len(row.prompt) - 1
        predicted = (logits[start:-1] / temperature).log_softmax(-1)
        return predicted.gather(-1, ids[0, start + 1 :, None])[:, 0]

    def _published(self, ids: list[int], grids: list[list[int]], media: Sequence[Medium]) -> Tensor:
        """Return (3, 1, L) positions by which text goes on after the farthest axis of a video."""
        config = self.model.config
        per_second = config.vision_config.tokens_per_second if config.model_type == "qwen2_5_vl" else None
        shown = [((t, h, w), medium.seconds) for (t, h, w), medium in zip(grids, media, strict=True)]
        return token_positions(ids, [config.video_token_id], shown, "published", per_second)[:, None]

    def start_logps(self, row: Row, temperature: float = 1.0) -> Tensor:
        """Return the log-probs (C,) under the model as the run began: the adapter switched off, or `start`."""
        if self.start is not None:
            with torch.no_grad():
                return self.start.logps(row, temperature)
        with torch.no_grad(), self.model.disable_adapter():
            return self.logps(row, temperature)

    def gradients(self, loss: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the gradient of each named parameter."""
        parameters = {name: parameter for name, parameter in self.model.named_parameters() if name in set(names)}
        return dict(zip(parameters, torch.autograd.grad(loss, [*parameters.values()]), strict=True))

    def sft(self, update: Sequence[Sequence[Row]]) -> Tensor:
        """Return the mean negative log-likelihood of all answer tokens of an update."""
        rows = live(update)
        return -torch.stack([self.logps(row).sum() for row in rows]).sum() / sum(len(row.completion) for row in rows)

    def dpo(self, update: Sequence[Sequence[Row]], loss_type: str, beta: float) -> Tensor:
        """Return the mean loss over all pairs of an update; rows are chosen, rejected, chosen, ...

        sigmoid: arXiv 2305.18290 eq. 7; hinge: arXiv 2305.10425; ipo: arXiv 2310.12036 eq. 17, on means of tokens.
        """
        losses = []
        rows = live(update)
        for chosen, rejected in zip(rows[::2], rows[1::2], strict=True):
            good, bad = ((self.logps(row) - self.start_logps(row)) for row in (chosen, rejected))
            if loss_type == "sigmoid":
                losses.append(-logsigmoid(beta * (good.sum() - bad.sum())))
            elif loss_type == "hinge":
                losses.append((1 - beta * (good.sum() - bad.sum())).clamp(min=0))
            else:
                losses.append((good.mean() - bad.mean() - 1 / (2 * beta)) ** 2)
        return torch.stack(losses).mean()

    def grpo(
        self,
        update: Sequence[Sequence[Row]],
        settings: Grpo,
        old: Mapping[int, Tensor],
        buffer: Sequence[Row] = (),
        updates_of_buffer: int = 1,
        advantages: Mapping[int, float] | None = None,
    ) -> Tensor:
        """Return the loss of an update.

        Args:
            update: microbatches of all processes.
            settings: of the loss.
            old: (C,) log-probs at the time of the rollout, by id of the row.
            buffer: live rows of the whole rollout buffer; by default they are those of the update.
            updates_of_buffer: equal parts of the buffer, each the rows of one update.
            advantages: by id of the row, where they depend on more than the buffer.
        """
        buffer = buffer or live(update)
        if advantages is not None:
            pass
        elif settings.multi_objective_aggregation == "normalize_then_sum":
            advantages = decoupled_advantages(buffer)
        else:
            advantages = group_advantages(buffer, settings.scale_rewards)
        parts = []
        for rows in update:
            tokens = [self._token_losses(row, settings, advantages[id(row)], old[id(row)]) for row in live([rows])]
            kept = [float(_is_kept(row, settings)) for row in live([rows])]
            if tokens:
                parts.append((tokens, kept))
        sums = [part.sum() * kept for tokens, keeps in parts for part, kept in zip(tokens, keeps, strict=True)]
        counts = [len(part) * kept for tokens, keeps in parts for part, kept in zip(tokens, keeps, strict=True)]
        if settings.loss_type in ("grpo", "sapo"):  # mean over a completion, then over completions
            means = [total / max(count, 1) for total, count in zip(sums, counts, strict=True)]
            return torch.stack(means).mean()
        if settings.loss_type == "luspo":  # arXiv 2602.05261: a completion weighs by its length
            return torch.stack(sums).mean()
        if settings.loss_type == "dr_grpo":  # arXiv 2503.20783: a constant instead of the length
            return torch.stack(sums).mean() / settings.max_completion_length
        if settings.loss_type in ("dapo", "cispo", "vespo"):  # arXiv 2503.14476 eq. 12: mean over the rollout's tokens
            tokens = sum(len(row.completion) * float(_is_kept(row, settings)) for row in buffer)
            return torch.stack(sums).sum() / max(tokens / updates_of_buffer, 1)
        # bnpo, as TRL documents it: mean over the tokens of each local batch, then over the batches
        local = []
        for tokens, keeps in parts:
            total = torch.stack([part.sum() * kept for part, kept in zip(tokens, keeps, strict=True)]).sum()
            local.append(total / max(sum(len(part) * kept for part, kept in zip(tokens, keeps, strict=True)), 1))
        return torch.stack(local).mean()

    def gpd(
        self,
        update: Sequence[Sequence[Row]],
        taught: Mapping[int, Tensor],
        weight: float,
        clip: float,
        temperature: float,
    ) -> Tensor:
        """Return the loss of GPD: k3 of the teacher's and the student's log-probs, mean over live completions.

        Args:
            taught: (C,) log-probs of the teacher at the time of the rollout, by id of the row, where it teaches.
        """
        rows, parts = live(update), []
        for row in rows:
            if id(row) in taught:
                apart = taught[id(row)] - self.logps(row, temperature)
                parts.append((apart.exp() - apart - 1).mean().clamp(max=clip))
        return weight * torch.stack([*parts, torch.zeros(())]).sum() / len(rows)

    def _token_losses(self, row: Row, settings: Grpo, advantage: float, old: Tensor) -> Tensor:
        scores = self.logps(row, settings.temperature)
        log_ratio = scores - old
        if settings.importance_sampling_level == "sequence":  # arXiv 2507.18071 eq. 7
            ratio = log_ratio.mean().exp().expand(len(scores))
        else:
            ratio = log_ratio.exp()
        losses = _policy_losses(scores, log_ratio, ratio, advantage, settings)
        drift, bound = float(-log_ratio.detach().mean()), settings.off_policy_mask_threshold
        if bound is not None and advantage < 0 and drift > bound:  # arXiv 2512.02556: the KL term stays
            losses = losses * 0
        if settings.beta:
            apart = self.start_logps(row, settings.temperature) - scores
            kl = apart.exp() - apart - 1  # arXiv 2402.03300 eq. 4
            losses = losses + settings.beta * (kl * ratio if settings.use_bias_correction_kl else kl)
        return losses


def _policy_losses(scores: Tensor, log_ratio: Tensor, ratio: Tensor, advantage: float, settings: Grpo) -> Tensor:
    kind = settings.loss_type
    if kind == "cispo":  # arXiv 2506.13585 eq. 4
        return -ratio.clamp(max=settings.epsilon_high).detach() * advantage * scores
    if kind == "sapo":  # arXiv 2511.20347 eq. 6
        temperature = settings.sapo_temperature_pos if advantage > 0 else settings.sapo_temperature_neg
        return -torch.sigmoid(temperature * (ratio - 1)) * 4 / temperature * advantage
    if kind == "vespo":  # weights by a gamma density of the sequence's ratio, normalised at 1, as TRL documents it
        log_w = log_ratio.detach().clamp(-20, 20).sum().clamp(math.log(1e-8), 20)
        k, rate = (
            (settings.vespo_k_pos, settings.vespo_lambda_pos)
            if advantage >= 0
            else (settings.vespo_k_neg, settings.vespo_lambda_neg)
        )
        return -(rate + k * log_w - rate * log_w.exp()).exp() * advantage * scores
    clipped = ratio.clamp(1 - settings.epsilon, 1 + settings.epsilon_high)
    taken = ratio if settings.delta is None else ratio.clamp(max=settings.delta)
    return -torch.min(taken * advantage, clipped * advantage)


def _is_kept(row: Row, settings: Grpo) -> bool:
    """Tell whether a completion's tokens count: all do, unless cut off and mask_truncated_completions."""
    return not settings.mask_truncated_completions or row.completion[-1] in settings.eos_ids


def group_advantages(rows: Sequence[Row], scale: str) -> dict[int, float]:
    """Return (reward - mean) / (std + 1e-4) by id of the row: mean of the group, std of the group or of the batch."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    everything = torch.tensor([row.reward for row in rows], dtype=torch.float64)
    found = {}
    for own in groups.values():
        rewards = torch.tensor([row.reward for row in own], dtype=torch.float64)
        centred = rewards - rewards.mean()
        if len(own) == 1:
            centred = centred * 0
        elif scale != "none":
            centred = centred / ((rewards if scale == "group" else everything).std() + 1e-4)
        found |= {id(row): float(value) for row, value in zip(own, centred, strict=True)}
    return found


def decoupled_advantages(rows: Sequence[Row]) -> dict[int, float]:
    """Return advantages by id of the row (arXiv 2601.05242): each reward by its group, their sum by the batch."""
    sums = dict.fromkeys(map(id, rows), 0.0)
    for part in range(len(rows[0].rewards)):
        alone = [(row, replace(row, reward=row.rewards[part])) for row in rows]
        found = group_advantages([copy for _, copy in alone], "group")
        for row, copy in alone:
            sums[id(row)] += found[id(copy)]
    values = torch.tensor([*sums.values()], dtype=torch.float64)
    return {key: (value - float(values.mean())) / (float(values.std()) + 1e-4) for key, value in sums.items()}
