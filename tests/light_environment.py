"""An environment of its own that has some of the installed packages and truly lacks all others.

Its site-packages are links to what is installed here, so it costs no download and a second; `vsgrpo` is the checkout,
with the requirements that pyproject.toml states now.
"""

import os
import re
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LIGHT_FILE = ROOT / "requirements-light.txt"


def plain(name):
    """Return a package's name as indexes compare them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def light_lines():
    """Return the lines of requirements-light.txt that name a package."""
    lines = LIGHT_FILE.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def with_dependencies(names):
    """Return the names and everything that they require here, as pip would install it."""
    found, left = set(), [plain(name) for name in names]
    while left:
        if (name := left.pop()) in found:
            continue
        found.add(name)
        for line in distribution(name).requires or ():
            asked = Requirement(line)
            if asked.marker is None or asked.marker.evaluate({"extra": ""}):
                left.append(plain(asked.name))
    return found


def make_environment(folder, names, *, checkout=True):
    """Make a venv whose packages are `names`, and the checkout unless a wheel is to come; return its Python."""
    venv.create(folder, with_pip=False)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for name in names:
        here = distribution(name)
        for top in {file.parts[0] for file in here.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(here.locate_file(top))
    if checkout:
        _link_checkout(site)
    return folder / "bin" / "python"


def _link_checkout(site):
    (site / "vsgrpo.pth").write_text(f"{ROOT / 'src'}\n")
    info = site / f"vsgrpo-{PROJECT['version']}.dist-info"
    info.mkdir()
    asked = [f"Requires-Dist: {line}" for line in PROJECT["dependencies"]]
    head = ["Metadata-Version: 2.1", "Name: vsgrpo", f"Version: {PROJECT['version']}"]
    (info / "METADATA").write_text("\n".join([*head, *asked]) + "\n")


def all_but(*hidden):
    """Return every package that is installed here but these, the checkout and its test tools."""
    names = {plain(item.metadata["Name"]) for item in distributions()}
    return names - {plain(name) for name in hidden} - {"vsgrpo"}


def run(python, *words, cwd):
    """Run `vsgrpo WORDS` in an environment and return what came of it."""
    cleared = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), "-m", "vsgrpo.cli", *words]
    return subprocess.run(command, cwd=cwd, env=cleared, capture_output=True, text=True, timeout=300)
