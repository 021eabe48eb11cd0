"""`vsgrpo eval`: types, units and rules of its sections. Values live in configs/eval.yaml.

A model that is loaded, shown media and asked is what other commands have too: `train` extends the sections on model,
video and image and takes `run` and `prompt` as they are; the steps of `build-cot` ask endpoints as `extract` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Annotated, Any

from vsgrpo.config.servers import EvalServersSection
from vsgrpo.devices import bfloat16_speedup
from vsgrpo.errors import ConfigError
from vsgrpo.rules import Count, Faults, Name, Section, Seed, above, at_least, choice, not_empty, up_to
from vsgrpo.trackers import WITH_TABLES

Pixels = Annotated[int, at_least(28 * 28)]
"""At least one token of the language model."""
Frames = Annotated[int, at_least(2)]
FrameTrue = Annotated[str, choice("drop", "off")]


@dataclass(frozen=True)
class RunSection(Section, key="run"):
    """Name, output folder and seed of a run."""

    dir: Name
    name: str | None
    seed: Seed
    method: str | None


@dataclass(frozen=True)
class ModelSection(Section, key="model"):
    """The model to load: `path` is a folder, a hub id, or a model that is built here (`families.BUILT`)."""

    path: Name
    adapter: Name | None
    dtype: Annotated[str, choice("float32", "bfloat16", "auto")]
    attn_implementation: Annotated[str, choice("sdpa", "eager", "flash_attention_2")]
    text_after_video: Annotated[str, choice("published", "library")] | None
    offline: bool
    dtype_auto: bool = field(default=False, kw_only=True)

    def dtype_note(self) -> str:
        """Return what model.dtype=auto took, to follow a line on the device; "" where the type was named."""
        return f"; model.dtype=auto took {self.dtype}" if self.dtype_auto else ""

    def faults(self) -> Faults:
        if self.attn_implementation == "flash_attention_2" and find_spec("flash_attn") is None:
            what = f"model.attn_implementation={self.attn_implementation}: the library flash_attn is not installed"
            yield what, "set model.attn_implementation=sdpa, or install flash_attn"


BFLOAT16_PAYS = 2.0
"""Times by which a CPU must be faster at matrix products in bfloat16: the rest of a step is slower in it. Ours."""


def resolve_dtype(given: Mapping[str, Any], on_cpu: bool) -> dict[str, Any]:
    """Return what model.dtype=auto takes here: bfloat16 where it pays on this CPU, else float32; {} for other values.

    Args:
        given: values of the composed model section, of any type.
        on_cpu: whether the model runs on a CPU.

    Raises:
        SetupError: the CPU cannot be measured.
    """
    if given.get("dtype") != "auto":
        return {}
    pays = on_cpu and bfloat16_speedup() >= BFLOAT16_PAYS
    return {"dtype": "bfloat16" if pays else "float32", "dtype_auto": True}


@dataclass(frozen=True)
class PixelBounds(Section):
    """Bounds of the pixels of an image or frame; None means: as the model's vision.json says."""

    min_pixels: Pixels | None
    max_pixels: Pixels | None

    def faults(self) -> Faults:
        low, high, key = self.min_pixels, self.max_pixels, self.section_key
        if low is not None and high is not None and high < low:
            what = f"{key}.max_pixels={high}: below {key}.min_pixels={low}"
            yield what, f"set {key}.max_pixels={low} or more, or lower {key}.min_pixels"


@dataclass(frozen=True)
class ImageSection(PixelBounds, key="image"):
    """Pixels of an image; None means: as the model's vision.json says."""


@dataclass(frozen=True)
class VideoSection(PixelBounds, key="video"):
    """How many frames and pixels of a video the model sees, and how files are read (timeout in seconds)."""

    num_frames: Frames | None
    backend: Annotated[str, choice("pyav", "decord", "torchcodec")]
    frame_cache: Annotated[str, choice("off", "memory", "disk")]
    cache_dir: Name | None
    timeout_s: Annotated[float, above(0, "seconds; null: no limit")] | None


class ShowsMedia:
    """A command whose model is shown videos and images."""

    video: VideoSection
    image: ImageSection

    def vision(self) -> dict[str, Any]:
        """Return the vision budget by the names of `VisionBudget`, which vision.json records."""
        return {
            "num_frames": self.video.num_frames,
            "min_pixels": self.video.min_pixels,
            "max_pixels": self.video.max_pixels,
            "image_min_pixels": self.image.min_pixels,
            "image_max_pixels": self.image.max_pixels,
        }


@dataclass(frozen=True)
class PromptSection(Section, key="prompt"):
    """The sentence after the question, whether options are shown, system turn, prompts of one's own."""

    mode: Annotated[str, choice("vanilla", "think", "observe")]
    wording: Annotated[str, choice("train", "eval")]
    show_options: bool
    system: str | None
    vision_marks: Annotated[str, choice("published", "library")] | None
    template: str | None = None
    suffix: str | None = None


@dataclass(frozen=True)
class StepSection(Section):
    """One step's endpoint: address, limits (time-out in seconds), sampling, prices per million tokens."""

    base_url: Name | None
    model: Name | None
    api_key_env: Name | None
    stream: bool
    concurrency: Count
    requests_per_minute: Count | None
    tokens_per_minute: Count | None
    timeout_s: Annotated[float, at_least(0.1)]
    max_retries: Annotated[int, at_least(0)]
    temperature: Annotated[float, at_least(0)]
    top_p: Annotated[float, up_to(1)]
    max_tokens: Count
    expected_tokens: Count
    price_prompt: Annotated[float, at_least(0)] | None
    price_completion: Annotated[float, at_least(0)] | None

    def check(self, prefix: str) -> None:
        """Raise ConfigError for a value that breaks its rule; `prefix` is the step's section."""
        self.check_rules(prefix)
        if (self.price_prompt is None) != (self.price_completion is None):
            prices = ["null" if price is None else f"{price:g}" for price in (self.price_prompt, self.price_completion)]
            what = f"{prefix}.price_prompt={prices[0]} price_completion={prices[1]}"
            raise ConfigError(f"{what}: one price without the other gives no cost", hint="set both, or neither")


@dataclass(frozen=True)
class EvalVideoSection(VideoSection):
    """Vision budget of an evaluation; None means: as the model's vision.json says."""

    shuffle: bool


@dataclass(frozen=True)
class DecodingSection(Section, key="decoding"):
    """Greedy at temperature 0, else `num_samples` keyed samples per question."""

    temperature: Annotated[float, at_least(0)]
    num_samples: Count
    max_new_tokens: Count
    batch_size: Count
    layout: Annotated[str, choice("tree", "plain")]
    think_below: Annotated[float, up_to(1, "a probability; null: all questions are asked once")] | None
    engine: Annotated[str, choice("own", "vllm")]
    vllm: EvalServersSection

    def faults(self) -> Faults:
        if self.temperature == 0 and self.num_samples > 1:
            what = f"decoding.num_samples={self.num_samples}: greedy decoding gives one answer"
            yield what, "set decoding.temperature=1 too, or decoding.num_samples=1"
        if self.think_below is not None and self.temperature > 0:
            what = f"decoding.think_below={self.think_below:g}: looks at the likeliest answer"
            yield f"{what}, decoding.temperature={self.temperature:g} samples", "set decoding.temperature=0"


@dataclass(frozen=True)
class BenchmarkSection(Section, key="benchmark"):
    """The rows to score on: vsibench (or a dataset folder), mathvista, or folder (any jsonl of questions)."""

    name: Name
    path: Name
    split: Annotated[str, choice("test", "train", "dev", "train_pairs", "dev_pairs")]
    tasks: list[str] | None
    subset: Annotated[str, choice("full", "debiased", "pruned")]
    harness: Name
    limit: Count | None

    def faults(self) -> Faults:
        yield from not_empty("benchmark.tasks", self.tasks)


@dataclass(frozen=True)
class EvalDataSection(Section, key="data"):
    """What becomes of rows that are not true for the frames shown."""

    frame_true: FrameTrue


@dataclass(frozen=True)
class TrustSection(Section, key="trust"):
    """The trust report: arms that see less, what text alone answers, lamps about the training rows."""

    report: bool
    train: Name | None


@dataclass(frozen=True)
class EvalConfig(ShowsMedia, Section, key=""):
    """`vsgrpo eval`."""

    run: RunSection
    model: ModelSection
    benchmark: BenchmarkSection
    data: EvalDataSection
    video: EvalVideoSection
    image: ImageSection
    prompt: PromptSection
    decoding: DecodingSection
    controls: list[Annotated[str, choice("blind", "blank", "black", "timing", "first_frame", "shuffled")]]
    trust: TrustSection
    scorer: Annotated[str, choice("official", "lmms", "lenient")]
    report_to: list[Annotated[str, choice(*WITH_TABLES)]]
    extract: StepSection

    def faults(self) -> Faults:
        self.extract.check("extract")
        if (
            self.decoding.engine == "own"
            and self.decoding.layout == "tree"
            and self.model.attn_implementation != "sdpa"
        ):
            what = f"model.attn_implementation={self.model.attn_implementation}: a shared video prefix needs sdpa"
            yield what, "set decoding.layout=plain"
        if self.decoding.think_below is not None and self.prompt.mode != "think":
            what = f"decoding.think_below={self.decoding.think_below:g}: prompt.mode={self.prompt.mode} never thinks"
            yield what, "set prompt.mode=think: it answers without a thought first"
        if (self.extract.base_url is None) != (self.extract.model is None):
            what = f"extract.base_url={self.extract.base_url} extract.model={self.extract.model}: one without the other"
            yield what, "set both, or neither (answers are then extracted by rule)"
        if self.trust.report and self.video.shuffle:
            what = "trust.report=true video.shuffle=true: the report compares the videos with those of other scenes"
            yield what, "leave video.shuffle out: trust=true answers shuffled videos too"
        if self.extract.model is not None and self.benchmark.name != "mathvista":
            what = f"extract.model={self.extract.model}: only benchmark=mathvista has answers extracted by a model"
            yield what, "leave extract.model=null"

    def why_unused(self, key: str) -> tuple[str, str] | None:
        """Return why a key changes nothing in an evaluation, and the way out; None where it acts."""
        if key in ("prompt.template", "prompt.suffix") and self.benchmark.name == "mathvista":
            return "benchmark=mathvista asks as its authors do", f"leave {key} out"
        if key == "benchmark.subset" and self.benchmark.name != "vsibench":
            return f"benchmark={self.benchmark.name} has no subsets", f"leave {key} out"
        if key == "scorer" and self.benchmark.name == "vsibench" and self.benchmark.harness == "easi":
            return "benchmark.harness=easi quotes VLMEvalKit's reading; the others are printed too", "leave scorer out"
        if key == "data.frame_true" and self.trust.report:
            return (
                "trust.report=true: all rows are answered, those true for the frames are a set of the report",
                f"leave {key} out",
            )
        if key == "trust.train" and not self.trust.report:
            return "trust.report=false: no trust report is written", f"set trust=true too, or leave {key} out"
        served = self.decoding.engine == "vllm"
        if key in ("decoding.batch_size", "decoding.layout") and served:
            return "decoding.engine=vllm: servers batch by themselves", f"leave {key} out"
        if key.startswith("decoding.vllm.") and not served:
            return "decoding.engine=own: no server is asked", f"set decoding.engine=vllm too, or leave {key} out"
        if key.startswith("extract.") and self.extract.model is None and key != "extract.base_url":
            out = f"set extract.base_url and extract.model too, or leave {key} out"
            return "extract.model=null: answers are extracted by rule, no endpoint is asked", out
        return None
