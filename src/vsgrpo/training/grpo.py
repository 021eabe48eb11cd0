"""GRPO on video and images: TRL's trainer with only the overrides that video and whole groups need.

Written against TRL 1.16 (tests/training/test_trl_signatures.py fails where a method we override changes). Stock TRL
trains silently wrong on videos: rollouts see the video, log-prob passes get token ids only. Here both go through
`modeling.rollout` and `modeling.logps` with the same features.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from statistics import fmean
from typing import Any, cast

import torch
from accelerate.utils import gather_object, is_peft_model
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import Sampler
from trl.models.utils import unwrap_model_for_generation
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.utils import pad, split_tensor_dict

from vsgrpo.config.trainer import GrpoSection
from vsgrpo.modeling.bundle import vision_token_ids
from vsgrpo.modeling.logps import AdapterOff, logps
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.tree import count_drawn
from vsgrpo.training.base import RunParts
from vsgrpo.training.distributed import unsharded
from vsgrpo.training.group_rewards import GroupTrainer
from vsgrpo.training.losses import (
    GradientCorrelation,
    LiveCounts,
    bound_reference,
    count_live,
    is_without_advantage,
    microbatches_of_update,
    needs_forward,
    zero_loss,
)
from vsgrpo.training.privileged import PrivilegedTeacher
from vsgrpo.training.progress import Stage
from vsgrpo.training.samples import RolloutSampler, Sample, TeacherSample, compute_features, sample_trees
from vsgrpo.training.served import open_served


class SpatialGRPOTrainer(GroupTrainer):
    """GRPO on rows of `rows_to_dataset`; reward functions get the columns of the table.

    Raises:
        ValueError: `beta` > 0, and neither an adapter nor a reference.
    """

    max_completion_length: int

    def __init__(
        self, run: RunParts, stage: Stage, args: GRPOConfig, *, reference: nn.Module | None, **given: Any
    ) -> None:
        self._loss_inputs: dict[str, Any] = {}
        self._scores: Tensor | None = None
        self._update_start = 0
        # The reference is ours: TRL would reload the weights named in the config (not the ones in memory), or copy a
        # starting adapter, where "adapter off" is what we mean.
        model, section = run.bundle.model, run.config.trainer.stage(stage.number)
        assert isinstance(section, GrpoSection)
        if args.beta > 0 and reference is None and not is_peft_model(model):
            raise ValueError(f"beta={args.beta} needs a reference: the model has no adapter to switch off")
        beta, args.beta = args.beta, 0.0
        super().__init__(run, stage, args, reference=reference, **given)
        self.beta = args.beta = beta
        if beta > 0:
            self.ref_model = AdapterOff()
            if reference is not None:
                self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)
        self._suppressed = vision_token_ids(model)
        self._skip_zero_variance = section.skip_zero_variance
        self._correlation = GradientCorrelation(model) if section.log_gradient_correlation else None
        self._teacher = None
        if section.gpd_weight:
            self._teacher = PrivilegedTeacher(section.gpd_weight, section.gpd_below, section.gpd_clip)
        self.served = open_served(self, run, section)

    # --- which rows ---------------------------------------------------------------------------------------------

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Sampler:
        """Order rows by (seed, epoch), videos together and groups whole, whatever the passes; see `RolloutSampler`."""
        args, section = self.args, self._section
        return RolloutSampler(
            **self._row_order(dataset),
            num_generations=self.num_generations,
            prompts_per_buffer=args.generation_batch_size // self.num_generations,
            repeats=self.num_iterations * args.steps_per_generation,
            num_processes=args.world_size,
            num_microbatches=int(section.hf.get("steps_per_generation") or section.gradient_accumulation_steps),
            whole_groups=section.per_device_train_batch_size % self.num_generations == 0,
        )

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Roll out once per buffer and cut it into microbatches in order.

        Stock TRL shuffles single completions here, which tears groups and trees apart.
        """
        generate_every = self.args.steps_per_generation * self.num_iterations
        if self._step % generate_every == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            live = batch.pop("live")
            parts = split_tensor_dict(batch, self.args.steps_per_generation)
            self._buffered_inputs = [{**part, "live": live} for part in parts]
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> None:
        """Note where the update begins: its normaliser is counted after the rollout, see `losses`."""
        self._update_start, self._num_items = self._step, 0

    # --- rollout and rewards ------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Decode the videos, set the samples aside for the passes inside, and carry them with the batch as a list."""
        self.bad_steps.new_rollout()
        self.follow_schedule()
        first = self.accelerator.process_index * len(inputs)
        samples = self._maker.make(inputs, [(first + i) % self.num_generations for i in range(len(inputs))])
        if self._filter is not None:
            with self.timer.phase("reward"):
                inputs, samples = self._filter.fill(self, inputs, samples)
        self._samples = samples
        with self.timer.phase("reward"):
            output = super()._generate_and_score_completions(inputs)
            self._write_completions(inputs, samples, output["advantages"])
        for row, sample in enumerate(samples):
            if sample.media is None:
                output["completion_mask"][row] = 0
        if self._teacher is not None:
            self._teacher.teach(self, inputs, samples, output["completion_mask"])
        if self.served is not None:
            self.served.watch(self, output)
        live = count_live(self.accelerator, samples, output["completion_mask"], self.args.steps_per_generation)
        output["num_items_in_batch"] = torch.full_like(output["num_items_in_batch"], live.tokens)
        return {**output, "samples": samples, "live": live}

    def _tokenize_prompts(self, prompts: list) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Return the token ids of the samples: placeholders are counted from the video, no pixels go with the text."""
        return [list(sample.prompt.token_ids) for sample in self._samples], None, {}

    def _generate_single_turn(
        self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        """Return the completions of the samples, with log-probs where servers draw."""
        samples = self._samples
        if self._filter is None:  # which has drawn them already
            self.draw(samples)
        logprobs = None if self.served is None else [list(sample.logprobs) for sample in samples]
        return [list(sample.completion) for sample in samples], logprobs

    def draw(self, samples: Sequence[Sample]) -> None:
        """Fill in completions with keyed noise from each prompt and its video, here or by servers.

        All processes call it, with equally many samples. Stock generation draws from the global generator:
        completions would depend on batch order and process. The tower runs in here too, where sharded parameters are
        gathered.
        """
        assert not any(isinstance(sample, TeacherSample) for sample in samples), "privileged text in a rollout"
        completions: list[list[int]] = []
        with (
            torch.no_grad(),
            unsharded(self.model_wrapped),
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
        ):
            with self.accelerator.autocast():
                features = compute_features(samples, self._store, self.timer)
            if not self._train_vision:
                for sample in samples:
                    sample.features = tuple(features[item.key] for item in sample.media or ())
            with self.timer.phase("generate"), self.accelerator.autocast():
                if self.served is not None:
                    self.served.draw(self, samples, features)
                else:
                    completions = rollout(
                        cast(nn.Module, model),
                        [sample.prompt for sample in samples],
                        features,
                        [(sample.row_key, sample.index) for sample in samples],
                        self._sampling(),
                        **self._drawing,
                        phase=self.timer.phase,
                    )
        if self.served is not None:  # outside of what gathers weights: a run that ends here is saved
            completions, logprobs = self.served.take(self)
            for sample, scores in zip(samples, logprobs, strict=True):
                sample.logprobs = tuple(scores)
        for sample, completion in zip(samples, completions, strict=True):
            sample.completion = tuple(completion)
        if self.served is None:
            layout = self._drawing["layout"]
            self.timer.count_tokens(count_drawn(sample_trees(samples, layout), layout))

    def _sampling(self) -> Sampling:
        return Sampling(
            seed=self.args.seed,
            step=self.run_step,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k or 0,
            min_p=self.min_p or 0.0,
            suppress=self._suppressed,
            eos_ids=tuple(self.eos_token_ids),
            max_new_tokens=self.max_completion_length,
        )

    # --- log-probs ----------------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> Tensor:
        """Look at the loss while its samples are at hand."""
        idle = self._idle_tower(inputs["samples"])
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch) + idle
        self._look_at(loss, inputs)
        return loss

    def _compute_loss(self, model, inputs) -> Tensor:
        """Set the samples of the microbatch aside: stock code passes a fixed list of image arguments on.

        The loss counts live rows alone, see `losses`. With `skip_zero_variance` a microbatch without advantage is
        left out, its KL term too. The normaliser stays as it was: its loss is 0, not absent.
        """
        self._num_items += inputs["live"].rows[self._step % self.args.steps_per_generation]
        scale = self._live_scale(inputs["live"], self.loss_type)
        if self._correlation is not None:
            self._correlation.add(inputs["samples"], inputs["advantages"], self._policy_logps)
        skipped = False
        if self._skip_zero_variance:
            taught = [float(sample.taught is not None) for sample in inputs["samples"]]
            learnt = inputs["advantages"].abs() + inputs["advantages"].new_tensor(taught)
            skipped = is_without_advantage(self.accelerator, learnt)
            self._metrics["train"]["skipped_microbatches"].append(float(skipped))
            if skipped and not needs_forward(self.accelerator):
                return zero_loss(self.model)
        self._samples = inputs["samples"]
        self._loss_inputs = {**inputs}  # a microbatch may serve again (num_iterations), with its own reference
        loss = super()._compute_loss(model, self._loss_inputs)
        self._loss_inputs = {}  # they hold a part of the graph
        loss = loss if scale == 1.0 else loss * scale
        if self._teacher is not None and self._scores is not None:
            own = self._teacher.loss(self, self._samples, self._scores) * self._live_scale(inputs["live"], "grpo")
            loss = loss + own / self.current_gradient_accumulation_steps
        self._scores = None
        return loss * 0.0 if skipped else loss

    def _live_scale(self, live: LiveCounts, loss_type: str) -> float:
        per_buffer, length = self.args.steps_per_generation, self.current_gradient_accumulation_steps
        return live.scale(loss_type, microbatches_of_update(self._step, self._update_start, length, per_buffer))

    def _policy_logps(self, samples: list[Sample]) -> list[Tensor]:
        """Return the log-probs of each sample's completion, with gradient, outside the engine's wrapping."""
        model = cast(nn.Module, self.accelerator.unwrap_model(self.model))
        with self.accelerator.autocast():
            features = compute_features(samples, self._store, self.timer, grad=self._train_vision)
            rows = logps(model, self._trees(samples), features, temperature=self.temperature, **self._scoring)
        return [row[0] for row in rows]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean cosines of gradients since the last log, over the pairs of all processes."""
        if self._correlation is not None and "loss" in logs:
            parts = gather_object([self._correlation.take()])
            found = {name: [value for part in parts for value in part[name]] for name in parts[0]}
            logs.update({f"gradient_cosine/{name}": fmean(values) for name, values in found.items() if values})
        super().log(logs, start_time)

    def _bound_kl(self, scores: Tensor) -> None:
        """Keep the KL term from overflowing (`bound_reference`); log how many tokens were bounded, on all processes."""
        reference = self._loss_inputs.get("ref_per_token_logps")
        if reference is None:
            return
        corrected = self.args.use_bias_correction_kl
        self._loss_inputs["ref_per_token_logps"], count = bound_reference(reference, scores, corrected=corrected)
        total: Any = self.accelerator.reduce(torch.tensor(float(count), device=scores.device), reduction="sum")
        self._metrics["train"]["kl_clamped"].append(float(total))

    def _get_per_token_logps_and_entropies(
        self,
        model,
        input_ids,
        attention_mask,
        logits_to_keep,
        batch_size=None,
        compute_entropy=False,
        compute_aux_loss=False,
        pixel_values=None,
        image_grid_thw=None,
        num_images=None,
        pixel_attention_mask=None,
        spatial_shapes=None,
        num_tiles=None,
        image_sizes=None,
        token_type_ids=None,
        mm_token_type_ids=None,
        image_position_ids=None,
    ) -> tuple[Tensor, Tensor | None, None]:
        """Score the completions with their videos; stock code would score them without.

        Returns:
            log-probs (rows, logits_to_keep), entropies of the same shape or None, both 0 after a completion's end;
            None for the auxiliary loss of mixture models.
        """
        samples = self._samples
        grad = torch.is_grad_enabled()
        size = len(samples) if grad else self.passes.scored
        options = {"temperature": self.temperature, "entropy": compute_entropy}
        options |= {"adapter": not isinstance(model, AdapterOff), **self._scoring}
        scored = model if options["adapter"] else self.model
        store = self._reference_store if model is self.ref_model else self._store
        rows: list[tuple[Tensor, Tensor | None]] = []
        # The policy's own pass belongs to the phase `update`, which is running.
        with nullcontext() if grad else self.timer.phase("reference"), self.accelerator.autocast():
            for start in range(0, len(samples), size):
                part = samples[start : start + size]
                features = compute_features(part, store, self.timer, grad=grad and self._train_vision)
                rows += logps(scored, self._trees(part), features, **options)
        scores = _pad_right([row[0] for row in rows], logits_to_keep)
        if grad:
            self._bound_kl(scores)
            self._scores = scores if self._teacher is not None else None
        if not compute_entropy:
            return scores, None, None
        return scores, _pad_right([row[1] for row in rows if row[1] is not None], logits_to_keep), None


def _pad_right(rows: Sequence[Tensor], length: int) -> Tensor:
    padded = pad(list(rows), padding_value=0, padding_side="right")
    return nn.functional.pad(padded, (0, length - padded.size(1)))
