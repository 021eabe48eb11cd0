"""The formats that rows can be exported to, one record each."""

from __future__ import annotations

from vsgrpo.data.exporting import datasets, frameworks
from vsgrpo.data.exporting.record import ExportFormat

FORMATS: dict[str, ExportFormat] = {
    "llamafactory": frameworks.LLAMAFACTORY,
    "swift": frameworks.SWIFT,
    "verl": frameworks.VERL,
    "easyr1": frameworks.EASYR1,
    "video-r1": frameworks.VIDEO_R1,
    "vsibench": datasets.VSIBENCH,
    "vlm3r": datasets.VLM3R,
    "vsi100k": datasets.VSI100K,
}
"""Name on the command line -> format."""
