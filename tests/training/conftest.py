"""Fixtures of the training tests; see tiny_runs.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import SMALL, write_dataset


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos, twelve rows."""
    return write_dataset(tmp_path_factory.mktemp("rows"))


@pytest.fixture
def make_config(dataset_folder: Path, tiny_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """Return a function (method, *overrides) -> TrainConfig of a small run whose folder exists."""
    import torch

    from vsgrpo.config.compose import load_config

    torch.set_num_threads(1)

    def make(method: str, *overrides: str, name: str = "run") -> Any:
        run_dir = tmp_path / name
        run_dir.mkdir(exist_ok=True)
        given = [f"trainer={method}", f"data={dataset_folder}", f"output={run_dir}", *SMALL]
        groups = ["trainer.num_generations=4", "trainer.per_device_train_batch_size=8"]
        batch = groups if method == "grpo" else []
        batch += ["trainer.gradient_accumulation_steps=1", f"model.path={tiny_folder}"]
        return load_config("train", [*given, *batch, *overrides])

    return make
