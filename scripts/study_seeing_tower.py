"""Towers for the small language model of `make study-seeing`: the demo model's, and one warmed up by what it must tell.

Legend: R rooms, P patches of a video, C categories, N features of a video, D width of the language model.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from vsgrpo.data.rows import read_rows
from vsgrpo.data.scene_files import scene_file
from vsgrpo.families import budget_of
from vsgrpo.modeling.bundle import ModelBundle, language_model, vision_tower
from vsgrpo.modeling.load import load
from vsgrpo.modeling.save import save_model
from vsgrpo.video.loader import VideoLoader

FRAMES = 8
ROOMS_A_STEP, RATE, WARMUP = 64, 2e-3, 30
"""Of the warm-up: rooms of a step, highest learning rate and the steps up to it; the rate and betas of `demo_sft`."""
SENTENCES = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "In the morning she opened the window, made some tea and read a book until noon.",
    "Water boils at one hundred degrees and freezes at zero.",
    "The children played in the garden while their parents talked about the weather.",
)
"""Plain text, to measure what is left of the language."""
QUESTIONS = ("What is the capital of France?", "Write one sentence about a chair.")


@dataclass
class Rooms:
    """Videos of a dataset and what they show.

    Attributes:
        pixels: (R, P, values) patches as the processor makes them.
        grid: (3,) of each video.
        counts: (R, C) objects by category.
        area: (R,) square metres.
    """

    pixels: Tensor
    grid: Tensor
    counts: Tensor
    area: Tensor

    def part(self, index: Tensor) -> Rooms:
        """Return some of the rooms."""
        return Rooms(self.pixels[index], self.grid, self.counts[index], self.area[index])


def read_rooms(bundle: ModelBundle, data: Path) -> Rooms:
    """Read the video and the scene of every room of a dataset folder."""
    rows = {row.scene_name: row for row in read_rows(data / "train.jsonl")}.values()
    files = [scene_file(row, data) for row in rows]
    scenes = [json.loads(file.read_text(encoding="utf-8")) for file in files if file is not None]
    names = sorted({name for scene in scenes for name in scene["object_counts"]})
    loader = VideoLoader(budget_of(bundle.base, {"num_frames": FRAMES}), "pyav")
    videos = [loader.load(next(place for kind, place, *_ in row.media_paths(data))).frames for row in rows]
    made = bundle.processor.video_processor(
        videos=videos, do_sample_frames=False, do_resize=False, cap_pixels_per_frame=False, return_tensors="pt"
    )
    return Rooms(
        made["pixel_values_videos"].unflatten(0, (len(videos), -1)),
        made["video_grid_thw"][0],
        torch.tensor([[float(scene["object_counts"].get(name, 0)) for name in names] for scene in scenes]),
        torch.tensor([float(scene["room_size"]) for scene in scenes]),
    )


def features(tower: nn.Module, rooms: Rooms) -> Tensor:
    """Return the (R, N, D) features of rooms, in one call of the tower."""
    grid = rooms.grid.expand(len(rooms.pixels), 3)
    return tower(rooms.pixels.flatten(0, 1), grid_thw=grid).pooler_output.unflatten(0, (len(rooms.pixels), -1))


class Readout(nn.Module):
    """What a room shows as a linear function of the mean of its features: presence and number by category, log area."""

    def __init__(self, width: int, num_categories: int, scale: float) -> None:
        super().__init__()
        self.linear, self.sizes, self.scale = nn.Linear(width, 2 * num_categories + 1), (num_categories,) * 2, scale

    def forward(self, found: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return presence logits (R, C), counts (R, C) and log area (R,) of features (R, N, D)."""
        presence, counts, area = self.linear(found.mean(1) / self.scale).split([*self.sizes, 1], 1)
        return presence, counts, area[:, 0]

    def loss(self, found: Tensor, rooms: Rooms) -> Tensor:
        """Return the presence loss, with counts and log area beside it, and what keeps features as large as words."""
        presence, counts, area = self(found)
        size = (found.pow(2).mean().sqrt() / self.scale).log().pow(2)
        told = binary_cross_entropy_with_logits(presence, (rooms.counts > 0).float())
        return told + mse_loss(counts, rooms.counts) + mse_loss(area, rooms.area.log()) + 0.1 * size


def warm_up(model: Path, data: Path, out: Path, *, steps: int, seed: int) -> dict[str, float]:
    """Train the tower of a model, without its language model, to show rooms linearly; save the model.

    Presence loss on features: a linear readout of the mean feature tells which categories a room holds, how many of
    each, and its area; so that a layer that attends to all visual tokens alike has the answer. A tenth of the rooms
    are left out, to tell what the readout knows of rooms it never saw. Before it the merger's last layer is scaled:
    features begin as large as words, of which they are to stand among. With no steps that is all.
    """
    start = time.process_time()
    bundle = load(model, tune="full", freeze_vision=False, seed=seed)
    tower = vision_tower(bundle.model)
    words = language_model(bundle.model).embed_tokens.weight
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rooms = read_rooms(bundle, data)
        order = torch.randperm(len(rooms.area))
        kept, own = rooms.part(order[: len(order) // 10]), rooms.part(order[len(order) // 10 :])
        readout = Readout(words.shape[1], rooms.counts.shape[1], float(words.detach().pow(2).mean().sqrt()))
        with torch.no_grad():
            factor = readout.scale / features(tower, kept).pow(2).mean().sqrt()
            for weight in tower.merger.mlp[2].parameters():
                weight.mul_(factor)
        trained = [*tower.parameters(), *readout.parameters()]
        optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
        end = max(steps, 1)
        slope = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / WARMUP, 1 - step / end))
        for _ in range(steps):
            batch = own.part(torch.randint(len(own.area), (ROOMS_A_STEP,)))
            readout.loss(features(tower, batch), batch).backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            slope.step()
    save_model(bundle, out, merge=False)
    told = {"scaled_by": round(float(factor), 3), "cpu_seconds": round(time.process_time() - start, 1)}
    if not steps:
        return told
    with torch.no_grad():
        presence, counts, area = readout(features(tower, kept))
    return {
        "presence": round(((presence > 0) == (kept.counts > 0)).float().mean().item(), 3),
        "presence_constant": round((kept.counts > 0).float().mean(0).sub(0.5).abs().add(0.5).mean().item(), 3),
        "counts_r2": explained(counts, kept.counts),
        "log_area_r2": explained(area, kept.area.log()),
        **told,
    }


def explained(found: Tensor, true: Tensor) -> float:
    """Return the share of the variance that is explained (R squared), columns pooled."""
    return round(1 - ((found - true).pow(2).sum() / (true - true.mean(0)).pow(2).sum()).item(), 3)


def new_part(name: str) -> bool:
    """Tell whether a weight is of the two layers of the merger."""
    return ".visual.merger.mlp." in name


def with_tower(model: Path, donor: Path, out: Path, *, seed: int) -> None:
    """Save a model whose vision tower is another model's, with a new merger into its own width."""
    bundle, other = load(model), load(donor)
    inner = bundle.model
    config = copy.deepcopy(inner.config)
    vision = other.model.config.vision_config.to_dict() | {"hidden_size": config.text_config.hidden_size}
    config.vision_config = type(config.vision_config)(**vision)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = type(inner)(config)
    weights = {name: w for name, w in inner.state_dict().items() if ".visual." not in name}
    weights |= {name: w for name, w in other.model.state_dict().items() if ".visual." in name and not new_part(name)}
    missing, unexpected = made.load_state_dict(weights, strict=False)
    if unexpected or not all(map(new_part, missing)):
        raise SystemExit(f"{donor}: its tower does not fit: {[*missing, *unexpected]}")
    made.generation_config = inner.generation_config
    bundle.model = made
    save_model(bundle, out, merge=False)


@torch.no_grad()
def speech(model: Path, sentences: Sequence[str] = SENTENCES) -> dict[str, object]:
    """Return what is left of the language: nats per token of plain text, and greedy replies to plain questions."""
    bundle = load(model, dtype="bfloat16")
    bundle.model.eval()
    nats, count, replies = 0.0, 0, []
    for sentence in sentences:
        ids = torch.tensor([bundle.tokenizer(sentence)["input_ids"]])
        nats += bundle.model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    for question in QUESTIONS:
        text = bundle.render([{"role": "user", "content": [{"type": "text", "text": question}]}])
        ids = torch.tensor([bundle.tokenizer(text)["input_ids"]])
        made = bundle.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24)
        replies.append(bundle.answers([made[0, ids.shape[1] :].tolist()])[0])
    return {"nats": round(nats / count, 3), "replies": replies}
