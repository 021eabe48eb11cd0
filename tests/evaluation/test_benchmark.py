"""A benchmark from a module outside the package, as docs/extending.md writes it, run end to end with the tiny model."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vsgrpo.cli import run
from vsgrpo.data.manifest import TrainingManifest, write_training_manifest
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.benchmark import BENCHMARKS, Benchmark, ReadOptions, find_benchmark
from vsgrpo.records import read_jsonl

PAGE = (Path(__file__).parents[2] / "docs/extending.md").read_text(encoding="utf-8")
COLOURS = {"red": "dark", "yellow": "light", "white": "light"}
RGB = {"red": (200, 0, 0), "yellow": (250, 250, 0), "white": (255, 255, 255)}
SMALL = ["image.max_pixels=3136", "decoding.max_new_tokens=4", "decoding.batch_size=1"]
SAMPLED = ["decoding.temperature=1", "decoding.num_samples=2"]


@pytest.fixture
def colours(tmp_path, monkeypatch):
    """Write the page's module and rows for it into an empty folder; return the module's file."""
    (code,) = re.findall(r"```python\n# my_benchmark.py\n(.*?)```", PAGE, re.S)
    module = tmp_path / "my_benchmark.py"
    module.write_text(code)
    folder = tmp_path / "data/colours"
    folder.mkdir(parents=True)
    lines = []
    for colour, kind in COLOURS.items():
        Image.fromarray(np.full((56, 56, 3), RGB[colour], dtype=np.uint8)).save(folder / f"{colour}.png")
        lines.append(json.dumps({"picture": f"{colour}.png", "kind": kind, "colour": colour}) + "\n")
    (folder / "test.jsonl").write_text("".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_benchmark", raising=False)
    return module


@pytest.fixture
def words(colours, tiny_folder):
    """Return the page's command, with the tiny model."""
    (command,) = re.findall(r"^PYTHONPATH=\. vsgrpo (eval benchmark=my_benchmark:.*)$", PAGE, re.M)
    given = shlex.split(command)
    place = given.index("model=runs/x/final")
    return [*given[:place], f"model={tiny_folder}", *given[place + 1 :], *SMALL]


@pytest.mark.integration
def test_the_benchmark_of_the_page_runs_end_to_end(words, colours, capsys):
    out = Path("runs/x/colours")
    assert run([*words, "controls=[blank,shuffled]"]) == 0
    shown = capsys.readouterr().out
    assert "3 of 3 questions in test.jsonl | right or wrong" in shown and "control shuffled" in shown
    results = json.loads((out / "results.json").read_text())
    assert (results["benchmark"]["name"], results["n"]) == ("my_benchmark:Colours", 3)
    assert set(results["question_types"]) == {"dark", "light"} and results["leak"]["verdict"] == "unknown"
    answers = {line["id"]: line["prediction"] for _, line in read_jsonl(out / "predictions.jsonl")}
    right = {f"q{i}": answers[f"q{i}"].strip(" .\n").lower() == colour for i, colour in enumerate(COLOURS)}
    assert results["correct"] == right and results["overall"] == sum(right.values()) / 3
    prompts = [line["prompt"] for _, line in read_jsonl(out / "prompts.jsonl")]
    assert all("Which colour is this? Answer in one word.<|im_end|>" in prompt for prompt in prompts)

    whole = (out / "predictions.jsonl").read_bytes()
    (out / "predictions.jsonl").write_bytes(whole[: len(whole) // 2])
    assert run(words) == 0 and (out / "predictions.jsonl").read_bytes() == whole
    assert run(["inspect", str(out), "type=light"]) == 0 and "2 of 3 rows" in capsys.readouterr().out
    (command,) = re.findall(r"^PYTHONPATH=\. vsgrpo (score .*benchmark=my_benchmark:.*)$", PAGE, re.M)
    capsys.readouterr()
    assert run([*shlex.split(command), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["correct"] == right
    assert run([*words[:-1], "decoding.batch_size=2", "output=light", "benchmark.tasks=[light]"]) == 0
    assert json.loads(Path("light/results.json").read_text())["n"] == 2


@pytest.mark.integration
def test_several_answers_to_a_question_score_their_mean(words, colours, capsys):
    # The page's rule, but that an answer is right whose length is even: random words of a tiny model differ in that.
    colours.write_text(
        colours.read_text().replace('answer.strip(" .\\n").lower() == row.answer', "len(answer) % 2 == 0")
    )
    out = Path("sampled")
    assert run([*words, *SAMPLED, f"output={out}", "controls=[blank]"]) == 0
    assert "note: up to 2 answers per question: its score is their mean" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    said: dict[str, list[str]] = {}
    for _, line in read_jsonl(out / "predictions.jsonl"):
        said.setdefault(line["id"], []).append(line["prediction"])
    assert [len(texts) for texts in said.values()] == [2, 2, 2]
    mean = {name: sum(len(text) % 2 == 0 for text in texts) / 2 for name, texts in said.items()}
    assert results["correct"] == mean and results["overall"] == pytest.approx(sum(mean.values()) / 3)
    best = sum(value > 0 for value in mean.values()) / 3  # of both answers one is right
    assert results["pass_at_k"]["pass@2"]["accuracy"] == pytest.approx(best)
    assert "<td>pass@2</td>" in (out / "report.html").read_text()
    asked = ["score", str(out / "predictions.jsonl"), "benchmark=my_benchmark:Colours", "benchmark.path=data/colours"]
    assert run([*asked, "--json"]) == 0 and json.loads(capsys.readouterr().out)["correct"] == mean
    assert run([*asked, "--export", "lmms"]) == 2
    assert "id=q0: 2 answers; an export has one per question" in capsys.readouterr().err


def test_several_answers_are_refused_where_a_table_is_of_one_each():
    assert [name for name in BENCHMARKS if not find_benchmark(name).takes_samples()] == ["threedsr", "mathvista"]


@pytest.mark.integration
def test_answers_to_other_prompts_are_not_mixed(words, colours, capsys, monkeypatch):
    assert run(words) == 0
    colours.write_text(colours.read_text().replace("in one word", "briefly"))
    monkeypatch.delitem(__import__("sys").modules, "my_benchmark")
    assert run(words) == 2 and "made under another benchmark" in capsys.readouterr().err


@pytest.mark.integration
def test_the_leak_guard_comes_first(words, tmp_path, capsys):
    bad = tmp_path / "bad"
    bad.mkdir()
    for name in ("config.json", "processor_config.json", "tokenizer.json"):
        (bad / name).write_text('{"model_type": "qwen2_vl"}')
    write_training_manifest(bad, TrainingManifest(rooms={"scannet": ["scene0025"]}))
    Path("data/colours/test.jsonl").write_text("{")  # would be the error, were rows read first
    asked = [word if not word.startswith("model=") else f"model={bad}" for word in words]
    assert run(asked) == 2 and "trained on 1 benchmark room" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("vsbench", "benchmark.name=vsbench: not one of the choices", "did you mean vsibench?"),
        ("my_benchmark:Colors", "'my_benchmark' has no benchmark 'Colors'", "did you mean 'my_benchmark:Colours'?"),
        (
            "my_benchmark:json",
            "'my_benchmark' has no benchmark 'json'",
            "subclass of vsgrpo.evaluation.benchmark.Benchmark",
        ),
        (
            "json:dumps",
            "benchmark.name=json:dumps: 'json' has no benchmark 'dumps'",
            "subclass of vsgrpo.evaluation.benchmark",
        ),
        ("no_such_module:X", "importing 'no_such_module' failed", "PYTHONPATH"),
        (":X", "a full module name is needed", "write package.module:benchmark"),
    ],
)
def test_a_wrong_name_is_refused_with_the_way_out(colours, name, message, hint):
    with pytest.raises(ConfigError) as error:
        find_benchmark(name)
    assert message in error.value.message and hint in error.value.hint


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["report_to=[mlflow]"], "report_to=mlflow: not one of the choices"),
        (["benchmark.name=mathvista", *SAMPLED], "decoding.num_samples=2: benchmark=mathvista scores one answer"),
        ([*SAMPLED, "--export", "lmms"], "decoding.num_samples=2: an export has one answer per question"),
        (["benchmark.subset=debiased"], "benchmark=my_benchmark:Colours has no subsets"),
        (["benchmark.tasks=[blue]"], "benchmark.tasks=['blue']: no such question_type"),
        (["benchmark.name=mathvist"], "benchmark.name=mathvist: not one of the choices"),
        (["benchmark.name=mathvist", "--dry-run"], "benchmark.name=mathvist: not one of the choices"),
    ],
)
def test_keys_that_do_not_fit_are_refused(words, more, message, capsys):
    assert run([*words, *more]) == 2 and message in capsys.readouterr().err
    assert not Path("runs").exists()


def test_predictions_of_any_make_are_scored_on_a_users_benchmark(colours, capsys):
    asked = ["score", "p.json", "benchmark=my_benchmark:Colours", "benchmark.path=data/colours"]

    def score(*lines, more=()):
        Path("p.json").write_text(json.dumps(lines))
        return run([*asked, *more]), capsys.readouterr()

    # q0 is red: right; q1 is yellow: wrong; q2 is unanswered.
    lines = [{"id": "q0", "response": "Red."}, {"id": "q1", "response": "red"}, {"id": "q2", "response": None}]
    code, shown = score(*lines)
    assert code == 0 and "2 of 3 questions in test.jsonl" in shown.out and "50.0" in shown.out
    code, shown = score(*lines, more=["benchmark.tasks=[dark]"])
    assert code == 0 and "1 of 3 questions" in shown.out and "100.0" in shown.out
    assert "leak check: unknown: nothing beside the file names the model" in shown.err
    for wrong, message in (
        ([{"id": "q9", "response": "red"}], "id=q9: not in data/colours"),
        ([lines[0], lines[0]], "id=q0: already in entry 1"),
        (lines[2:], "no question of data/colours is answered"),
    ):
        code, shown = score(*wrong)
        assert code == 2 and message in shown.err
    for words, message in (
        (["other.json"], "other.json: no such file"),
        (["prompt.mode=loud"], "prompt.mode=loud: unknown"),
        (["limit=3"], "limit=3: score knows benchmark.path"),
    ):
        code, shown = score(*lines, more=words)
        assert code == 2 and message in shown.err
    assert run(asked[:3]) == 2 and "no benchmark.path given" in capsys.readouterr().err


def test_rows_of_a_users_benchmark_are_checked(colours):
    kind = find_benchmark("my_benchmark:Colours")
    file = Path("data/colours/test.jsonl")
    file.write_text('{"picture": "../secret.png", "kind": "dark", "colour": "red"}\n')
    with pytest.raises(DataError, match=r"test\.jsonl: id=q0: media\.path="):
        kind.read(file)
    file.write_text("")
    with pytest.raises(DataError, match="no question in it"):
        kind.read("data/colours")


def test_ours_are_named_in_one_table():
    folder = Path(__file__).parents[2] / "configs/benchmark"
    assert {"vsibench", "revsi", "folder"} <= BENCHMARKS.keys() == {file.stem for file in folder.glob("*.yaml")}
    for name in BENCHMARKS:
        assert issubclass(find_benchmark(name), Benchmark)


def test_a_harness_that_a_benchmark_does_not_know_is_refused_with_those_it_does(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"id": "a", "question": "Which?", "answer": "A", "image": "a.png"}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"benchmark\.harness=easi: not one of the choices") as error:
        find_benchmark("folder").read(file, ReadOptions(harness="easi"))
    assert error.value.hint == "choose from: official"
