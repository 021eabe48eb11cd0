"""The records of a model family: what differs between families, and the sizes of a model. No torch at import.

Legend: H width of the language model, I its MLP, K width of its keys (grouped queries), E width of the tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vsgrpo.errors import DataError
from vsgrpo.families.delta import DELTA_LAYERS, DeltaShape, delta_shape

if TYPE_CHECKING:
    from torch import Tensor

    from vsgrpo.video.budget import Medium

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear layers of one block of the language model, by the names that model.lora.targets uses: attention, then MLP."""
COMPUTING_VALUES: Mapping[str, Sequence[str]] = {
    "": ("model_type", "image_token_id", "video_token_id", "vision_start_token_id", "tie_word_embeddings"),
    "text_config": (
        *("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "hidden_act"),
        *("rope_parameters", "use_sliding_window", "sliding_window", "max_window_layers"),
    ),
    "vision_config": (
        *("depth", "num_heads", "hidden_act", "patch_size", "spatial_merge_size", "temporal_patch_size"),
        *("window_size", "fullatt_block_indexes", "tokens_per_second", "rope_parameters"),
    ),
}
"""Values of config.json, by section, that change what a model computes and show in no shape of a tensor. base.json of
every adapter records their hash, so the list of a family never changes."""

TINY_VOCABULARY = 826
"""Tokens that the tokenizer of `modeling.tiny` has at its default size."""


@dataclass(frozen=True)
class TowerShape:
    """Sizes of a vision tower.

    `gated`: RMSNorm and a gated MLP with bias; otherwise LayerNorm, fc1 and fc2. `patch_bias`: the patch embedding has
    a bias. `grid`: learned positions. `deepstack`: mergers beside the last one.
    """

    depth: int
    width: int
    heads: int
    mlp: int
    out: int
    gated: bool
    patch: int = 14
    temporal_patch: int = 2
    merge: int = 2
    channels: int = 3
    patch_bias: bool = False
    grid: int = 0
    deepstack: int = 0

    @property
    def patch_values(self) -> int:
        """Numbers of one patch: channels x temporal patch x patch x patch."""
        return self.channels * self.temporal_patch * self.patch**2

    def num_parameters(self) -> int:
        """Count the tower with its mergers."""
        width, norm = self.width, self.width * (1 if self.gated else 2)
        attention = width * 3 * width + 3 * width + width * width + width
        mlp = (3 if self.gated else 2) * width * self.mlp + (2 if self.gated else 1) * self.mlp + width
        merged = width * self.merge**2
        merger = merged * merged + merged + merged * self.out + self.out
        mergers = norm + merger + self.deepstack * (2 * merged + merger)  # those of deepstack normalise merged patches
        embedding = (self.patch_values + self.patch_bias + self.grid) * width
        return embedding + self.depth * (2 * norm + attention + mlp) + mergers


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a language model and its tower.

    `qkv_bias`: queries, keys and values have biases. `qk_norm`: each head's queries and keys are normalised. `delta`:
    some blocks have no attention; in the others queries come with a gate as wide as they.
    """

    vocab: int
    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    tied: bool
    tower: TowerShape
    qkv_bias: bool = True
    qk_norm: bool = False
    delta: DeltaShape | None = None

    @property
    def attention_layers(self) -> int:
        return self.layers - (self.delta.layers if self.delta else 0)

    @property
    def query_width(self) -> int:
        return self.heads * self.head_width

    @property
    def feature_width(self) -> int:
        """Numbers that the tower makes of one token: one per level and per number of the hidden state."""
        return self.hidden * (1 + self.tower.deepstack)

    @property
    def kv_width(self) -> int:
        """Numbers of one token's keys in one layer (its values have as many)."""
        return self.kv_heads * self.head_width

    def linear(self, name: str) -> tuple[int, int]:
        """Return (inputs, outputs) of one linear layer of a block.

        Raises:
            KeyError: no block has a layer of that name.
        """
        hidden, mlp, query, keys = self.hidden, self.mlp, self.query_width, self.kv_width
        sizes = [(hidden, 2 * query if self.delta else query), (hidden, keys), (hidden, keys), (query, hidden)]
        found: dict[str, tuple[int, int]] = dict(
            zip(LINEAR_LAYERS, [*sizes, (hidden, mlp), (hidden, mlp), (mlp, hidden)], strict=True)
        )
        if self.delta:
            mixed, value = self.delta.mixed_width, self.delta.value_width
            found |= zip(DELTA_LAYERS, [(hidden, mixed), (hidden, value), (value, hidden)], strict=True)
        return found[name]

    def layer_parameters(self) -> int:
        """Count one block with attention: linear layers, biases of queries, keys and values, norms."""
        linear = sum(a * b for a, b in (self.linear(name) for name in LINEAR_LAYERS))
        biases = self.query_width + 2 * self.kv_width if self.qkv_bias else 0
        return linear + biases + 2 * self.hidden + (2 * self.head_width if self.qk_norm else 0)

    def language_parameters(self) -> int:
        """Count the language model with its embedding and head (one matrix where they are tied)."""
        tables = self.vocab * self.hidden * (1 if self.tied else 2)
        blocks = self.attention_layers * self.layer_parameters()
        if self.delta:
            blocks += self.delta.layers * (self.delta.num_parameters(self.hidden) + 3 * self.hidden * self.mlp)
            blocks += self.delta.layers * 2 * self.hidden
        return tables + blocks + self.hidden

    def num_parameters(self) -> int:
        """Count the whole model."""
        return self.language_parameters() + self.tower.num_parameters()

    def lora_parameters(self, r: int, targets: list[str]) -> int:
        """Count an adapter of rank r: (inputs + outputs) * r for each target of each layer."""
        counts = (self.attention_layers,) * 4 + (self.layers,) * 3
        layers: dict[str, int] = dict(zip(LINEAR_LAYERS, counts, strict=True))
        if self.delta:
            layers |= dict.fromkeys(DELTA_LAYERS, self.delta.layers)
        return sum(layers[name] * r * sum(self.linear(name)) for name in targets if name in layers)


@dataclass(frozen=True)
class TinySizes:
    """Sizes of a tiny model; the defaults are the ones the demo learns with."""

    vision_depth: int = 1
    """Blocks of the tower that attend to whole frames."""
    vision_width: int = 64
    vision_heads: int = 4
    num_layers: int = 2
    hidden_size: int = 96
    num_heads: int = 4
    num_kv_heads: int = 2
    intermediate_size: int = 256
    initializer_range: float = 0.08
    """The usual 0.02 stalls at this width."""
    vocab_size: int = 1024
    """Upper bound of the learned part of the vocabulary, special tokens apart."""

    def text_config(self) -> dict[str, Any]:
        """Return the sizes of the language model by the names of `text_config`."""
        return {
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "initializer_range": self.initializer_range,
        }


def qwen2_processors() -> tuple[Any, Any]:
    """Return the image and the video processor of the Qwen2 families."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    return Qwen2VLImageProcessor(), Qwen2VLVideoProcessor(cap_pixels_per_frame=False)


def pooled_features(output: Any) -> list[Tensor]:
    """Return the merger's (N, D) features of each video."""
    return list(output.pooler_output)


def pooled_output(features: Tensor, width: int) -> Any:
    """Return (N, D) features as what a tower gives a model."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return BaseModelOutputWithPooling(pooler_output=(features,))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Family:
    """One model family: all that differs between families.

    Attributes:
        model_type: `model_type` in config.json.
        label: name in messages and on model cards; hub ids of the family contain it.
        classes: returns transformers' model and processor class. Called only where a model is loaded, so that it may
            import transformers.
        tower: reads the sizes of the tower off the `vision_config` of a config.json.
        tiny: value of model.path that stands for a tiny model of this family, built on first use.
        tiny_tower: returns the `vision_config` of the tiny model.
        tiny_text: returns values of the tiny model's `text_config` beside its sizes, or in their place.
        rope: M-RoPE of the published weights: how the 64 frequencies of a head are split over time, rows and columns.
        processors: returns the image and the video processor of the published weights.
        added_tokens: of the published tokenizer that are not special, and so may stand in a text.
        default_system: the published chat template adds a system turn by itself.
        template_options: of the published chat template, given wherever a prompt is rendered.
        hub: sizes of published models by hub id, so that an estimate needs no download.
        published: pattern of the hub ids of the publisher's own models, whose lineage needs no manifest.
        needs_timing: the model uses the time of frames, so every video must state its frame rate.
        video_text: returns the text that stands for a video in a prompt, with one placeholder per temporal patch; None:
            the template's one placeholder.
        time_tokens: tokens of that text per temporal patch beside the placeholders, at most.
        features: returns what a tower's output holds of each video, (N, D) or wider: all that the model takes.
        encoder_output: the way back: features (N, D or wider) and the width D to what `mm_encoder_outputs` takes.
        qkv_bias, qk_norm: see `ModelShape`.
        seconds_argument: argument of `get_rope_index` for the seconds of one temporal patch of each video; None:
            positions do not depend on time.
        has_text_rules: a video may reach farther in time than in rows and columns, so that `model.text_after_video`
            matters (see `vision_record`); False where each frame is placed by itself.
        not_served: why completions cannot be drawn by a vLLM server; empty where they can.
        patch, merge, temporal_patch: pixels on the side of a patch, patches on the side of a token, frames of a patch.
        computing_values: see `COMPUTING_VALUES`.
    """

    model_type: str
    label: str
    classes: Callable[[], tuple[Any, Any]]
    tower: Callable[[Mapping[str, Any]], TowerShape]
    tiny: str
    tiny_tower: Callable[[TinySizes], dict[str, Any]]
    tiny_text: Callable[[TinySizes], dict[str, Any]] = lambda sizes: {}
    rope: Mapping[str, Any] = field(default_factory=lambda: {"mrope_section": [16, 24, 24]})
    processors: Callable[[], tuple[Any, Any]] = qwen2_processors
    added_tokens: tuple[str, ...] = ()
    default_system: bool = True
    template_options: Mapping[str, Any] = field(default_factory=dict)
    hub: Mapping[str, ModelShape] = field(default_factory=dict)
    published: str = ""
    needs_timing: bool = False
    seconds_argument: str | None = None
    video_text: Callable[[Medium], str] | None = None
    time_tokens: int = 0
    features: Callable[[Any], list[Tensor]] = pooled_features
    encoder_output: Callable[[Tensor, int], Any] = pooled_output
    qkv_bias: bool = True
    qk_norm: bool = False
    has_text_rules: bool = True
    not_served: str = ""
    patch: int = 14
    merge: int = 2
    temporal_patch: int = 2
    computing_values: Mapping[str, Sequence[str]] = field(default_factory=lambda: COMPUTING_VALUES)

    @property
    def timed_label(self) -> str | None:
        """The label, for messages, where every video must state its frame rate; else None."""
        return self.label if self.needs_timing else None

    def untimed(self) -> DataError:
        """Return the error of a video without times, which this family needs."""
        return DataError(
            f"a video's file states no frame rate, which {self.label} needs",
            hint="write the file anew with one, e.g. ffmpeg -r 24 -i IN OUT.mp4",
        )

    def written(self, medium: Medium) -> str:
        """Return the text that stands for a medium in a prompt, "" where it is the template's placeholder alone."""
        return self.video_text(medium) if self.video_text is not None and medium.kind == "video" else ""

    @property
    def model(self) -> Any:
        """The `...ForConditionalGeneration` class."""
        return self.classes()[0]

    @property
    def processor(self) -> Any:
        """The processor class."""
        return self.classes()[1]

    def shape_of(self, config: Mapping[str, Any]) -> ModelShape:
        """Read the sizes off a config.json, with the text values at its top (older files) or under text_config.

        Raises:
            KeyError: a size is missing.
        """
        text: Mapping[str, Any] = config.get("text_config") or config
        heads, hidden = int(text["num_attention_heads"]), int(text["hidden_size"])
        tied = text.get("tie_word_embeddings", False)
        return ModelShape(
            vocab=int(text["vocab_size"]),
            hidden=hidden,
            mlp=int(text["intermediate_size"]),
            layers=int(text["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(text["num_key_value_heads"]),
            head_width=int(text.get("head_dim") or hidden // heads),
            tied=bool(config.get("tie_word_embeddings", tied)),
            tower=self.tower(config["vision_config"]),
            qkv_bias=self.qkv_bias,
            qk_norm=self.qk_norm,
            delta=delta_shape(text),
        )

    def tiny_shape(self) -> ModelShape:
        """Return the sizes of the tiny model."""
        sizes = TinySizes()
        text = {**sizes.text_config(), **self.tiny_text(sizes), "vocab_size": TINY_VOCABULARY + len(self.added_tokens)}
        return self.shape_of({"text_config": text, "vision_config": self.tiny_tower(sizes)})


def tower_shape(vision: Mapping[str, Any], *, width: int, mlp: int, out: int, gated: bool, **others: Any) -> TowerShape:
    """Return the sizes of a tower: those given, and those that `vision_config` names alike in all families."""
    return TowerShape(
        depth=int(vision["depth"]),
        width=width,
        heads=int(vision["num_heads"]),
        mlp=mlp,
        out=out,
        gated=gated,
        patch=int(vision.get("patch_size", 14)),
        temporal_patch=int(vision.get("temporal_patch_size", 2)),
        merge=int(vision.get("spatial_merge_size", 2)),
        channels=int(vision.get("in_channels", vision.get("in_chans", 3))),
        **others,
    )
