"""Sizes of a Qwen2-VL or Qwen2.5-VL from its config.json, and how many parameters they make. Plain Python.

Legend: H width of the language model, I its MLP, K width of its keys (grouped queries), E width of the tower.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsgrpo.records import adapter_base

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear layers of one block of the language model, by the names that model.lora.targets uses."""


@dataclass(frozen=True)
class TowerShape:
    """Vision tower; `gated` is Qwen2.5-VL's (RMSNorm, gated MLP with bias), the other has LayerNorm and fc1, fc2."""

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

    @property
    def patch_values(self) -> int:
        """Numbers of one patch: channels x temporal patch x patch x patch."""
        return self.channels * self.temporal_patch * self.patch**2

    def num_parameters(self) -> int:
        """Count the tower with its merger."""
        width, norm = self.width, self.width * (1 if self.gated else 2)
        attention = width * 3 * width + 3 * width + width * width + width
        mlp = (3 if self.gated else 2) * width * self.mlp + (2 if self.gated else 1) * self.mlp + width
        merged = width * self.merge**2
        merger = norm + merged * merged + merged + merged * self.out + self.out
        return self.patch_values * width + self.depth * (2 * norm + attention + mlp) + merger


@dataclass(frozen=True)
class ModelShape:
    """Language model and tower."""

    vocab: int
    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    tied: bool
    tower: TowerShape

    @property
    def query_width(self) -> int:
        return self.heads * self.head_width

    @property
    def kv_width(self) -> int:
        """Numbers of one token's keys in one layer (its values have as many)."""
        return self.kv_heads * self.head_width

    def linear(self, name: str) -> tuple[int, int]:
        """Return (inputs, outputs) of one linear layer of a block."""
        hidden, mlp, query, keys = self.hidden, self.mlp, self.query_width, self.kv_width
        sizes = ((hidden, query), (hidden, keys), (hidden, keys), (query, hidden), (hidden, mlp), (hidden, mlp))
        return (*sizes, (mlp, hidden))[LINEAR_LAYERS.index(name)]

    def layer_parameters(self) -> int:
        """Count one block: linear layers, biases of queries, keys and values, two norms."""
        linear = sum(a * b for a, b in (self.linear(name) for name in LINEAR_LAYERS))
        return linear + self.query_width + 2 * self.kv_width + 2 * self.hidden

    def language_parameters(self) -> int:
        """Count the language model with its embedding and head (one matrix where they are tied)."""
        tables = self.vocab * self.hidden * (1 if self.tied else 2)
        return tables + self.layers * self.layer_parameters() + self.hidden

    def num_parameters(self) -> int:
        """Count the whole model."""
        return self.language_parameters() + self.tower.num_parameters()

    def lora_parameters(self, r: int, targets: list[str]) -> int:
        """Count an adapter of rank r: (inputs + outputs) * r for each target of each layer."""
        known = [self.linear(name) for name in targets if name in LINEAR_LAYERS]
        return self.layers * r * sum(a + b for a, b in known)


_QWEN2_TOWER = {"depth": 32, "width": 1280, "heads": 16, "mlp": 5120, "gated": False}
_QWEN25_TOWER = {"depth": 32, "width": 1280, "heads": 16, "mlp": 3420, "gated": True}
HUB: dict[str, ModelShape] = {
    "Qwen/Qwen2-VL-2B-Instruct": ModelShape(
        151936, 1536, 8960, 28, 12, 2, 128, True, TowerShape(**_QWEN2_TOWER, out=1536)
    ),
    "Qwen/Qwen2-VL-7B-Instruct": ModelShape(
        152064, 3584, 18944, 28, 28, 4, 128, False, TowerShape(**_QWEN2_TOWER, out=3584)
    ),
    "Qwen/Qwen2.5-VL-3B-Instruct": ModelShape(
        151936, 2048, 11008, 36, 16, 2, 128, True, TowerShape(**_QWEN25_TOWER, out=2048)
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": ModelShape(
        152064, 3584, 18944, 28, 28, 4, 128, False, TowerShape(**_QWEN25_TOWER, out=3584)
    ),
}
"""Sizes of the models in configs/model, from their config.json files, so that nobody asks a hub for an estimate."""
TINY: dict[str, ModelShape] = {
    "tiny": ModelShape(826, 96, 256, 2, 4, 2, 24, False, TowerShape(1, 64, 4, 256, 96, False)),
    "tiny_2_5": ModelShape(826, 96, 256, 2, 4, 2, 24, False, TowerShape(2, 64, 4, 128, 96, True)),
}
"""The defaults of modeling/tiny.py."""


def model_shape(path: str) -> ModelShape | None:
    """Return the shape of model.path (folder of a model or adapter, hub id, a tiny one), None where it is not known."""
    if path in TINY:
        return TINY[path]
    folder = Path(path)
    for _ in range(8):  # an adapter may start from an adapter
        if (folder / "config.json").is_file():
            try:
                return shape_of(json.loads((folder / "config.json").read_text(encoding="utf-8")))
            except (ValueError, KeyError, TypeError):
                return None
        if (base := adapter_base(folder)) is None:
            break
        folder = Path(base)
    return HUB.get(str(folder))


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """Read the sizes off a config.json, with the text values at its top (older files) or under text_config.

    Raises:
        KeyError: a size is missing.
    """
    text: Mapping[str, Any] = config.get("text_config") or config
    vision: Mapping[str, Any] = config["vision_config"]
    gated = "embed_dim" not in vision
    width = int(vision["hidden_size"] if gated else vision["embed_dim"])
    mlp = int(vision["intermediate_size"]) if gated else int(width * vision.get("mlp_ratio", 4))
    heads, hidden = int(text["num_attention_heads"]), int(text["hidden_size"])
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))
    tower = TowerShape(
        depth=int(vision["depth"]),
        width=width,
        heads=int(vision["num_heads"]),
        mlp=mlp,
        out=int(vision["out_hidden_size"] if gated else vision["hidden_size"]),
        gated=gated,
        patch=int(vision.get("patch_size", 14)),
        temporal_patch=int(vision.get("temporal_patch_size", 2)),
        merge=int(vision.get("spatial_merge_size", 2)),
        channels=int(vision.get("in_channels", vision.get("in_chans", 3))),
    )
    return ModelShape(
        vocab=int(text["vocab_size"]),
        hidden=hidden,
        mlp=int(text["intermediate_size"]),
        layers=int(text["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(text["num_key_value_heads"]),
        head_width=int(text.get("head_dim") or hidden // heads),
        tied=bool(config.get("tie_word_embeddings", tied)),
        tower=tower,
    )
