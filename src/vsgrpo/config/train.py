"""`vsgrpo train`: types, units and rules of its sections. Values live in configs/train.yaml and its groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

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
from vsgrpo.config.launching import SHARDED, WHOLE, LaunchSection
from vsgrpo.config.reward import RewardSection
from vsgrpo.config.rollout import RolloutSection
from vsgrpo.config.trainer import GrpoSection, TrainerSection
from vsgrpo.rules import Count, Faults, Name, Section, Share, choice, not_empty
from vsgrpo.spatial.question_types import types_named


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


TREE_TOKENS = 640
"""`trainer.max_completion_length` up to which `shared_prefix=auto` draws in the tree (`scripts/bench_decode.py`)."""
MIX_EXAMPLE = "for example data=data/vsi100k data.mix='[{path: data/own, weight: 0.5, cap: 10000}]'"


class MixSource(NamedTuple):
    """A folder that rows are drawn from, its part of the mix, and the most rows that it may give."""

    path: str
    weight: float
    cap: int | None


@dataclass(frozen=True)
class TrainDataSection(Section, key="data"):
    """Which rows to train on."""

    path: Name
    split: Annotated[str, choice("train", "dev", "train_pairs", "dev_pairs")]
    types: list[str] | None
    limit: Count | None
    allow_val_safe: bool
    keep_out: list[Name]
    mix: list[dict[str, Any]] | None
    frame_true: FrameTrue

    def faults(self) -> Faults:
        yield from not_empty("data.types", self.types)
        for number, item in enumerate(self.mix or []):
            weight, cap = item.get("weight", 1.0), item.get("cap")
            if set(item) - {"path", "weight", "cap"} or not isinstance(item.get("path"), str):
                yield f"data.mix[{number}]={item}: each is {{path, weight, cap}}", MIX_EXAMPLE
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
                yield f"data.mix[{number}].weight={weight}: must be above 0", MIX_EXAMPLE
            if cap is not None and (type(cap) is not int or cap < 1):
                yield f"data.mix[{number}].cap={cap}: must be a whole number of rows, at least 1", MIX_EXAMPLE

    @property
    def kept_types(self) -> tuple[str, ...] | None:
        """The names of types that are trained on, families as their types; None: all."""
        return None if self.types is None else types_named(self.types)

    def sources(self) -> list[MixSource]:
        """Return all folders drawn from; data.path has weight 1 and no cap unless data.mix lists it too."""
        found = {self.path: MixSource(self.path, 1.0, None)}
        for item in self.mix or []:
            path = str(item["path"])
            found[path] = MixSource(path, float(item.get("weight", 1.0)), item.get("cap"))
        return list(found.values())


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
    rollout: RolloutSection
    launch: LaunchSection

    def faults(self) -> Faults:
        if self.run.method not in (None, self.trainer.name):
            what = f"experiment is for `train {self.run.method}`, got `train {self.trainer.name}`"
            yield what, f"run `vsgrpo train {self.run.method} ...` or choose another experiment"
        longest = [s.max_completion_length for s in self.stage_sections() if isinstance(s, GrpoSection)]
        if "overlong" in (self.reward.names or ()) and longest and self.reward.overlong_tokens >= min(longest):
            what = f"reward.overlong_tokens={self.reward.overlong_tokens}: must be below trainer.max_completion_length"
            yield f"{what}={min(longest)}, else every completion is punished", "lower it, or allow longer completions"
        if "token_range" in (self.reward.names or ()) and longest and self.reward.token_range[0] > min(longest):
            what = f"reward.token_range={self.reward.token_range}: begins above trainer.max_completion_length"
            yield f"{what}={min(longest)}, no completion can earn it", "lower it, or allow longer completions"
        yield from self.reward.schedule_faults(self.reward_names())
        if self.video.num_frames < 4 and any(getattr(s, "temporal_generations", 0) for s in self.stage_sections()):
            what = (
                f"video.num_frames={self.video.num_frames}: one pair of frames, trainer.temporal_generations shuffles"
            )
            yield f"{what} pairs", "set video.num_frames=4 or more, or trainer.temporal_generations=0"
        profile, trains_tower = self.launch.profile, not self.model.freeze_vision
        rates = {rate for section in self.stage_sections() if (rate := section.vision_learning_rate) is not None}
        if rates and not trains_tower:
            what = "model.freeze_vision=true: the vision tower and its merger are not trained"
            way_out = "set model.tune=full model.freeze_vision=false, or leave trainer.vision_learning_rate out"
            yield f"trainer.vision_learning_rate={max(rates):g}: {what}", way_out
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
        if profile == "fsdp2" and self.uses_servers():
            what = "rollout.engine=vllm: launch=fsdp2 has no whole weights that could be sent to a server"
            yield what, "set launch=ddp, launch=zero2 or launch=zero3, or rollout.engine=own"
        for section in self.stage_sections():
            if self.rollout_engine(section) == "vllm":
                yield from self.rollout.faults_of(section, self.model.tune)

    def rollout_engine(self, section: TrainerSection) -> str:
        """Return what draws the completions of a stage: "own" or "vllm"; "own" where a method draws none."""
        return self.rollout.engine_of(section) if isinstance(section, GrpoSection) else "own"

    def uses_servers(self) -> bool:
        """Return whether completions of any stage are drawn by servers."""
        return any(self.rollout_engine(section) == "vllm" for section in self.stage_sections())

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
        by the work it does. `on` was checked before the model was loaded (`stage_checks`).
        """
        if section.shared_prefix != "auto":
            return "tree" if section.shared_prefix == "on" else "plain"
        drops = self.model.tune == "lora" and self.model.lora.dropout > 0
        return "tree" if self.model.attn_implementation == "sdpa" and not drops else "plain"

    def drawing_layout(self, section: TrainerSection) -> str:
        """Return a stage's layout of rollouts: that of log-probs, but plain rows where `auto` may draw long ones.

        A step of the tree meets the tokens of all completions of its video under a mask, one of plain rows its own
        only. Keyed sampling draws the same tokens in both. The bound is measured (docs/fast_step.md).
        """
        length = section.max_completion_length if isinstance(section, GrpoSection) else 0
        if section.shared_prefix == "auto" and length > TREE_TOKENS:
            return "plain"
        return self.token_layout(section)

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
        if section in ("reward", "rollout") and self.trainer.name != "grpo":
            what = "rewards" if section == "reward" else "rollouts"
            return f"`train {self.trainer.name}` has no {what}", f"leave {key} out, or run `train grpo`"
        if f"{key}.".startswith("rollout.vllm.") and all(
            self.rollout_engine(s) == "own" for s in self.stage_sections()
        ):
            return "no completion is drawn by a server", f"set rollout.engine=vllm too, or leave {key} out"
        if f"{key}.".startswith("model.lora.") and self.model.tune == "full":
            out = "set model.tune=lora model.freeze_vision=true too, or leave it out"
            return "model.tune=full trains the weights themselves, without LoRA", out
        stages = [stage.unused() for stage in self.stage_sections()] if section == "trainer" else []
        return stages[0][name] if stages and all(name in unused for unused in stages) else None

    def uses_privileged(self) -> bool:
        """Return whether a teacher of any stage reads the boxes of scenes."""
        return any(isinstance(section, GrpoSection) and section.gpd_weight > 0 for section in self.stage_sections())

    def reward_weights(self, section: TrainerSection) -> list[float] | None:
        """Return the weights of a stage's rewards, that of T-GRPO's bonus last; None: all 1."""
        if not isinstance(section, GrpoSection) or not section.temporal_generations:
            return self.reward.weights
        return [*(self.reward.weights or [1.0] * len(self.reward_names())), section.temporal_bonus]

    def reward_names(self) -> list[str]:
        """Return reward.names, or the default of the prompt mode (vanilla has no format reward)."""
        if self.reward.names is not None:
            return self.reward.names
        return ["accuracy"] if self.prompt.mode == "vanilla" else ["accuracy", "format"]
