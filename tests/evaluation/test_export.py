"""`vsgrpo score --export`: lmms-eval's logs and the EASI submission, and what their own readers make of them."""

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

import image_benchmarks
from evaluation_rows import official_rows
from vsgrpo.cli import run
from vsgrpo.config.compose import load_config
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import ReadOptions, find_benchmark
from vsgrpo.evaluation.export import export_evaluations

ROOT = os.environ.get("VSGRPO_HARNESSES")


def write_answers(folder, answers, settings=None):
    folder.mkdir(exist_ok=True)
    lines = [{"id": name, "prediction": text} for name, text in answers.items()]
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if settings is not None:
        (folder / "settings.json").write_text(json.dumps(settings))
    return folder / "answers.jsonl"


SETTINGS = {
    "prompt": {"mode": "vanilla", "wording": "eval", "show_options": True},
    "model": {"path": "lab/spatial-7b", "adapter": None, "dtype": "bfloat16"},
    "vision": {"num_frames": 32},
    "decoding": {"temperature": 0.0, "max_new_tokens": 16},
}


def read_log(folder, task):
    (path,) = folder.glob(f"*_samples_{task}.jsonl")
    (results,) = folder.glob("*_results.json")
    assert results.name.removesuffix("_results.json") == path.name.partition("_samples_")[0]
    return json.loads(results.read_text()), [json.loads(line) for line in path.read_text().splitlines()]


def test_lmms_logs_of_a_benchmark(tmp_path, capsys):
    path = image_benchmarks.write_mindcube(tmp_path / "data")
    # Truths are D (among), B (around), A (rotation): two of three are right.
    answers = {"among_group001_q0_3_2": "D. Table", "aroundnew_tv_q1": "A.", "rotation_g3_q0": "A"}
    file = write_answers(tmp_path / "own", answers, SETTINGS)
    words = ["score", str(file), "benchmark=mindcube", f"benchmark.path={path}", "--export", "lmms"]
    assert run(words) == 0
    folder = tmp_path / "own" / "export_lmms" / "lab__spatial-7b"
    results, samples = read_log(folder, "mindcube_tiny")
    expected = {"overall_accuracy": 2 / 3, "among_accuracy": 1, "around_accuracy": 0, "rotation_accuracy": 1}
    found = {
        name.removesuffix(",none"): v for name, v in results["results"]["mindcube_tiny"].items() if name != "alias"
    }
    assert found == pytest.approx(expected, abs=1e-6)
    assert results["n-samples"]["mindcube_tiny"] == {"original": 3, "effective": 3}
    assert results["config"]["model_args"] == "pretrained=lab/spatial-7b"
    assert [(s["doc_id"], s["target"], s["resps"], s["score"]) for s in samples] == [
        (0, "D", ["D. Table"], 1.0),
        (1, "B", ["A."], 0.0),
        (2, "A", ["A"], 1.0),
    ]
    assert [sample["pred_extracted"] for sample in samples] == ["D", "A", "A"]
    assert all(next(iter(sample)) == "score" for sample in samples)
    before = {p: p.read_bytes() for p in folder.iterdir()}
    capsys.readouterr()
    assert run(words) == 2  # a second export never replaces the first
    assert "export_lmms: is there already" in capsys.readouterr().err
    assert before == {p: p.read_bytes() for p in folder.iterdir()}


def test_easi_submission_names_what_it_cannot_know(tmp_path, capsys):
    path = image_benchmarks.write_mindcube(tmp_path / "data")
    file = write_answers(tmp_path / "own", {"among_group001_q0_3_2": "D", "aroundnew_tv_q1": "A"}, SETTINGS)
    assert run(["score", str(file), "benchmark=mindcube", f"benchmark.path={path}", "--export", "easi"]) == 0
    said = capsys.readouterr().err
    assert "mindcube_tiny: of 2 of 3 questions only" in said and "benchmark.harness=easi\n" in said
    assert "fill in before you submit it: modelType (pretrained | finetuned | instruction | rl)\n" in said
    payload = json.loads((tmp_path / "own" / "export_easi" / "easi_results.json").read_text())
    assert payload["scores"] == {"mindcube_tiny": 50.0}
    parts = {"among_accuracy": 100.0, "around_accuracy": 0.0, "rotation_accuracy": None}
    assert payload["subScores"] == {"mindcube_tiny": parts}  # no answer to a rotation question
    assert payload["modelName"] == "lab/spatial-7b" and payload["precision"] == "bfloat16"
    assert json.loads(payload["remarks"])["vision"] == {"num_frames": 32}
    with zipfile.ZipFile(tmp_path / "own" / "export_easi" / "easi_results.zip") as packed:
        names = sorted(name.partition("/")[2].partition("_2")[0] for name in packed.namelist())
        assert len(names) == 2 and all(name.startswith("lab__spatial-7b/") for name in packed.namelist())


def test_circular_rows_are_counted_one_by_one_where_the_leaderboard_does(tmp_path, capsys):
    path = image_benchmarks.write_threedsr(tmp_path / "data")
    rows = image_benchmarks.THREEDSR
    # Always the right letter but in one of the two orders of the first question.
    answers = {row["qid"]: row["answer"] for row in rows} | {"VIN6MS3J": "Z"}
    file = write_answers(tmp_path / "own", answers)
    assert run(["score", str(file), "benchmark=threedsr", f"benchmark.path={path}", "--export", "easi"]) == 0
    payload = json.loads((tmp_path / "own" / "export_easi" / "easi_results.json").read_text())
    # 7 of 8 rows; of the questions in all orders (2 orders, 2 mirrored, 4) 2 of 3.
    assert payload["scores"]["3dsrbench"] == pytest.approx(100 * 7 / 8)
    assert payload["subScores"]["3dsrbench"]["circ_eval_overall"] == pytest.approx(200 / 3, abs=1e-3)
    assert payload["subScores"]["3dsrbench"]["height_higher"] == pytest.approx(75.0)
    assert payload["subScores"]["3dsrbench"]["location_above"] is None


def test_vsibench_is_exported_by_the_scorer_of_lmms_eval(tmp_path, capsys):
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in official_rows(1)))
    # "There are 3" is 3 for lmms-eval and no number for the official scorer; 12.5 is right, "B" is the letter.
    file = write_answers(tmp_path / "own", {"0": "There are 3", "1": "12.5", "2": "B"})
    assert run(["score", str(file), f"benchmark.path={tmp_path / 'test.jsonl'}", "--export", "lmms"]) == 0
    results, samples = read_log(tmp_path / "own" / "export_lmms" / "model", "vsibench")
    table = results["results"]["vsibench"]
    assert table["vsibench_overall,none"] == 1.0 and table["object_counting_mra,none"] == 1.0
    assert [sample["score"] for sample in samples] == [1.0, 1.0, 1.0]
    assert [sample["pred_extracted"] for sample in samples] == ["3.0", "12.5", "B"]


@pytest.mark.integration
def test_an_export_goes_with_the_evaluation_that_it_is_of(tmp_path, tiny_folder, capsys):
    path = image_benchmarks.write_mindcube(tmp_path / "data")
    words = ["eval", f"model={tiny_folder}", "benchmark=mindcube", f"benchmark.path={path}"]
    words += [f"output={tmp_path / 'out'}", "decoding.max_new_tokens=2", "image.max_pixels=3136"]
    assert run([*words, "--export", "lmms"]) == 0
    assert list((tmp_path / "out" / "export_lmms").glob("*/*_results.json"))
    with path.open("a") as rows:
        rows.write("\n")  # another file of the same rows
    with pytest.raises(DataError, match="not the file that"):
        export_evaluations("lmms", tmp_path / "again", [load_config("eval", words[1:])])
    assert not (tmp_path / "again").exists()
    assert run([*words, "--overwrite"]) == 0
    assert not (tmp_path / "out" / "export_lmms").exists()


@pytest.mark.integration
def test_a_suite_is_one_submission(tmp_path, tiny_folder, capsys):
    image_benchmarks.write_mindcube(tmp_path / "data" / "mindcube")
    image_benchmarks.write_viewspatial(tmp_path / "data" / "viewspatial")
    rows = tmp_path / "data" / "mindcube" / "data" / "raw" / "MindCube_tinybench.jsonl"
    suite = f"suite=[{{benchmark: mindcube, path: {rows}}}, viewspatial]"
    words = ["eval", f"model={tiny_folder}", "benchmark=suite", suite, f"benchmark.path={tmp_path / 'data'}"]
    words += [f"output={tmp_path / 'out'}", "decoding.max_new_tokens=4", "image.max_pixels=3136", "--export", "easi"]
    assert run(words) == 0
    assert "export_easi" in capsys.readouterr().err
    target = tmp_path / "out" / "export_easi"
    payload = json.loads((target / "easi_results.json").read_text())
    for key in ("mindcube_tiny", "viewspatial"):
        name = key.removesuffix("_tiny")
        results = json.loads((tmp_path / "out" / name / "results.json").read_text())
        assert payload["scores"][key] == pytest.approx(100 * results["overall"], abs=1e-3)
    with zipfile.ZipFile(target / "easi_results.zip") as packed:
        assert len(packed.namelist()) == 3  # the results, and the samples of both
    assert run(words) == 2  # refused before anything is evaluated again
    assert "is there already" in capsys.readouterr().err


def test_parts_of_a_benchmark_have_their_own_names(tmp_path, capsys):
    rows = [{**row, "pruned": row["id"] == 1} for row in official_rows(1)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = write_answers(tmp_path / "own", {"0": "3", "2": "B"})
    words = ["score", str(file), f"benchmark.path={tmp_path / 'test.jsonl'}"]
    assert run([*words, "benchmark.subset=debiased", "--export", "easi"]) == 0
    payload = json.loads((tmp_path / "own" / "export_easi" / "easi_results.json").read_text())
    assert payload["scores"] == {"vsi_debiased": 100.0}
    one = write_answers(tmp_path / "other", {"1": "12.5"})
    words = ["score", str(one), f"benchmark.path={tmp_path / 'test.jsonl'}", "benchmark.subset=pruned"]
    capsys.readouterr()
    assert run([*words, "--export", "easi"]) == 2
    assert "is not on the EASI leaderboard" in capsys.readouterr().err
    assert not list((tmp_path / "other").glob("*export*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--export", "excel"], "--export excel: unknown"),
        (
            ["benchmark=revsi", "benchmark.path=ROWS", "--export", "easi"],
            "benchmark=revsi is not on the EASI leaderboard",
        ),
        (["--export", "lmms"], "--export lmms: one file and its rows are needed"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_scoring(tmp_path, capsys, words, message):
    file = write_answers(tmp_path / "own", {"0": "3"})
    words = ["benchmark.path=ROWS", *words] if words == ["--export", "excel"] else words
    assert run(["score", str(file), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and "hint:" in error and "Traceback" not in error
    assert not list((tmp_path / "own").glob("*export*"))


_READERS = """
import json, sys
from pathlib import Path
root, folder, payload, sample = sys.argv[1:]
sys.path[:0] = [root + "/EASI/scripts/submissions", root + "/lmms-eval"]
from backends.lmmseval import LmmsEvalAdapter
from postprocess import build_payload
from lmms_eval.baselines.loader import load_baseline
keys = json.loads(Path(payload).read_text())["scores"]
tasks = {key: LmmsEvalAdapter.TASK_MAP.get(key, key) for key in keys}
theirs = build_payload(Path(folder), "m", tasks, {}, LmmsEvalAdapter())
scores, aggregated = load_baseline(sample, "any")
print(json.dumps({"scores": theirs["scores"], "subScores": theirs["subScores"], "baseline": list(scores.values())}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["vsibench", "mindcube", "mmsi", "viewspatial", "blink", "threedsr", "embspatial", "site", "spar"]
)
def test_the_leaderboards_own_reader_finds_the_scores_that_are_submitted(tmp_path, monkeypatch, name):
    if ROOT is None:
        pytest.skip("VSGRPO_HARNESSES=DIR names EASI and lmms-eval (docs/benchmarks.md)")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    from harness_rows import write_rows

    path = write_rows(name, tmp_path / "data")
    rows = find_benchmark(name).read(path, ReadOptions(name=name)).rows
    answers = {row.id: row.ground_truth if place % 3 else "E" for place, row in enumerate(rows)}
    file = write_answers(tmp_path / "own", answers, SETTINGS)
    assert run(["score", str(file), f"benchmark={name}", f"benchmark.path={path}", "--export", "easi"]) == 0
    target = tmp_path / "own" / "export_easi"
    folder = next(item for item in target.iterdir() if item.is_dir())
    samples = sorted(folder.glob("*_samples_*"))
    words = [ROOT, folder, target / "easi_results.json", samples[0]]
    python = Path(ROOT) / ".venv/bin/python"
    done = subprocess.run([python, "-c", _READERS, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs, ours = json.loads(done.stdout.splitlines()[-1]), json.loads((target / "easi_results.json").read_text())
    assert theirs["scores"] == pytest.approx(ours["scores"], abs=1e-3)
    for key, parts in theirs["subScores"].items():
        assert parts == pytest.approx(ours["subScores"][key], abs=1e-3)
    lines = [json.loads(line) for line in samples[0].read_text().splitlines()]
    assert theirs["baseline"] == [line["score"] for line in lines] and any(theirs["baseline"])
