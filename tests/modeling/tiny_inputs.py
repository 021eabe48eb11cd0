"""Inputs that the tests of this folder share."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from token_positions import token_positions
from vsgrpo.families import FAMILIES
from vsgrpo.modeling.bundle import ModelBundle
from vsgrpo.modeling.weights import load_full
from vsgrpo.video.budget import Medium
from vsgrpo.video.loader import VideoInputs

QWEN3 = ("qwen3_vl", "qwen3_5")
"""Families whose prompts write the times of frames, without a system turn of the template's own."""
PATCH = {"side": 14}
"""Pixels on the side of a patch of the family that a test runs with (`conftest.patch_side`)."""


class MadeInputs(VideoInputs):
    """Random frames, made when they are asked for, of patches of the family that the test runs with."""

    def __init__(self, key: str, medium: Medium, seed: int = 0, frames: torch.Tensor | None = None) -> None:
        vars(self).update(key=key, medium=medium, seed=seed, given=frames)

    @property
    def frames(self) -> torch.Tensor:
        if self.given is not None:
            return self.given
        (patches, rows, columns), is_image = self.medium.grid_thw, self.medium.kind == "image"
        size = (1 if is_image else 2 * patches, 3, rows * PATCH["side"], columns * PATCH["side"])
        return torch.randint(0, 256, size, generator=torch.Generator().manual_seed(self.seed), dtype=torch.uint8)


def make_video(seed: int, frames: int = 8, height: int = 56, width: int = 56, seconds: float = 1.7) -> VideoInputs:
    """Make a video: size in pixels for patches of 14, `seconds` per temporal patch."""
    grid = (frames // 2, height // 14, width // 14)
    times = tuple(seconds * (patch + 0.25) for patch in range(grid[0]))
    medium = Medium("video", grid, grid[0] * grid[1] * grid[2] // 4, seconds, times)
    return MadeInputs(f"video{seed}", medium, seed)


def make_image(seed: int, height: int = 56, width: int = 56) -> VideoInputs:
    grid = (1, height // 14, width // 14)
    medium = Medium("image", grid, grid[1] * grid[2] // 4)
    return MadeInputs(f"image{seed}", medium, 1000 + seed)


def width_of(bundle: ModelBundle) -> int:
    """Return the numbers that a tiny tower makes of a token: the width 96, with two levels of deepstack 3 x 96."""
    return 288 if bundle.family.model_type == "qwen3_vl" else 96


def randomize_adapter(model: torch.nn.Module, seed: int = 1) -> None:
    """Give lora_B weights, as after some training: at its start an adapter changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def library_inputs(bundle: ModelBundle, token_ids: Sequence[int], video: VideoInputs) -> dict[str, torch.Tensor]:
    """Return what the family's own processor hands to the model: pixels, grid, kinds of tokens, and the timing.

    By `published`, which transformers has no longer, positions too.
    """
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
        **published_positions(bundle, token_ids, [video]),
    }


def published_positions(
    bundle: ModelBundle, token_ids: Sequence[int], media: Sequence[VideoInputs]
) -> dict[str, torch.Tensor]:
    """Return `position_ids` (3, 1, L) for a stock model where the bundle goes by `published`, else nothing."""
    if bundle.text_after_video == "library" or not bundle.family.has_text_rules:
        return {}
    pads = (bundle.processor.image_token_id, bundle.processor.video_token_id)
    shown = [(item.medium.grid_thw, item.medium.seconds_per_patch) for item in media]
    per_second = 2 if bundle.family.model_type == "qwen2_5_vl" else None
    return {"position_ids": token_positions(token_ids, pads, shown, "published", per_second)[:, None]}


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
