"""The registry of model families, and a family of one's own from one module (docs/extending.md)."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import lab
from vsgrpo import families
from vsgrpo.errors import ConfigError
from vsgrpo.families import BUILT, FAMILIES, budget_of, family_of, model_shape

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "rule", "hint"),
    [
        ("no_such_module:X", "importing 'no_such_module' failed (No module named 'no_such_module')", "set PYTHONPATH"),
        ("json:X", "'json' has no Family 'X'", "NAME = Family(...)"),
        ("json:dumps", "'json' has no Family 'dumps'", "NAME = Family(...)"),
        ("vsgrpo.families.qwen2_vl:QWEN_VL", "has no Family 'QWEN_VL'", "'vsgrpo.families.qwen2_vl:QWEN2_VL'?"),
    ],
)
def test_a_name_that_is_no_family_is_refused(monkeypatch, name, rule, hint):
    monkeypatch.setenv("VSGRPO_FAMILIES", name)
    with pytest.raises(ConfigError) as caught:
        list(families._added())
    assert caught.value.message.startswith(f"VSGRPO_FAMILIES={name}: ") and caught.value.message.endswith(rule)
    assert hint in caught.value.hint


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_a_path_tells_its_family_by_config_through_adapters_and_by_name(tmp_path, family):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps({"model_type": family.model_type}))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(tmp_path / "base")})
    )
    paths = [family.tiny, str(tmp_path / "base"), str(tmp_path / "adapter"), *family.hub]
    assert [family_of(path) for path in paths] == [family] * len(paths)
    assert all(re.fullmatch(family.published, name) for name in family.hub)
    assert family_of("someone/other") is None and model_shape("someone/other") is None


def test_another_architecture_has_no_family_and_no_sizes(tmp_path):
    for content in ('{"model_type": "qwen3_vl_moe"}', '{"model_type": []}', "[]", "{"):
        (tmp_path / "config.json").write_text(content)
        assert family_of(str(tmp_path)) is None and model_shape(str(tmp_path)) is None


def test_the_budget_takes_its_patches_from_the_family(monkeypatch):
    monkeypatch.setitem(BUILT, "tiny", replace(BUILT["tiny"], patch=16))
    assert budget_of("tiny", {"num_frames": 4}).factor == 32
    assert budget_of("tiny_2_5", {}).factor == budget_of(None, {}).factor == 28


@pytest.mark.integration
def test_a_family_of_ones_own_trains_and_is_evaluated(tmp_path):
    section = (ROOT / "docs/extending.md").read_text(encoding="utf-8").partition("## A model family\n")[2]
    (module,) = re.findall(r"```python\n# my_family.py\n(.*?)```", section, re.S)
    (commands,) = re.findall(r"```bash\n(.*?)```", section, re.S)
    (tmp_path / "my_family.py").write_text(module)
    program = tmp_path / "bin" / "vsgrpo"
    program.parent.mkdir()
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    program.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{path}" exec {sys.executable} {lab.__file__} "$@"\n')
    program.chmod(0o755)
    env = os.environ | {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    command = ["bash", "-ec", commands]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    final = tmp_path / "runs/own/final"
    config = json.loads((final / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("own_vl", ["OwnForConditionalGeneration"])
    assert "A Own-VL model for" in (final / "README.md").read_text()
    steps = [json.loads(line) for line in (tmp_path / "runs/own/log.jsonl").read_text().splitlines()]
    assert any("reward" in step for step in steps)
    with (tmp_path / "my_family.py").open("a") as stream:
        stream.write("# changed\n")
    train = next(line for line in commands.splitlines() if line.startswith("vsgrpo train"))
    again = [*command[:2], f"export PYTHONPATH=. VSGRPO_FAMILIES=my_family:OWN_VL; {train} --resume"]
    refused = subprocess.run(again, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and f"changed since it started: family {tmp_path}/my_family.py" in refused.stderr
    lines = (tmp_path / "runs/own/eval/predictions.jsonl").read_text().splitlines()
    assert lines and all(json.loads(line)["prediction"] is not None for line in lines)
