"""Benchmark folders: row files, and mp4s for them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation_rows import write_vsibench


@pytest.fixture
def write_benchmark(tmp_path) -> Callable[..., Path]:
    """From rows to a file test.jsonl in a folder of its own."""

    def write(rows: list[dict], name: str = "test.jsonl") -> Path:
        path = tmp_path / "bench" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture(scope="session")
def benchmark_folder(tmp_path_factory) -> Path:
    """Three scenes of 8 random frames of 56 px, three questions each."""
    folder = tmp_path_factory.mktemp("vsibench")
    write_vsibench(folder)
    return folder
