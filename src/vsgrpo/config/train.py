"""`vsgrpo train`: types, units and rules of its sections. Values live in configs/train.yaml and its groups."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from vsgrpo.config.evaluate import (
    Frames,
    FrameTrue,
    ImageSection,
    ModelSection,
    Pixels,
    PromptSection,
    RunSection,
    ShowsMedia,
    VideoSection,
)
from vsgrpo.config.keys import typed_values
from vsgrpo.config.trainer import TrainerSection
from vsgrpo.devices import VisibleGpus, visible_gpus
from vsgrpo.errors import ConfigError, SetupError
from vsgrpo.rules import Count, Faults, Name, Section, Share, above, at_least, between, choice, not_empty, one_of


@dataclass(frozen=True)
class LoraSection(Section, key="model.lora"):
    """LoRA on the language model (PEFT's names)."""

    r: Count
    alpha: Count
    dropout: Share
    targets: list[
        Annotated[
            str,
            choice(
                *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
                *("in_proj_qkv", "in_proj_z", "out_proj"),
            ),
        ]
    ]

    def faults(self) -> Faults:
        if not self.targets:
            yield "model.lora.targets=[]: LoRA would train nothing", "set model.lora.targets=[q_proj]"


@dataclass(frozen=True)
class TrainModelSection(ModelSection):
    """The model to train: `path` is a folder, a hub id, or a model that is built here (`families.BUILT`)."""

    tune: Annotated[str, choice("lora", "full")]
    freeze_vision: bool
    merge_on_save: bool | None
    lora: LoraSection

    def faults(self) -> Faults:
        yield from super().faults()
        if self.tune == "lora" and not self.freeze_vision:
            what = "model.freeze_vision=false: LoRA trains the language model only, the tower stays frozen"
            yield what, "set model.freeze_vision=true, or model.tune=full"


MIX_EXAMPLE = "for example data=data/vsi100k data.mix='[{path: data/own, weight: 0.5}]'"


@dataclass(frozen=True)
class TrainDataSection(Section, key="data"):
    """Which rows to train on."""

    path: Name
    split: Annotated[str, choice("train", "dev")]
    types: list[str] | None
    limit: Count | None
    allow_val_safe: bool
    mix: list[dict[str, Any]] | None
    frame_true: FrameTrue

    def faults(self) -> Faults:
        yield from not_empty("data.types", self.types)
        for number, item in enumerate(self.mix or []):
            weight = item.get("weight", 1.0)
            if set(item) - {"path", "weight"} or not isinstance(item.get("path"), str):
                yield f"data.mix[{number}]={item}: each is {{path, weight}}", MIX_EXAMPLE
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
                yield f"data.mix[{number}].weight={weight}: must be above 0", MIX_EXAMPLE

    def folders(self) -> list[tuple[str, float]]:
        """Return (folder, weight) of all folders drawn from; data.path has weight 1 unless data.mix lists it too."""
        mix = {str(item["path"]): float(item.get("weight", 1.0)) for item in self.mix or []}
        return list({self.path: 1.0, **mix}.items())


@dataclass(frozen=True)
class TrainVideoSection(VideoSection):
    """How many frames and pixels the model sees, and how files are read (timeout in seconds)."""

    num_frames: Frames
    min_pixels: Pixels
    max_pixels: Pixels
    feature_cache: Annotated[str, choice("off", "memory", "disk")]
    on_bad: Annotated[str, choice("skip", "error")]
    max_quarantined: Share


@dataclass(frozen=True)
class TrainImageSection(ImageSection):
    """How many pixels of an image the model sees."""

    min_pixels: Pixels
    max_pixels: Pixels


@dataclass(frozen=True)
class RewardSection(Section, key="reward"):
    """Reward functions by name, their weights, and how numbers are rewarded."""

    names: list[Name] | None
    weights: list[Annotated[float, at_least(0)]] | None
    numeric: Annotated[str, choice("relative", "mra", "smooth")]
    allow_empty: bool
    length_words: Count

    def faults(self) -> Faults:
        if self.weights is not None and (self.names is None or len(self.weights) != len(self.names)):
            what = f"reward.weights={self.weights}: needs one number for each of reward.names={self.names}"
            yield what, "give both lists with equal length, or leave reward.weights=null"
        if self.weights is not None and not sum(self.weights) > 0:
            yield f"reward.weights={self.weights}: must sum to more than 0", "raise one weight"
        if self.names is not None and len({*self.names}) < len(self.names):
            what = f"reward.names={self.names}: one is in it twice"
            yield what, "name each once; reward.weights makes one count more"
        if self.names is not None and not self.names:
            yield "reward.names=[]: no reward, nothing to learn from", "set reward.names=[accuracy]"


PROFILES = ("cpu", "gpu1", "ddp", "zero2", "zero3", "zero3_offload", "fsdp2")
SHARDED = ("zero3", "zero3_offload", "fsdp2")
"""Profiles whose processes hold parts of the weights."""
WHOLE = ("cpu", "gpu1", "ddp")
"""Profiles whose processes hold weights, gradients and optimizer state whole."""
AUTO = "auto"
_LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_NTASKS")


@dataclass(frozen=True)
class LaunchSection(Section, key="launch"):
    """Processes, accelerate profile (configs/accelerate/PROFILE.yaml) and time limits (seconds)."""

    profile: Annotated[str, choice(*PROFILES)]
    num_processes: Count
    num_machines: Count
    machine_rank: Annotated[int, at_least(0)]
    main_process_ip: Name | None
    main_process_port: Annotated[int, between(1, 65535)] | None
    accelerate_file: Name | None
    device_memory_gb: Annotated[float, above(0, "leave it null: it is looked up")] | None
    timeout_s: Annotated[float, at_least(1)]
    save_timeout_s: Annotated[float, at_least(1)]
    use_cpu: bool = False
    auto: bool = False

    def faults(self) -> Faults:
        if self.use_cpu and self.profile == "gpu1":
            yield "launch.use_cpu=true: launch=gpu1 is one process on a GPU", "set launch=cpu"
        if self.accelerate_file is not None and self.profile in ("cpu", "gpu1"):
            what = f"launch.accelerate_file={self.accelerate_file}: launch={self.profile} starts no accelerate"
            yield what, "leave it null, or choose the launch profile that the file is of"
        if self.machine_rank >= self.num_machines:
            what = f"launch.num_machines={self.num_machines} machines are numbered from 0"
            way_out = f"set launch.machine_rank={self.num_machines - 1} or less, or launch.num_machines"
            yield f"launch.machine_rank={self.machine_rank}: {what}", way_out
        if self.profile in ("cpu", "gpu1") and self.num_processes != 1:
            what = f"launch.num_processes={self.num_processes}: launch={self.profile} is one process"
            yield what, "choose launch=ddp, launch=zero2 or launch=zero3 for several"
        if rest := self.num_processes % self.num_machines:
            near = (self.num_processes - rest, self.num_processes - rest + self.num_machines)
            ways = " or ".join(f"launch.num_processes={number}" for number in near if number)
            what = f"not a multiple of launch.num_machines={self.num_machines}"
            yield f"launch.num_processes={self.num_processes}: {what}", f"set {ways} (all machines together)"

    @property
    def on_cpu(self) -> bool:
        """Whether its processes compute on CPUs: launch=cpu, or another profile with launch.use_cpu=true."""
        return self.use_cpu or self.profile == "cpu"


@dataclass(frozen=True)
class TrainConfig(ShowsMedia, Section, key=""):
    """`vsgrpo train`."""

    run: RunSection
    model: TrainModelSection
    data: TrainDataSection
    video: TrainVideoSection
    image: TrainImageSection
    prompt: PromptSection
    reward: RewardSection
    trainer: TrainerSection
    launch: LaunchSection

    def faults(self) -> Faults:
        if self.run.method not in (None, self.trainer.name):
            what = f"experiment is for `train {self.run.method}`, got `train {self.trainer.name}`"
            yield what, f"run `vsgrpo train {self.run.method} ...` or choose another experiment"
        profile, trains_tower = self.launch.profile, not self.model.freeze_vision
        if trains_tower and profile == "fsdp2":
            what = "model.freeze_vision=false: the tower is called outside the forward in which launch=fsdp2 gathers it"
            yield what, "set model.freeze_vision=true, or launch=zero2 or launch=zero3"
        if trains_tower and profile in SHARDED and self.video.on_bad == "skip":
            what = "shards the trained tower, and a process left without videos would not call it while the others wait"
            way_out = "set video.on_bad=error (`vsgrpo check-data` finds broken videos), or model.freeze_vision=true"
            yield f"video.on_bad=skip: launch={profile} {what}", way_out
        if profile in SHARDED and any(getattr(s, "log_gradient_correlation", False) for s in self.stage_sections()):
            what = f"launch={profile} shards the weights, and processes measure other numbers of questions"
            yield f"trainer.log_gradient_correlation=true: {what}", "leave it out, or set launch=ddp or launch=zero2"
        if self.trainer.probe_longest == "on" and profile not in WHOLE:
            what = f"trainer.probe_longest=on: launch={profile} reduces gradients inside a backward pass"
            yield what, "set trainer.probe_longest=auto; `--dry-run` estimates the memory"
        if self.trainer.max_bad_steps > 1 and profile.startswith("zero"):
            what = f"launch={profile} updates inside the backward pass, a bad step cannot be left out"
            way_out = "set trainer.max_bad_steps=1, or launch=ddp"
            yield f"trainer.max_bad_steps={self.trainer.max_bad_steps}: {what}", way_out
        if self.model.merge_on_save and self.model.tune == "lora" and profile in SHARDED:
            what = f"model.merge_on_save=true: launch={profile} shards the weights, final/ is an adapter"
            yield what, "set model.merge_on_save=false, or launch=zero2"

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

    def token_layout(self, section: TrainerSection) -> str:
        """Return a stage's layout of log-probs and rollouts: "tree" (each shared prefix once) or "plain".

        `auto` takes the tree where the language model runs on sdpa, beside which the tree's kernels lie, and nothing is
        drawn per token in training (LoRA dropout): it computes never more tokens than plain, and its kernel is chosen
        by the work it does. `on` was checked before the model was loaded (`preflight.check_sharing`).
        """
        if section.shared_prefix != "auto":
            return "tree" if section.shared_prefix == "on" else "plain"
        drops = self.model.tune == "lora" and self.model.lora.dropout > 0
        return "tree" if self.model.attn_implementation == "sdpa" and not drops else "plain"

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

    def why_unused(self, key: str) -> tuple[str, str] | None:
        """Return why a key, or a section in a section, changes nothing in a run, and the way out; None if it acts."""
        section, _, name = key.partition(".")
        if key == "launch.auto":
            return "says how the profile was chosen", "choose it: launch=cpu, or launch=auto"
        if section == "reward" and self.trainer.name != "grpo":
            return f"`train {self.trainer.name}` has no rewards", f"leave {key} out, or run `train grpo`"
        if f"{key}.".startswith("model.lora.") and self.model.tune == "full":
            out = "set model.tune=lora model.freeze_vision=true too, or leave it out"
            return "model.tune=full trains the weights themselves, without LoRA", out
        stages = [stage.unused() for stage in self.stage_sections()] if section == "trainer" else []
        return stages[0][name] if stages and all(name in unused for unused in stages) else None

    def reward_names(self) -> list[str]:
        """Return reward.names, or the default of the prompt mode (vanilla has no format reward)."""
        if self.reward.names is not None:
            return self.reward.names
        return ["accuracy"] if self.prompt.mode == "vanilla" else ["accuracy", "format"]


def check_launcher_variables() -> None:
    """Raise SetupError where a variable by which launchers number their processes is no number."""
    for name in _LAUNCHERS:
        value = os.environ.get(name)
        if value is not None and not (value.isascii() and value.isdigit()):
            what = f"{name}={value}: launchers set it to a whole number"
            raise SetupError(what, hint=f"unset {name}, or start by a launcher")


def joins_launcher() -> bool:
    """Return whether another launcher (torchrun, accelerate, srun) has started this process as one of the workers."""
    return "LOCAL_RANK" in os.environ or _started() > 1


def _started() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def resolve_launch(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what launch=auto takes here: one process for each GPU, or one on the CPU; {} for every other profile.

    Several processes are `ddp`, whose processes hold all: what does not fit needs another profile by name. Under a
    launcher (torchrun, accelerate) the processes are those that it started.

    Args:
        given: values of the composed launch section, of any type.

    Raises:
        ConfigError: a value of the wrong type, more processes than GPUs are asked for, or more than one machine.
        SetupError: a launcher or Slurm started several processes, which auto does not count.
    """
    launch = typed_values(LaunchSection, {key: value for key, value in given.items() if value is not None}, "launch")
    profile = launch.get("profile", "null")
    one_of("launch.profile", profile, (AUTO, *PROFILES))
    if profile != AUTO:
        if launch.get("auto") and launch.get("num_processes") is None:
            what = f"launch.profile={profile}: the rest of launch=auto would stay"
            raise ConfigError(what, hint=f"choose all of it: launch={profile}")
        return {}
    machines = launch.get("num_machines", 1)
    if machines != 1:
        what = f"launch.num_machines={machines}: launch=auto counts the GPUs of one machine"
        way_out = "name the profile, and the processes of all machines: launch=zero2 launch.num_processes=N"
        raise ConfigError(what, way_out)
    seen, use_cpu = visible_gpus(), launch.get("use_cpu", False)
    number = _number(seen, launch.get("num_processes"), use_cpu)
    profile = "ddp" if number > 1 else "gpu1" if len(seen) > 0 and not use_cpu else "cpu"
    return {"profile": profile, "num_processes": number, "auto": True}


def _number(seen: VisibleGpus, asked: int | None, use_cpu: bool) -> int:
    """Return the number of processes."""
    started, joins = _started(), joins_launcher()
    if not joins and "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        tasks = os.environ["SLURM_NTASKS"]
        what = f"SLURM_NTASKS={tasks}: launch=auto is one task, which starts a process for each GPU of its machine"
        way_out = f"srun --ntasks=1, or launch=ddp launch.num_processes={tasks} with one task for each process"
        raise SetupError(what, way_out)
    if joins and asked not in (None, started):
        what = f"launch.num_processes={asked}: the launcher has started {started}"
        raise ConfigError(what, hint="leave launch.num_processes out")
    number = started if joins else asked if asked is not None else max(1, 0 if use_cpu else len(seen))
    if number < 1:
        what = f"launch.num_processes={number}: must be a number of at least 1"
        raise ConfigError(what, hint="leave it out: one per GPU")
    if use_cpu or number == 1:
        return number
    if not seen:
        what = f"launch.num_processes={number}: launch=auto takes one process for each GPU, and {seen.describe()}"
        raise SetupError(what, hint="add launch.use_cpu=true to train with several processes on CPUs")
    if not joins and number > len(seen):
        what = f"launch.num_processes={number}: {seen.describe()} visible, one process each"
        raise ConfigError(what, hint=f"set launch.num_processes={len(seen)}, or leave it null")
    return number
