"""The wheel holds all that is not Python, and works from a venv of its own (slow: `make test-all`)."""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from light_environment import light_lines, make_environment, with_dependencies

ROOT = Path(__file__).parents[1]
DATA = {".yaml", ".toml", ".txt", ".tsv", ".html"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy of what git tracks."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git checkout")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(out), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "hatchling" in result.stderr:
        pytest.skip("the build backend (hatchling) cannot be fetched here")
    assert result.returncode == 0, result.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def own_venv(wheel, tmp_path_factory):
    """Install the wheel into a venv that finds the dependencies of this one, but not its editable install."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "-q", str(wheel)]
    subprocess.run([*command, "--ignore-installed"], check=True, timeout=300)
    return folder


def test_the_wheel_holds_configs_tables_templates_and_types(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, inside in (("configs", "vsgrpo/configs"), ("src/vsgrpo", "vsgrpo")):
        files = [path for path in (ROOT / folder).rglob("*") if path.suffix in DATA]
        assert files
        assert {f"{inside}/{path.relative_to(ROOT / folder).as_posix()}" for path in files} <= names
    assert "vsgrpo/py.typed" in names
    assert not [name for name in names if name.startswith("tests")]


def test_the_installed_command_works_without_the_checkout(own_venv, tmp_path):
    def vsgrpo(*words):
        command = [str(own_venv / "bin" / "vsgrpo"), *words]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        return result.stdout

    where = [str(own_venv / "bin" / "python"), "-c", "import vsgrpo; print(vsgrpo.__file__)"]
    assert subprocess.run(where, cwd=tmp_path, capture_output=True, text=True).stdout.startswith(str(own_venv))
    assert "build-data" in vsgrpo("--help")
    assert "vsgrpo_2b_v" in vsgrpo("configs")
    assert "num_generations: 14" in vsgrpo("train", "grpo", "experiment=vsgrpo_2b_v", "--dry-run")
    vsgrpo("build-data", "experiment=demo_data", "source.num_scenes=2", "output=data")
    assert (tmp_path / "data/report.html").is_file()


def test_the_wheel_without_dependencies_works_on_the_light_list(wheel, tmp_path):
    names = with_dependencies(Requirement(line).name for line in light_lines())
    python = make_environment(tmp_path / "venv", names, checkout=False)
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "-q", str(wheel)]
    subprocess.run(install, check=True, timeout=300)
    for words in (["build-data", "source=demo", "source.num_scenes=2", "output=data"], ["check-data", "data"]):
        command = [str(python.parent / "vsgrpo"), *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
