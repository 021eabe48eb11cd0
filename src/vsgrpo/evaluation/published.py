"""The published rows that ours are put beside, in percent: arXiv 2504.00883 Table 2 (and Table 1 for other modes)."""

from __future__ import annotations

from vsgrpo.spatial.question_types import table_columns

_COLUMNS = ("Avg", "Count", "AbsDist", "ObjSize", "RoomSize", "RelDist", "RelDir", "Route", "Order")
"""The paper's columns, in the order of `_ROWS`."""
_ROWS = {
    "2b": {
        "vanilla": {
            "Qwen2-VL-2B": (23.3, 21.4, 3.4, 32.3, 31.1, 26.7, 27.7, 24.7, 18.9),
            "2B + SFT": (29.6, 29.6, 23.5, 47.4, 33.5, 26.9, 28.3, 28.8, 18.6),
            "2B + DPO": (23.9, 21.7, 3.7, 34.8, 32.4, 27.1, 28.5, 24.2, 18.6),
            "vsGRPO-2B": (35.4, 53.6, 29.0, 52.7, 43.4, 28.1, 30.9, 26.8, 18.9),
        },
        "think": {
            "Qwen2-VL-2B": (22.9, 18.4, 4.3, 31.5, 17.3, 28.3, 22.9, 26.2, 16.8),
            "2B + vsGRPO-T": (29.6, 35.0, 28.2, 34.7, 25.2, 28.0, 38.5, 28.5, 18.7),
        },
        "observe": {
            "Qwen2-VL-2B": (21.8, 16.8, 1.7, 32.7, 22.7, 28.8, 27.6, 26.2, 18.1),
            "2B + vsGRPO-O": (31.2, 34.6, 22.5, 44.8, 33.7, 29.4, 41.8, 26.8, 15.8),
        },
    },
    "7b": {
        "vanilla": {
            "Qwen2-VL-7B": (32.2, 39.4, 25.0, 25.8, 43.2, 32.6, 30.9, 27.8, 32.6),
            "7B + SFT": (38.1, 44.7, 27.6, 46.1, 50.4, 34.0, 35.7, 33.0, 33.4),
            "7B + DPO": (32.6, 39.1, 25.2, 26.5, 44.2, 32.6, 30.9, 29.3, 33.3),
            "vsGRPO-7B": (40.7, 59.9, 29.6, 50.8, 48.3, 35.4, 35.6, 34.0, 31.5),
        },
        "think": {"Qwen2-VL-7B": (31.3, 44.8, 26.1, 25.3, 23.4, 34.7, 30.9, 32.9, 31.5)},
        "observe": {"Qwen2-VL-7B": (32.0, 29.9, 19.0, 39.6, 32.0, 34.6, 40.0, 36.0, 24.4)},
    },
}
SIZES = tuple(_ROWS)
_HIDDEN_SIZES = {1536: "2b", 3584: "7b"}


def model_size(family: str, hidden_size: int) -> str | None:
    """Return which of the paper's models has this width: "2b", "7b", or None (as for every Qwen2.5-VL)."""
    return _HIDDEN_SIZES.get(hidden_size) if family == "qwen2_vl" else None


def published_lines(size: str | None, mode: str) -> list[tuple[str, dict[str, float]]]:
    """Return the paper's rows (0..1) for a model size and evaluation mode; none for a model the paper has not."""
    rows = _ROWS.get(size or "", {}).get(mode, {})
    names = [task for column in _COLUMNS for task, heading in table_columns().items() if heading == column]
    return [(name, {t: value / 100 for t, value in zip(names, row, strict=True)}) for name, row in rows.items()]
