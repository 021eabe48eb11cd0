"""Turn an adapter folder into a plain model folder that gives the same log-probabilities, or into nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsgrpo.data.manifest import lineage_of, write_training_manifest
from vsgrpo.errors import DataError
from vsgrpo.families import check_adapter, find_model

if TYPE_CHECKING:
    from torch import Tensor

PROBE = "How many chair(s) are in this room? Please answer the question using a single word or phrase."
ABSOLUTE, RELATIVE = 1e-3, 1e-4
"""How far log-probabilities may be apart in float32: the order of additions differs, nothing else."""


def merge_adapter(adapter: Path, output: Path, dtype: str = "float32") -> float:
    """Write base + adapter as a model folder that transformers loads alone, with vision.json, lineage and card.

    The sum is computed in float32, written, loaded from what was written, and compared with the adapter on a prompt
    with a picture. The folder appears complete, or not at all.

    Args:
        adapter: a saved adapter; adapters merged into its base before it was trained are found in it.
        output: the new folder.
        dtype: of the weights written; bfloat16 rounds the sum, after the comparison.

    Returns:
        the largest difference of a log-probability in float32.

    Raises:
        ConfigError: an architecture this project does not know.
        DataError: no adapter there, its base is missing or another one, weights are incomplete, `output` exists, or the
            merged model answers otherwise than the adapter.
    """
    check_adapter(str(adapter), adapter)
    find_model(str(adapter))
    if output.exists():
        raise DataError(f"output={output}: exists", hint="choose another output=DIR")
    # After the checks: these import torch.
    import torch

    from vsgrpo.modeling.load import load
    from vsgrpo.modeling.save import new_folder, recorded_vision, save_model

    recorded = recorded_vision(adapter)
    vision = None if recorded is None else recorded[0]
    bundle = load(adapter)
    expected = probe_logps(bundle)
    with new_folder(output) as partial:
        partial.mkdir()
        exact = partial / "float32"
        save_model(bundle, exact, merge=True, vision=vision)
        del bundle
        merged = load(exact)
        difference = _compared(expected, probe_logps(merged), adapter)
        if dtype == "float32":
            for path in exact.iterdir():
                path.rename(partial / path.name)
        else:
            merged.model.to(getattr(torch, dtype))
            save_model(merged, partial / dtype, merge=False, vision=vision)
            for path in (partial / dtype).iterdir():
                path.rename(partial / path.name)
            (partial / dtype).rmdir()
        shutil.rmtree(exact)
        load(partial, offline=True, device="meta")
        _describe(partial, adapter, output.name)
    return difference


def _describe(folder: Path, adapter: Path, name: str) -> None:
    """Write lineage and card of a merged model that will be called `name`."""
    from vsgrpo.modeling.model_card import write_model_card

    if (lineage := lineage_of(str(adapter))).base != "unknown" or lineage.parents:
        write_training_manifest(folder, lineage)
    run_dir = adapter.resolve().parent
    is_run = (run_dir / "config.yaml").is_file()
    write_model_card(folder, run_dir if is_run else None, of=adapter, name=name)


def probe_logps(bundle: Any) -> Tensor:
    """Return the log-probabilities (tokens, vocabulary) of a prompt with a picture under a model in float32."""
    import torch
    from PIL import Image

    picture = Image.linear_gradient("L").resize((84, 56)).convert("RGB")
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROBE}]}]
    text = bundle.processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    inputs = bundle.processor(text=[text], images=[picture], return_tensors="pt")
    with torch.inference_mode():
        return torch.log_softmax(bundle.model(**inputs).logits[0].float(), dim=-1)


def _compared(expected: Tensor, found: Tensor, adapter: Path) -> float:
    """Return the largest difference, or raise DataError where one is too large or no number."""
    differences = (found - expected).abs()
    # Not `>`: NaN compares false.
    if not bool((differences <= ABSOLUTE + RELATIVE * expected.abs()).all()):
        raise DataError(
            f"{adapter}: merged into its base it answers otherwise: a log-probability differs by "
            f"{float(differences.max()):.3g}; nothing was written",
            hint="use the adapter unmerged: model=ADAPTER works wherever a model is asked for",
        )
    return float(differences.max())
