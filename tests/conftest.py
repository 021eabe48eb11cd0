"""Fixtures for all rooms. Nothing heavy is imported here: each fixture imports what it needs when first used."""

import gc
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run: a change is judged by what it changed.
# `--hypothesis-profile default` hunts for new ones.
# How fast the machine is decides nothing.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")

# Media and hashes of test files are nothing to remember in the home of who runs the tests.
os.environ["XDG_CACHE_HOME"] = os.environ["VSGRPO_CACHE_DIR"] = tempfile.mkdtemp(prefix="vsgrpo-cache-")

# Set before anything imports torch: the models here are too small for threads to pay.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Collect no garbage while tests are imported: they bring a million objects that stay."""
    gc.disable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out, before it is imported, a file all of whose tests have a mark that `-m` excludes."""
    chosen = config.option.markexpr
    if " or " in chosen or not collection_path.match("test_*.py"):
        return None
    whole = re.search(r"^pytestmark = pytest\.mark\.(\w+)$", collection_path.read_text(encoding="utf-8"), re.M)
    return True if whole and f"not {whole[1]}" in chosen.split(" and ") else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Collect garbage from here on, seldom, and leave out what is there already."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
    gc.enable()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked `both_families` with a tiny model of each family.

    Two of them are among the integration tests: Qwen3.5, whose layers are the slowest on a CPU, and Qwen2.5-VL, whose
    language model is Qwen2-VL's.
    """
    if metafunc.definition.get_closest_marker("both_families") and "tiny_folder" in metafunc.fixturenames:
        from vsgrpo.families import FAMILIES

        slow = ("qwen2_5_vl", "qwen3_5")
        families = [pytest.param(name, marks=pytest.mark.integration if name in slow else ()) for name in FAMILIES]
        metafunc.parametrize("tiny_folder", families, indirect=True, scope="session")


@pytest.fixture(scope="session")
def tiny_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model (seed 0) with processor; built once per session, not to be written to.

    A Qwen2-VL, but for tests marked `both_families`.
    """
    from vsgrpo.modeling.tiny import build_tiny

    folder = tmp_path_factory.mktemp("tiny") / "model"
    build_tiny(folder, seed=0, family=getattr(request, "param", "qwen2_vl"))
    return folder


@pytest.fixture
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Return a function that makes the Python modules of a docs page importable.

    At the end of the test the modules, and the question types that they registered, are gone.
    """
    from vsgrpo.spatial.question_types import QUESTION_TYPES

    types, modules = dict(QUESTION_TYPES), set(sys.modules)

    def write(text: str) -> None:
        for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.S):
            (tmp_path / name).write_text(code)

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    QUESTION_TYPES.clear()
    QUESTION_TYPES.update(types)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def serve(tiny_folder: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that starts a `FakeServer` of the tiny model; all end with the test."""
    from fake_server import FakeServer

    started = []

    def start(**options: Any) -> FakeServer:
        started.append(FakeServer(options.pop("folder", tiny_folder), **options))
        return started[-1]

    yield start
    for server in started:
        if server.alive:
            server.stop()
