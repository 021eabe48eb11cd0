"""`vsgrpo train`: types, units and rules of its sections. Values live in configs/train.yaml and its groups."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from vsgrpo.config.rules import at_least, one_of, share
from vsgrpo.config.shared import PromptSection, RunSection
from vsgrpo.errors import ConfigError


@dataclass(frozen=True)
class LoraSection:
    """LoRA on the language model (PEFT's names)."""

    r: int
    alpha: int
    dropout: float
    targets: list[str]

    def __post_init__(self) -> None:
        at_least("model.lora.r", self.r, 1)
        share("model.lora.dropout", self.dropout)


@dataclass(frozen=True)
class ModelSection:
    """The model to train: `path` is a folder, a hub id, or a tiny model of config/families.py."""

    path: str
    adapter: str | None
    tune: str
    freeze_vision: bool
    merge_on_save: bool | None
    dtype: str
    attn_implementation: str
    offline: bool
    lora: LoraSection

    def __post_init__(self) -> None:
        one_of("model.tune", self.tune, ("lora", "full"))
        one_of("model.dtype", self.dtype, ("float32", "bfloat16"))
        if self.tune == "lora" and not self.freeze_vision:
            raise ConfigError(
                "model.freeze_vision=false: LoRA trains the language model only, the tower stays frozen",
                hint="set model.freeze_vision=true, or model.tune=full",
            )


MIX_EXAMPLE = "for example data=data/vsi100k data.mix='[{path: data/own, weight: 0.5}]'"


@dataclass(frozen=True)
class TrainDataSection:
    """Which rows to train on."""

    path: str
    split: str
    types: list[str] | None
    limit: int | None
    allow_val_safe: bool
    mix: list[dict[str, Any]] | None

    def __post_init__(self) -> None:
        one_of("data.split", self.split, ("train", "dev"))
        at_least("data.limit", self.limit, 1)
        for number, item in enumerate(self.mix or []):
            weight = item.get("weight", 1.0)
            if set(item) - {"path", "weight"} or not isinstance(item.get("path"), str):
                raise ConfigError(f"data.mix[{number}]={item}: each is {{path, weight}}", hint=MIX_EXAMPLE)
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
                raise ConfigError(f"data.mix[{number}].weight={weight}: must be above 0", hint=MIX_EXAMPLE)

    def folders(self) -> list[tuple[str, float]]:
        """Return (folder, weight) of all folders drawn from; data.path has weight 1 unless data.mix lists it too."""
        mix = {str(item["path"]): float(item.get("weight", 1.0)) for item in self.mix or []}
        return list({self.path: 1.0, **mix}.items())


@dataclass(frozen=True)
class VideoSection:
    """How many frames and pixels the model sees, and how files are read (timeout in seconds)."""

    num_frames: int
    min_pixels: int
    max_pixels: int
    backend: str
    frame_cache: str
    feature_cache: str
    cache_dir: str | None
    on_bad: str
    max_quarantined: float
    timeout_s: float | None

    def __post_init__(self) -> None:
        at_least("video.num_frames", self.num_frames, 1)
        at_least("video.min_pixels", self.min_pixels, 28 * 28)
        at_least("video.max_pixels", self.max_pixels, self.min_pixels)
        one_of("video.backend", self.backend, ("decord", "pyav", "torchcodec"))
        one_of("video.frame_cache", self.frame_cache, ("off", "memory", "disk"))
        one_of("video.feature_cache", self.feature_cache, ("off", "memory", "disk"))
        one_of("video.on_bad", self.on_bad, ("skip", "error"))
        share("video.max_quarantined", self.max_quarantined)


@dataclass(frozen=True)
class ImageSection:
    """How many pixels of an image the model sees."""

    min_pixels: int
    max_pixels: int

    def __post_init__(self) -> None:
        at_least("image.min_pixels", self.min_pixels, 28 * 28)
        at_least("image.max_pixels", self.max_pixels, self.min_pixels)


@dataclass(frozen=True)
class RewardSection:
    """Reward functions by name, their weights, and how numbers are rewarded."""

    names: list[str] | None
    weights: list[float] | None
    numeric: str
    allow_empty: bool
    length_words: int

    def __post_init__(self) -> None:
        one_of("reward.numeric", self.numeric, ("relative", "mra", "smooth"))
        at_least("reward.length_words", self.length_words, 1)
        if self.weights is not None and (self.names is None or len(self.weights) != len(self.names)):
            raise ConfigError(
                f"reward.weights={self.weights}: needs one number for each of reward.names={self.names}",
                hint="give both lists with equal length, or leave reward.weights=null",
            )
        if self.weights is not None and not sum(self.weights) > 0:
            raise ConfigError(f"reward.weights={self.weights}: must sum to more than 0", hint="raise one weight")
        if self.names is not None and not self.names:
            raise ConfigError("reward.names=[]: no reward, nothing to learn from", hint="set reward.names=[accuracy]")


# fmt: off
TRACKERS = (
    "azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte", "kubeflow", "mlflow", "neptune",
    "swanlab", "tensorboard", "trackio", "wandb",
)
# fmt: on
"""What transformers 5.23 can report to."""


@dataclass(frozen=True)
class TrainerSection:
    """Options both methods share; names and meaning are TRL's (`TrainingArguments`)."""

    name: str
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    learning_rate: float
    lr_scheduler_type: str
    warmup_steps: float
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    max_grad_norm: float
    max_steps: int
    num_train_epochs: float
    logging_steps: int
    save_steps: int
    save_total_limit: int | None
    dev_rows: int
    bf16: bool
    gradient_checkpointing: bool
    report_to: list[str]
    questions_per_video: int
    shared_prefix: str
    prefix_attention: str
    probe_longest: str
    max_bad_steps: int
    stages: list[dict[str, Any]] | None
    hf: dict[str, Any]

    def __post_init__(self) -> None:
        for key in ("per_device_train_batch_size", "gradient_accumulation_steps", "logging_steps", "save_steps"):
            at_least(f"trainer.{key}", getattr(self, key), 1)
        at_least("trainer.dev_rows", self.dev_rows, 0)
        at_least("trainer.questions_per_video", self.questions_per_video, 1)
        one_of("trainer.shared_prefix", self.shared_prefix, ("auto", "on", "off"))
        one_of("trainer.prefix_attention", self.prefix_attention, ("auto", "dense", "block", "split", "flex"))
        for name in self.report_to:
            one_of("trainer.report_to", name, TRACKERS)
        at_least("trainer.max_bad_steps", self.max_bad_steps, 1)
        one_of("trainer.probe_longest", self.probe_longest, ("auto", "on", "off"))
        for number, given in enumerate(self.stages or []):
            stage = {name: value for name, value in given.items() if name != "types"}
            types = given.get("types")
            if types is not None and not (isinstance(types, list) and types and all(isinstance(t, str) for t in types)):
                raise ConfigError(
                    f"trainer.stages[{number}].types={types}: a list of question types is needed",
                    hint="for example trainer.stages=[{types: [room_size_estimation]}, {max_steps: 100}]",
                )
            bad = sorted(set(stage) - (set(self.__dataclass_fields__) - {"name", "stages", "hf", "dev_rows"}))
            if bad:
                raise ConfigError(
                    f"trainer.stages[{number}].{bad[0]}: not a trainer option",
                    hint="a stage overrides trainer.* options, e.g. trainer.stages=[{max_steps: 10}, {max_steps: 20}]",
                )


@dataclass(frozen=True)
class GrpoSection(TrainerSection):
    """GRPO's own options (TRL's names)."""

    num_generations: int
    temperature: float
    top_p: float
    top_k: int
    beta: float
    epsilon: float
    num_iterations: int
    loss_type: str
    scale_rewards: str
    max_completion_length: int
    skip_zero_variance: bool
    log_gradient_correlation: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("trainer.num_generations", self.num_generations, 2)
        at_least("trainer.beta", self.beta, 0.0)
        at_least("trainer.max_completion_length", self.max_completion_length, 1)
        if self.temperature <= 0:
            raise ConfigError(
                f"trainer.temperature={self.temperature}: rollouts are sampled, it must be above 0",
                hint="set trainer.temperature=1",
            )
        one_of("trainer.scale_rewards", self.scale_rewards, ("group", "batch", "none"))


@dataclass(frozen=True)
class SftSection(TrainerSection):
    """SFT has no option of its own yet."""


@dataclass(frozen=True)
class DpoSection(TrainerSection):
    """DPO's own options (TRL's names)."""

    beta: float
    loss_type: str

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("trainer.loss_type", self.loss_type, ("sigmoid", "hinge", "ipo"))
        if not self.beta > 0:
            raise ConfigError(
                f"trainer.beta={self.beta}: DPO divides by the distance to the reference, it must be above 0",
                hint="set trainer.beta=0.1",
            )


SHARDED = ("zero3", "zero3_offload", "fsdp2")
"""Launch profiles whose processes hold parts of the weights."""
WHOLE = ("cpu", "gpu1", "ddp")
"""Launch profiles whose processes hold weights, gradients and optimizer state whole."""


@dataclass(frozen=True)
class LaunchSection:
    """How many processes, by which accelerate profile (configs/accelerate/PROFILE.yaml), how patient (seconds)."""

    profile: str
    num_processes: int
    num_machines: int
    machine_rank: int
    main_process_ip: str | None
    main_process_port: int | None
    accelerate_file: str | None
    device_memory_gb: float | None
    timeout_s: float
    save_timeout_s: float
    use_cpu: bool = False
    auto: bool = False

    def __post_init__(self) -> None:
        one_of("launch.profile", self.profile, (*WHOLE, "zero2", *SHARDED))
        if self.use_cpu and self.profile == "gpu1":
            raise ConfigError("launch.use_cpu=true: launch=gpu1 is one process on a GPU", hint="set launch=cpu")
        if self.accelerate_file is not None and self.profile in ("cpu", "gpu1"):
            raise ConfigError(
                f"launch.accelerate_file={self.accelerate_file}: launch={self.profile} starts no accelerate",
                hint="leave it null, or choose the launch profile that the file is of",
            )
        at_least("launch.timeout_s", self.timeout_s, 1)
        at_least("launch.save_timeout_s", self.save_timeout_s, 1)
        at_least("launch.num_processes", self.num_processes, 1)
        if self.device_memory_gb is not None and not self.device_memory_gb > 0:
            raise ConfigError(
                f"launch.device_memory_gb={self.device_memory_gb}: must be above 0", hint="leave it null: look it up"
            )
        at_least("launch.num_machines", self.num_machines, 1)
        if self.profile in ("cpu", "gpu1") and self.num_processes != 1:
            raise ConfigError(
                f"launch.num_processes={self.num_processes}: launch={self.profile} is one process",
                hint="choose launch=ddp, launch=zero2 or launch=zero3 for several",
            )
        if self.num_processes % self.num_machines:
            raise ConfigError(
                f"launch.num_processes={self.num_processes}: not a multiple of launch.num_machines={self.num_machines}",
                hint="set "
                + " or ".join(
                    f"launch.num_processes={n * self.num_machines}"
                    for n in (self.num_processes // self.num_machines, self.num_processes // self.num_machines + 1)
                    if n
                )
                + " (all machines together)",
            )

    @property
    def on_cpu(self) -> bool:
        """Whether its processes compute on CPUs: launch=cpu, or another profile with launch.use_cpu=true."""
        return self.use_cpu or self.profile == "cpu"


@dataclass(frozen=True)
class TrainConfig:
    """`vsgrpo train`."""

    run: RunSection
    model: ModelSection
    data: TrainDataSection
    video: VideoSection
    image: ImageSection
    prompt: PromptSection
    reward: RewardSection
    trainer: TrainerSection
    launch: LaunchSection

    def __post_init__(self) -> None:
        if self.run.method not in (None, self.trainer.name):
            raise ConfigError(
                f"experiment is for `train {self.run.method}`, got `train {self.trainer.name}`",
                hint=f"run `vsgrpo train {self.run.method} ...` or choose another experiment",
            )
        if not self.model.freeze_vision and self.launch.profile == "fsdp2":
            raise ConfigError(
                "model.freeze_vision=false: the tower is called outside the forward in which launch=fsdp2 gathers it",
                hint="set model.freeze_vision=true, or launch=zero2 or launch=zero3",
            )
        if not self.model.freeze_vision and self.launch.profile in SHARDED and self.video.on_bad == "skip":
            raise ConfigError(
                f"video.on_bad=skip: launch={self.launch.profile} shards the trained tower, and a process left without "
                "videos would not call it while the others wait",
                hint="set video.on_bad=error (`vsgrpo check-data` finds broken videos), or model.freeze_vision=true",
            )
        if self.trainer.probe_longest == "on" and self.launch.profile not in WHOLE:
            raise ConfigError(
                f"trainer.probe_longest=on: launch={self.launch.profile} reduces gradients inside a backward pass",
                hint="set trainer.probe_longest=auto; `--dry-run` estimates the memory",
            )
        if self.trainer.max_bad_steps > 1 and self.launch.profile.startswith("zero"):
            raise ConfigError(
                f"trainer.max_bad_steps={self.trainer.max_bad_steps}: launch={self.launch.profile} updates inside the "
                "backward pass, a bad step cannot be left out",
                hint="set trainer.max_bad_steps=1, or launch=ddp",
            )
        if self.model.merge_on_save and self.model.tune == "lora" and self.launch.profile in SHARDED:
            raise ConfigError(
                f"model.merge_on_save=true: launch={self.launch.profile} shards the weights, final/ is an adapter",
                hint="set model.merge_on_save=false, or launch=zero2",
            )

    def vision(self) -> dict[str, int]:
        """Return the vision budget by the names of `VisionBudget`, which vision.json records."""
        video, image = self.video, self.image
        return {
            "num_frames": video.num_frames,
            "min_pixels": video.min_pixels,
            "max_pixels": video.max_pixels,
            "image_min_pixels": image.min_pixels,
            "image_max_pixels": image.max_pixels,
        }

    def weight_dtype(self) -> str:
        """Return the type that weights are held in: model.dtype, or float32 where they are trained as they are.

        An update of 1e-6 is lost on a bfloat16 weight, which has 8 significant bits. ZeRO keeps a float32 copy of its
        own to update, and adapters are float32 whatever their base is.
        """
        master = self.model.tune == "full" and not self.launch.profile.startswith("zero")
        return "float32" if master else self.model.dtype

    def autocasts(self, section: TrainerSection) -> bool:
        """Return whether a stage computes in bfloat16 with weights held in float32, or under an engine's policy."""
        return section.bf16 or self.model.dtype != self.weight_dtype()

    def merges(self) -> bool:
        """Return whether final/ holds whole weights: as model.merge_on_save says, null: SFT and DPO do, GRPO does not.

        The former are starts for GRPO, whose reference is "adapter off". Sharded weights are saved as an adapter.
        """
        if self.model.merge_on_save is not None:
            return self.model.merge_on_save
        return self.trainer.name != "grpo" and self.launch.profile not in SHARDED

    def stage_sections(self) -> list[TrainerSection]:
        """Return the trainer section of each stage: `trainer.*` with the overrides of `trainer.stages[n]`."""
        overrides = [
            {name: value for name, value in stage.items() if name != "types"} for stage in self.trainer.stages or [{}]
        ]
        return [dataclasses.replace(self.trainer, stages=None, **values) for values in overrides]

    def reward_names(self) -> list[str]:
        """Return reward.names, or the default of the prompt mode (vanilla has no format reward)."""
        if self.reward.names is not None:
            return self.reward.names
        return ["accuracy"] if self.prompt.mode == "vanilla" else ["accuracy", "format"]
