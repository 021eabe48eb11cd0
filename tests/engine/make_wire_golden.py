"""Write what vLLM's own encoder makes of small features: `VSGRPO_VLLM_PYTHON tests/engine/make_wire_golden.py`.

The file is tests/engine/golden/wire_VERSION.json, one message for each kind, type and timing.
"""

import json
from pathlib import Path

import torch
import vllm
from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import encode_mm_kwargs_item
from vllm.multimodal.inputs import MultiModalFieldConfig as Field
from vllm.multimodal.inputs import MultiModalKwargsItem, MultiModalKwargsItems


def message(kind: str, dtype: str, seconds: float | None) -> str:
    """Encode arange(8) as 2 tokens of width 4, of a grid of 1 x 2 x 4 patches."""
    values = {
        f"{kind}_embeds": torch.arange(8.0).reshape(2, 4).to(getattr(torch, dtype)),
        f"{kind}_grid_thw": torch.tensor([[1, 2, 4]]),
    }
    fields = {
        f"{kind}_embeds": Field.flat_from_sizes(kind, torch.tensor([2])),
        f"{kind}_grid_thw": Field.batched(kind, keep_on_cpu=True),
    }
    if seconds is not None:
        values["second_per_grid_ts"] = torch.tensor([seconds])
        fields["second_per_grid_ts"] = Field.batched(kind, keep_on_cpu=True)
    item = MultiModalKwargsItems.from_hf_inputs(values, fields)[kind][0]
    # vLLM collects names in a set, so their order is another in each process; a reader takes any.
    return encode_mm_kwargs_item(MultiModalKwargsItem({name: item[name] for name in values}))


if __name__ == "__main__":
    version = vllm.__version__.partition("+")[0]
    asked = [("image", dtype, None) for dtype in ("float32", "bfloat16")]
    asked += [("video", dtype, seconds) for dtype in ("float32", "bfloat16", "float16") for seconds in (None, 0.3)]
    found = [{"kind": k, "dtype": d, "seconds": s, "message": message(k, d, s)} for k, d, s in asked]
    path = Path(__file__).parent / "golden" / f"wire_{version}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"vllm": version, "messages": found}, indent=1) + "\n")
