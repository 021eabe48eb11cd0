"""Base of the trainers of all methods: one stage of a run, its checkpoints, phases and log."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object, is_peft_model
from datasets import Dataset
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback

from vsgrpo.config.train import TrainConfig
from vsgrpo.errors import RunError, first_line
from vsgrpo.modeling.bundle import ModelBundle, vision_tower
from vsgrpo.modeling.save import save_model
from vsgrpo.modeling.tree import Tree, count_scored
from vsgrpo.modeling.vision import FeatureStore, is_tower_trained
from vsgrpo.modeling.weights import fill_adapter, load_full
from vsgrpo.training.distributed import keep_buffers, load_whole, sum_gradients_in_float32
from vsgrpo.training.losses import BadSteps, leave_out
from vsgrpo.training.measure import blank_media, summarize
from vsgrpo.training.progress import Progress, Stage
from vsgrpo.training.samples import Sample, SampleMaker, VideoSampler, sample_trees, stage_rows
from vsgrpo.training.waits import is_wait
from vsgrpo.video.budget import Medium
from vsgrpo.video.loader import VideoLoader

if TYPE_CHECKING:
    from vsgrpo.data.row_numbers import Rows
    from vsgrpo.memory.passes import Passes
    from vsgrpo.training.run_folder import RunFolder


def set_rate(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], rate: float) -> None:
    """Move these parameters of an optimizer into groups of that learning rate, behind those they were in."""
    own = {id(parameter) for parameter in parameters}
    for group in list(optimizer.param_groups):
        moved = [parameter for parameter in group["params"] if id(parameter) in own]
        if moved:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
            optimizer.add_param_group({**group, "params": moved, "lr": rate})


@dataclass(frozen=True)
class RunParts:
    """Parts that all stages of a run share; `dev` are the rows to score on, `rows` the numbers of those to train on."""

    config: TrainConfig
    bundle: ModelBundle
    dataset: Dataset
    loader: VideoLoader
    folder: RunFolder
    dev: Dataset | None = None
    rows: Rows = ()


class StageTrainer(Trainer):
    """Mixed in before a TRL trainer; each override says why.

    Args:
        run: what all stages share; its bundle has LoRA attached already.
        stage: which one this is.
        args: TRL's own configuration of it (`stages.trl_config`).
        progress: shows lines to the user; its timer is the trainer's.
        reference: frozen copy of the model as the run began (full fine-tuning); with LoRA it is "adapter off".
        given: further arguments of the TRL trainer.
    """

    _bad_loss = False
    _num_items = 0
    """Number of items that the loss of the running update is a mean over, in all processes; 0 if all are dead."""
    num_repeated = 0
    """Rows that count twice in an epoch, in a run of an earlier version (`RunFolder.repeats_rows`)."""
    loss_is_scaled_for_ga = True
    """The loss of a microbatch is divided by the count of its whole update, so the Trainer must not divide it again."""
    # The base class types these for every case it serves; in a running stage they are set, and of one kind.
    model: Any
    model_wrapped: Any
    args: Any
    train_dataset: Any
    processing_class: Any
    passes: Passes
    _metrics: Any

    def __init__(
        self,
        run: RunParts,
        stage: Stage,
        args: Any,
        *,
        progress: Progress,
        reference: nn.Module | None,
        **given: Any,
    ) -> None:
        """Set the normaliser of the loss; neither a model's class nor an argument chooses it.

        Stock code counts the tokens of an update only where the model's class has `accepts_loss_kwargs`, which is False
        for Qwen2.5-VL and Qwen3-VL: microbatches of unequal length would then weigh alike.
        """
        # Before `super().__init__()`, which already asks for the output folder.
        config, bundle, section = run.config, run.bundle, run.config.trainer.stage(stage.number)
        self.bundle, self.loader, self.stage, self.timer = bundle, run.loader, stage, progress.timer
        self.bad_steps = BadSteps(stage.folder.path, bundle, args.process_index, section.max_bad_steps, progress.say)
        self._maker = SampleMaker(bundle, run.loader, self.timer)
        self._section = section
        self._questions_per_video = section.questions_per_video
        self._layout = config.token_layout(section)
        kernel: dict[str, Any] = {"layout": self._layout, "attention": section.prefix_attention}
        self._scoring = {**kernel, "chunk": section.logps_chunk}
        drawing = {"layout": config.drawing_layout(section), "graph": getattr(section, "decode_graph", False)}
        self._drawing = {**kernel, **drawing}
        self._train_vision = is_tower_trained(bundle.model)
        # More GPUs than processes: the Trainer would wrap the model in DataParallel, which cuts batches anew.
        args._n_gpu = min(args.n_gpu, 1)
        super().__init__(
            model=bundle.model,
            args=args,
            train_dataset=stage_rows(config, run.dataset, stage.number),
            processing_class=bundle.processor,
            **given,
        )
        self.model_accepts_loss_kwargs = True
        self.remove_callback(PrinterCallback)  # it prints logs on stdout, which is for results
        sum_gradients_in_float32(self)
        keep_buffers(self.model)
        cache: str | Path = config.video.feature_cache  # "memory" keeps a frozen tower's features for the whole run
        if cache == "disk":
            cache = Path(config.video.cache_dir or Path(config.run.dir) / "cache") / "features"
        self._store = self._reference_store = self._maker.store = FeatureStore(bundle, cache=cache)
        if reference is not None and self._train_vision:
            self._reference_store = FeatureStore(replace(bundle, model=reference), cache=cache)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        """Order rows by (seed, epoch), rows of one video side by side."""
        return VideoSampler(**self._row_order(train_dataset))

    def _row_order(self, given: Dataset | None) -> dict[str, Any]:
        """Return the arguments that all samplers take; the rows of a pair count as rows of one video."""
        dataset = self.train_dataset if given is None else given
        videos = list(dataset["video"])
        if "pair" in dataset.column_names:
            videos = [pair or video for pair, video in zip(dataset["pair"], videos, strict=True)]
        columns = {"videos": videos, "types": list(dataset["question_type"])}
        order = {"questions_per_video": self._questions_per_video, "seed": self.args.seed, "epoch": self.current_epoch}
        return columns | order

    def _trees(self, samples: Sequence[Sample]) -> list[Tree]:
        """Return the trees of a log-prob pass over these samples, and count their tokens."""
        trees = sample_trees(samples, self._layout)
        self.timer.count_tokens(count_scored(trees, self._layout))
        return trees

    @property
    def run_step(self) -> int:
        """Optimizer steps done over all stages; `state.global_step` stays the stage's own."""
        return self.stage.steps_before + self.state.global_step

    def _get_output_dir(self, trial: Any) -> str:
        """Write checkpoints beside their final place: the Trainer numbers them by the stage's own steps, we rename."""
        return str(self.stage.folder.partial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Publish the checkpoint under its number over all stages once it is complete on every process.

        Raises:
            RunError: it cannot be written; each library reports a full disk by an exception of its own (OSError,
                SafetensorError, RuntimeError).
        """
        folder = self.stage.folder
        with self.timer.phase("save"):
            try:
                super()._save_checkpoint(model, trial)
            except Exception as error:
                shutil.rmtree(folder.partial, ignore_errors=True)  # half-written files would keep the disk full
                if is_wait(error):  # the other process's error says why
                    raise
                raise RunError(
                    f"{folder.partial}: the checkpoint of step {self.run_step} cannot be written: {first_line(error)}",
                    hint="earlier checkpoints are complete; free disk space, then --resume",
                ) from error
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                folder.publish(self.stage.number, self.state.global_step, self.run_step)
            self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Wait for the writer: others put their random state into the folder, which the writer replaces whole."""
        super().save_model(output_dir, _internal_call)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write checkpoints like all our model folders: with processor, and adapters that name the base they need."""
        if self.args.should_save and output_dir is not None:
            save_model(self.bundle, Path(output_dir), merge=False, state_dict=state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load weights by `modeling.weights`, which refuses a checkpoint that lacks some.

        Stock code loads by name with strict=False. transformers writes Qwen2-VL's weights under older names than those
        in memory: nothing fits, a warning is all, and the run goes on from its starting weights.
        """
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        elif is_peft_model(self.model):
            fill_adapter(self.model, Path(resume_from_checkpoint))
        else:
            with load_whole():
                saved = load_full(
                    type(self.model), resume_from_checkpoint, dtype=self.model.dtype, key="resume from checkpoint"
                )
            self.model.load_state_dict(saved.state_dict())

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Give the vision tower with its merger a rate of its own; the schedule's factor is the same for both."""
        is_new, rate = self.optimizer is None, self._section.vision_learning_rate
        optimizer = super().create_optimizer(model)
        if is_new and rate is not None:
            set_rate(optimizer, vision_tower(self.model).parameters(), rate)
        return optimizer

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Set the rates of the schedule as it is now: those in the optimizer's state belong to the stage's old length.

        Of a stage as long as before they are the same numbers. Bad steps before the checkpoint count on.
        """
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.bad_steps.count = self.bad_steps.found(range(self.stage.steps_before, self.run_step))
        schedule = self.lr_scheduler
        if checkpoint is not None and isinstance(schedule, LambdaLR):
            factors = [rate(schedule.last_epoch) for rate in schedule.lr_lambdas]
            schedule._last_lr = [base * factor for base, factor in zip(schedule.base_lrs, factors, strict=True)]
            for group, rate in zip(schedule.optimizer.param_groups, schedule._last_lr, strict=True):
                group["lr"] = rate

    def _idle_tower(self, samples: Sequence[Sample]) -> Tensor | float:
        """Return 0 for the loss, by way of a trained tower that none of the samples on this process needs.

        Engines of several processes wait for a gradient of every trained weight, ZeRO-2 for all in the same order: call
        this before the forward, so that the backward pass reaches the tower last, as it does with videos.
        """
        if self.accelerator.num_processes == 1 or not self._train_vision or any(sample.media for sample in samples):
            return 0.0
        budget = self.loader.budget
        picture = blank_media([Medium("image", (1, budget.merge, budget.merge), 1)], budget)
        with self.accelerator.autocast():
            features = self._store.features(picture, grad=True)
        return sum(0.0 * found.tensor.float().sum() for found in features.values())

    def _look_at(self, loss: Tensor, inputs: Any) -> None:
        """Note a microbatch and whether its loss is a number, before the backward pass, in which DeepSpeed updates.

        An update without a live row it must not make: momentum alone would move the weights.
        """
        if self.bad_steps.saw(inputs, loss):
            self._bad_loss = True
            if self.is_deepspeed_enabled:
                raise self.bad_steps.stop_now(self.run_step)
        if self.is_deepspeed_enabled and not self._num_items:
            self.accelerator.gradient_state._set_sync_gradients(False)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Leave out the update of a step that is bad on any process: this is called between backward and update."""
        norm = super()._get_grad_norm(model, grad_norm)
        if not self._num_items:  # DeepSpeed has made no update and still reports the last one's
            norm = 0.0
        self.bad_steps.check(self.run_step, norm, model, updated=self.is_deepspeed_enabled)
        if not self._num_items:  # the same on all processes; momentum alone must not move the weights
            leave_out(model)
        return norm

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no README.md: TRL would put one into the run folder at every checkpoint, which has its own report."""

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Time the update; decoding, rollout, reward and reference inside it stop its clock."""
        is_last = self.accelerator.sync_gradients
        with self.timer.phase("update"):
            loss = super().training_step(model, inputs, *args, **kwargs)
        self.accelerator.gradient_state._set_sync_gradients(is_last)  # see `_look_at`
        # The Trainer sums losses up and subtracts the sum from itself to reset it: NaN would stay in every later log.
        bad, self._bad_loss = self._bad_loss, False
        return torch.zeros_like(loss) if bad else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add times, tokens and memory of all processes, and count what was bad.

        That is NaN values, which TRL leaves out of means; steps left out; and of process 0 so far: videos in quarantine
        and broken cache entries, which were computed again.
        """
        if "learning_rate" in logs and (rate := self._section.vision_learning_rate) is not None:
            # Of the same step: the scheduler has gone on by now.
            logs["vision_learning_rate"] = rate * (logs["learning_rate"] / self._section.learning_rate)
        if "loss" in logs:
            own = [self.timer.take_summary()]
            logs.update(summarize(gather_object(own) if self.accelerator.num_processes > 1 else own))
            metrics: dict[str, list[float]] = self._metrics["train"]
            num_nan = sum(math.isnan(v) for name, values in metrics.items() if name[:8] != "rewards/" for v in values)
            if num_nan:
                logs["num_nan"] = num_nan
            if self.bad_steps.count:
                logs["bad_steps"] = self.bad_steps.count
            features = self._store.disk
            corrupt = self.loader.cache.num_corrupt + (features.num_corrupt if features is not None else 0)
            counts = {"num_quarantined": len(self.loader.quarantine), "num_corrupt": corrupt}
            logs.update({name: count for name, count in counts.items() if count})
        super().log(logs, start_time)

    def current_epoch(self) -> int:
        """Return the number of the epoch that is about to start (also after a resume in its middle)."""
        return int(self.state.epoch or 0.0)
