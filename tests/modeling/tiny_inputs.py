"""Inputs that the tests of this folder share."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from vsgrpo.families import FAMILIES
from vsgrpo.modeling.bundle import ModelBundle
from vsgrpo.modeling.weights import load_full
from vsgrpo.video.budget import Medium
from vsgrpo.video.loader import VideoInputs


def make_video(seed: int, frames: int = 8, height: int = 56, width: int = 56, seconds: float = 1.7) -> VideoInputs:
    """Random frames; `seconds` per temporal patch."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (frames, 3, height, width), generator=generator, dtype=torch.uint8)
    grid = (frames // 2, height // 14, width // 14)
    return VideoInputs(f"video{seed}", pixels, Medium("video", grid, grid[0] * grid[1] * grid[2] // 4, seconds))


def make_image(seed: int, height: int = 56, width: int = 56) -> VideoInputs:
    generator = torch.Generator().manual_seed(1000 + seed)
    pixels = torch.randint(0, 256, (1, 3, height, width), generator=generator, dtype=torch.uint8)
    grid = (1, height // 14, width // 14)
    return VideoInputs(f"image{seed}", pixels, Medium("image", grid, grid[1] * grid[2] // 4))


def randomize_adapter(model: torch.nn.Module, seed: int = 1) -> None:
    """Give lora_B weights, as after some training: at its start an adapter changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def library_inputs(bundle: ModelBundle, token_ids: Sequence[int], video: VideoInputs) -> dict[str, torch.Tensor]:
    """Return what the family's own processor hands to the model: pixels, grid, kinds of tokens, and the timing."""
    ids = torch.tensor([list(token_ids)])
    timing = (
        {"second_per_grid_ts": torch.tensor([video.medium.seconds_per_patch])}
        if bundle.family.model_type == "qwen2_5_vl"
        else {}
    )
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == bundle.processor.video_token_id).int() * 2,
        **bundle.processor.video_processor(
            videos=[video.frames], do_sample_frames=False, do_resize=False, return_tensors="pt"
        ),
        **timing,
    }


def adapt(tiny_folder: Path, folder: Path, **options) -> torch.Tensor:
    """Save an adapter by PEFT alone, as others do; return the logits it gives."""
    family = json.loads((tiny_folder / "config.json").read_text())["model_type"]
    model = load_full(FAMILIES[family].model, tiny_folder, dtype=torch.float32)
    config = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **options}
    torch.manual_seed(3)
    peft = get_peft_model(model, LoraConfig(**config)).eval()
    with torch.no_grad():
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
        logits = peft(input_ids=torch.arange(8)[None]).logits
    peft.save_pretrained(folder)
    return logits
