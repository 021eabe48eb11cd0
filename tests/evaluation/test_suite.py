"""`benchmark=suite`: the words of each benchmark, one load for all, what is missing, one table and page."""

import json
import re

import pytest

from evaluation_rows import write_vsibench
from vsgrpo.cli import run
from vsgrpo.errors import ConfigError
from vsgrpo.evaluation.suite import split_suite

WORDS = ["model=tiny", "benchmark=suite", "benchmark.path=data", "output=runs/x"]
SMALL = ["video.num_frames=2", "video.max_pixels=3136", "decoding.max_new_tokens=2"]


def test_each_entry_becomes_the_words_of_one_evaluation():
    entry = "{benchmark: revsi, as: revsi_32, path: d/32_frame, tasks: [route_planning], video.num_frames: 32}"
    found = dict(split_suite([*WORDS, f"suite=[vsibench, {entry}]", "benchmark.limit=5"]))
    common = ["model=tiny", "benchmark.limit=5"]
    assert found == {
        "vsibench": [*common, "benchmark=vsibench", "benchmark.path=data/vsibench", "output=runs/x/vsibench"],
        "revsi_32": [
            *common,
            "benchmark=revsi",
            "benchmark.path=d/32_frame",
            "benchmark.tasks=[route_planning]",
            "video.num_frames=32",
            "output=runs/x/revsi_32",
        ],
    }
    alone = ["model=tiny", "benchmark=revsi"]
    assert split_suite(alone) == [("", alone)]


@pytest.mark.parametrize(
    ("words", "problem", "hint"),
    [
        (WORDS, "no suite=", "there are vsibench, revsi"),
        (["suite=[vsibench]"], "suite=[vsibench]: benchmark=suite is not given", "set benchmark=suite"),
        ([*WORDS, "suite=vsibench"], "must be a list of benchmarks", "suite='[vsibench"),
        ([*WORDS, "suite=[a: }"], "not a list", "suite='[vsibench"),
        ([*WORDS, "suite=[vsbench]"], "benchmark.name=vsbench", "did you mean vsibench?"),
        ([*WORDS, "suite=[{path: d}]"], "no benchmark is named", "suite='[vsibench"),
        ([*WORDS, "suite=[{benchmark: revsi, pth: d}]"], "revsi: pth: unknown key", "keys are path, split"),
        ([*WORDS, "suite=[{benchmark: revsi, as: a/b}]"], "as=a/b: must be a folder name", "letters"),
        ([*WORDS, "suite=[revsi, revsi]"], "two entries are called revsi", "as: revsi_2"),
        ([*WORDS[:2], "output=o", "suite=[revsi]"], "revsi: no path", "benchmark.path=DIR"),
        ([*WORDS[:3], "suite=[revsi]"], "output=DIR is needed", "a folder in it"),
    ],
)
def test_a_wrong_suite_is_refused_with_the_way_out(words, problem, hint):
    with pytest.raises(ConfigError, match=re.escape(problem)) as error:
        split_suite(words)
    assert hint in (error.value.hint or "")


@pytest.mark.integration
def test_a_suite_loads_once_and_lists_what_is_missing(tmp_path, tiny_folder, capsys):
    write_vsibench(tmp_path / "data/vsibench", 2)
    (tmp_path / "data/vsibench/pruned_ids.txt").write_text("0\n1\n")
    out = tmp_path / "out"
    suite = "suite=[vsibench, {benchmark: vsibench, as: debiased, subset: debiased}, mathvista]"
    words = [f"model={tiny_folder}", "benchmark=suite", suite, f"benchmark.path={tmp_path / 'data'}", f"output={out}"]
    assert run(["eval", *words, *SMALL]) == 2
    said = capsys.readouterr().err
    assert "error: suite: mathvista: benchmark.path=" in said and "loading model" not in said
    assert run(["eval", *words, *SMALL, "--skip-missing"]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("loading model") == 1 and "2 of 3 benchmarks" in printed.out
    assert "missing: mathvista: benchmark.path=" in printed.out
    found = json.loads((out / "suite.json").read_text())
    for name, part in found["benchmarks"].items():
        result = json.loads((out / name / "results.json").read_text())
        assert (part["overall"], part["n"]) == (result["scores"]["overall"], {"vsibench": 6, "debiased": 4}[name])
    page = (out / "suite.html").read_text()
    assert 'href="debiased/report.html"' in page and "missing" in page
    assert run(["eval", *words, *SMALL, "--skip-missing", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == found and "loading model" not in printed.err


VANISHING = """```python
# vanishing.py
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench


class Vanishing(VsiBench):
    @classmethod
    def read(cls, path, options):
        found = super().read(path, options)
        found.file.unlink()  # a second read finds nothing
        return found
```"""


@pytest.mark.integration
def test_rows_are_read_once_so_a_file_that_goes_while_others_are_evaluated_does_not_matter(
    tmp_path, tiny_folder, own_modules, capsys
):
    own_modules(VANISHING)
    write_vsibench(tmp_path / "bench", 2)
    out = tmp_path / "out"
    suite = f"suite=[{{benchmark: 'vanishing:Vanishing', as: first, path: {tmp_path / 'bench'}}}]"
    words = ["eval", f"model={tiny_folder}", "benchmark=suite", suite, f"output={out}", *SMALL]
    assert run(words) == 0
    assert json.loads((out / "first/results.json").read_text())["n"] == 6
    assert not (tmp_path / "bench/test.jsonl").exists() and "1 of 1 benchmark" in capsys.readouterr().out
