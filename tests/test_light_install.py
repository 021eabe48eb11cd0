"""The light install: its list is what the code needs, its commands run, the others say what is missing."""

import ast
import contextlib
import json
import shutil
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from light_environment import PROJECT, ROOT, all_but, light_lines, make_environment, plain, run, with_dependencies
from vsgrpo.cli import run as whole_install
from vsgrpo.packages import FEATURES, NEEDS, explain_missing, heavy_packages

BROUGHT = {"safetensors", "tokenizers", "httpx2"}
"""Come with transformers, and with openai of the extra `cot`, in the version that these need."""


def imported_packages():
    """Return the installed packages that files of src/vsgrpo import, inside functions included."""
    owners = packages_distributions()
    found = set()
    for path in (ROOT / "src" / "vsgrpo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            tops = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"vsgrpo", path.parent.name}
            found |= {plain(owner) for top in tops for owner in owners.get(top, ())}
    return found


def test_the_light_list_is_what_the_code_imports_besides_the_heavy_packages():
    extras = {plain(Requirement(line).name) for lines in PROJECT["optional-dependencies"].values() for line in lines}
    light = {plain(Requirement(line).name) for line in light_lines()}
    assert light == imported_packages() - heavy_packages() - extras - BROUGHT


def test_the_light_list_repeats_the_lines_of_pyproject():
    whole = PROJECT["dependencies"]
    assert light_lines() == sorted(line for line in whole if Requirement(line).name not in heavy_packages())
    assert heavy_packages() <= {Requirement(line).name for line in whole}


def test_the_light_list_brings_no_heavy_package_along():
    brought = with_dependencies(Requirement(line).name for line in light_lines())
    assert not brought & heavy_packages() and not [name for name in brought if name.startswith("nvidia")]


@pytest.mark.parametrize(
    ("system", "machine", "absent"),
    [
        ("linux", "x86_64", set()),
        ("linux", "aarch64", {"decord"}),  # no wheel of it
        ("darwin", "arm64", {"decord", "deepspeed"}),
        ("win32", "AMD64", {"decord", "deepspeed"}),
    ],
)
def test_a_platform_is_asked_for_what_it_can_have(system, machine, absent):
    asked = [Requirement(line) for line in PROJECT["dependencies"]]
    where = {"sys_platform": system, "platform_machine": machine, "extra": ""}
    assert {item.name for item in asked if item.marker and not item.marker.evaluate(where)} == absent


def test_an_import_that_fails_is_explained_where_the_package_is_ours_and_missing():
    assert explain_missing(ModuleNotFoundError("No module named 'json'", name="json")) is None
    assert explain_missing(ModuleNotFoundError("x", name="torch.nothing")) is None  # torch is there: a bug of ours
    assert explain_missing(ImportError("torch")) is None


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """Return vsgrpo in an environment of the light list; it may be expected to fail."""
    folder = tmp_path_factory.mktemp("light")
    python = make_environment(folder / "venv", with_dependencies(Requirement(line).name for line in light_lines()))

    def vsgrpo(*words, code=0):
        done = run(python, *words, cwd=folder)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    vsgrpo.folder = folder
    vsgrpo("build-data", "source=demo", "source.num_scenes=2", "source.preset=easy", "output=data")
    return vsgrpo


@pytest.mark.integration
def test_data_is_checked_audited_exported_imported_and_compared(light):
    assert "build-data" in light("--help").stdout
    assert "vsgrpo_2b_v" in light("configs").stdout
    assert "all is well" in light("check-data", "data").stdout
    assert "what the text" in light("audit", "data").stdout
    light("export-data", "data", "swift", "output=exported")
    light("import-data", "exported/train.jsonl", "output=imported")
    rows = len((light.folder / "data/train.jsonl").read_text().splitlines())
    assert rows == len((light.folder / "imported/train.jsonl").read_text().splitlines()) > 0
    assert "100.0" in light("diff-data", "data", "exported").stdout
    assert "num_generations: 14" in light("train", "grpo", "experiment=vsgrpo_2b_v", "--dry-run").stdout


@pytest.mark.integration
def test_predictions_are_scored_and_a_run_is_reported(light):
    rows = [json.loads(line) for line in (light.folder / "data/train.jsonl").read_text().splitlines()]
    said = [{"id": row["id"], "prediction": str(row["answer"])} for row in rows]
    (light.folder / "said.jsonl").write_text("".join(json.dumps(line) + "\n" for line in said))
    scores = json.loads(light("score", "said.jsonl", "benchmark.path=data/train.jsonl", "--json").stdout)
    assert "1.0" in json.dumps(scores) or "100.0" in json.dumps(scores)  # every answer is the right one
    light("report", str(ROOT / "tests/legacy/lab/run"), f"output={light.folder / 'run.html'}")
    assert "<svg" in (light.folder / "run.html").read_text()


@pytest.mark.integration
def test_doctor_lists_what_is_missing_and_for_what(light):
    done = light("doctor", "--json", code=1)
    found = {item["check"]: item for item in json.loads(done.stdout)["findings"]}
    for package in heavy_packages() - {"wandb"}:
        asked = [line for line in map(Requirement, PROJECT["dependencies"]) if line.name == package]
        if asked[0].marker is None or asked[0].marker.evaluate({"extra": ""}):
            assert found[package]["status"] == ("warn" if package in FEATURES else "fail")
            assert found[package]["mend"].startswith(f"pip install '{package}")
    assert found["trl"]["found"] == "not installed; it is for train"
    assert all(command in found["light install"]["found"] for command in NEEDS)
    assert found["video.backend=pyav"]["status"] == "ok"
    assert all(found.get(Requirement(line).name, {"status": "ok"})["status"] == "ok" for line in light_lines())


@pytest.mark.integration
def test_doctor_says_once_that_a_package_is_missing(light):
    found = json.loads(light("doctor", "--json", code=1).stdout)["findings"]
    lacking = [item["check"] for item in found if "not installed" in item["found"]]
    assert {"deepspeed", "wandb", "msgspec", "torch"} <= {*lacking} and len(lacking) == len({*lacking})
    assert not {"launch=zero2|zero3", "video.backend=decord"} & {item["check"] for item in found}


@pytest.mark.integration
def test_a_finished_evaluation_prints_again(light, capsys):
    shutil.copytree(ROOT / "tests/legacy/lab/base", light.folder / "run/final")
    words = ["eval", "model=run/final", "benchmark=folder", "benchmark.path=data", "benchmark.split=train"]
    words += ["output=run/done"]  # in the run folder of the model
    words += ["decoding.max_new_tokens=4", "video.num_frames=2"]
    with contextlib.chdir(light.folder):
        assert whole_install(words) == 0
    table = capsys.readouterr().out
    again = light(*words)
    assert again.stdout == table and "every question is answered already" in again.stderr
    anew = light(*words, "--overwrite", code=2)
    assert anew.stderr.splitlines()[-2].startswith("error: eval: torch, torchvision")
    predictions = light.folder / "run/done/predictions.jsonl"
    predictions.write_text("".join(predictions.read_text().splitlines(keepends=True)[:-1]))
    cut = light(*words, code=2)
    assert cut.stderr.splitlines()[-2].startswith("error: eval: torch, torchvision")
    assert light("score", "run/done/predictions.jsonl", "benchmark.path=data/train.jsonl").stdout


VIDEO = str(ROOT / "tests/legacy/lab/dataset/videos/demo/demo010000_00.mp4")


@pytest.mark.integration
@pytest.mark.parametrize(
    "words",
    [
        ["train", "grpo", "model=tiny", "launch=cpu", "data=data", "output=new"],
        ["train", "sft", "model=tiny", "launch=cpu", "data=data", "output=new", "run.seed=1,2", "--sweep"],
        ["eval", "model=tiny", "benchmark.path=data/train.jsonl", "output=new"],
        ["ask", "model=tiny", f"video={VIDEO}", "How many chairs?"],
        ["cache-videos", "model=tiny", "data=data", "video.cache_dir=new"],
        ["build-cot", "data=data", "reason.base_url=local", "reason.model=tiny", "cot.bridge=annotation", "output=new"],
        ["merge", str(ROOT / "tests/legacy/lab/run/final"), "output=new"],
    ],
    ids=lambda words: words[0],
)
def test_a_command_that_needs_more_says_what_for_and_how_to_get_it(light, words):
    error, hint = light(*words, code=2).stderr.splitlines()[-2:]
    assert error.startswith(f"error: {words[0]}")
    assert ": torch, torchvision, transformers, peft, accelerate" in error.replace(" trl,", "")
    assert error.endswith("are not installed")
    assert hint.startswith("hint: pip install 'torch<2.15,>=2.9' 'torchvision<")
    assert not (light.folder / "new").exists()


@pytest.mark.slow
def test_training_needs_no_deepspeed_no_decord_and_no_wandb(tmp_path):
    python = make_environment(tmp_path / "venv", all_but("deepspeed", "decord", "wandb", "msgspec"))
    lab = ROOT / "tests/legacy/lab"
    words = ["train", "sft", "model=tiny", f"data={lab / 'dataset'}", "trainer.max_steps=1", "video.num_frames=4"]
    done = run(python, *words, "launch=cpu", "output=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/final").is_dir()
    zero = ["launch=zero2", "launch.num_processes=1", "launch.use_cpu=true", "output=z"]
    done = run(python, *words, *zero, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-2:] == [
        "error: train: deepspeed is not installed",
        "hint: pip install 'deepspeed>=0.19'",
    ]
    assert not Path(tmp_path / "z").exists()
