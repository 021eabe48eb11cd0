"""`vsgrpo train`: types, units and rules of its sections. Values live in configs/train.yaml and its groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import vsgrpo.config.ranges as ranges
from vsgrpo.config.installed import check_attention
from vsgrpo.config.rules import check_values, not_empty
from vsgrpo.config.shared import PromptSection, RunSection, check_pixels
from vsgrpo.config.trainer import TrainerSection
from vsgrpo.errors import ConfigError


@dataclass(frozen=True)
class LoraSection:
    """LoRA on the language model (PEFT's names)."""

    r: int
    alpha: int
    dropout: float
    targets: list[str]

    def __post_init__(self) -> None:
        check_values(self, "model.lora", ranges.LORA)
        if not self.targets:
            raise ConfigError("model.lora.targets=[]: LoRA would train nothing", hint="set model.lora.targets=[q_proj]")


@dataclass(frozen=True)
class ModelSection:
    """The model to train: `path` is a folder, a hub id, or a tiny model (`families.TINY`)."""

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
        check_values(self, "model", ranges.MODEL)
        check_attention(self.attn_implementation)
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
        check_values(self, "data", ranges.TRAIN_DATA)
        not_empty("data.types", self.types)
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
        check_values(self, "video", ranges.VIDEO)
        check_pixels("video", self.min_pixels, self.max_pixels)


@dataclass(frozen=True)
class ImageSection:
    """How many pixels of an image the model sees."""

    min_pixels: int
    max_pixels: int

    def __post_init__(self) -> None:
        check_values(self, "image", ranges.IMAGE)
        check_pixels("image", self.min_pixels, self.max_pixels)


@dataclass(frozen=True)
class RewardSection:
    """Reward functions by name, their weights, and how numbers are rewarded."""

    names: list[str] | None
    weights: list[float] | None
    numeric: str
    allow_empty: bool
    length_words: int

    def __post_init__(self) -> None:
        check_values(self, "reward", ranges.REWARD)
        if self.weights is not None and (self.names is None or len(self.weights) != len(self.names)):
            raise ConfigError(
                f"reward.weights={self.weights}: needs one number for each of reward.names={self.names}",
                hint="give both lists with equal length, or leave reward.weights=null",
            )
        if self.weights is not None and not sum(self.weights) > 0:
            raise ConfigError(f"reward.weights={self.weights}: must sum to more than 0", hint="raise one weight")
        if self.names is not None and len({*self.names}) < len(self.names):
            raise ConfigError(
                f"reward.names={self.names}: one is in it twice",
                hint="name each once; reward.weights makes one count more",
            )
        if self.names is not None and not self.names:
            raise ConfigError("reward.names=[]: no reward, nothing to learn from", hint="set reward.names=[accuracy]")


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
        check_values(self, "launch", ranges.LAUNCH)
        if self.use_cpu and self.profile == "gpu1":
            raise ConfigError("launch.use_cpu=true: launch=gpu1 is one process on a GPU", hint="set launch=cpu")
        if self.accelerate_file is not None and self.profile in ("cpu", "gpu1"):
            raise ConfigError(
                f"launch.accelerate_file={self.accelerate_file}: launch={self.profile} starts no accelerate",
                hint="leave it null, or choose the launch profile that the file is of",
            )
        if self.machine_rank >= self.num_machines:
            raise ConfigError(
                f"launch.machine_rank={self.machine_rank}: launch.num_machines={self.num_machines} machines are "
                "numbered from 0",
                hint=f"set launch.machine_rank={self.num_machines - 1} or less, or launch.num_machines",
            )
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
        return [self.trainer.stage(number) for number in range(self.trainer.num_stages)]

    def reward_names(self) -> list[str]:
        """Return reward.names, or the default of the prompt mode (vanilla has no format reward)."""
        if self.reward.names is not None:
            return self.reward.names
        return ["accuracy"] if self.prompt.mode == "vanilla" else ["accuracy", "format"]
