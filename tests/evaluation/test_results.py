"""The folder of an evaluation: what --overwrite replaces, two at once, videos that are not those of the answers."""

import json
import os
import shutil
import time

import pytest

from vsgrpo.config.compose import load_config
from vsgrpo.errors import DataError
from vsgrpo.evaluation.results import begin, evaluation_folder, settle
from vsgrpo.evaluation.run import run_eval


@pytest.fixture(scope="module")
def asked(benchmark_folder, tmp_path_factory):
    """Return (a copy of the benchmark, function (output, *overrides) -> config)."""
    folder = shutil.copytree(benchmark_folder, tmp_path_factory.mktemp("asked") / "bench")

    def config(output, *overrides):
        base = ["model.path=tiny", f"benchmark.path={folder}", f"output={output}", "video.num_frames=4"]
        return load_config("eval", [*base, "video.backend=pyav", "decoding.max_new_tokens=4", *overrides])

    return folder, config


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}


def evaluation(folder):
    """Write what a finished evaluation leaves, and a file of the user's."""
    folder.mkdir()
    for name in ("predictions.jsonl", "predictions_blind.jsonl", "settings.json", "results.json", "notes.txt"):
        (folder / name).write_text(f"old {name}")
    return content(folder)


def test_the_old_evaluation_is_back_before_the_first_answer_and_aside_until_the_last(tmp_path, capsys):
    out = tmp_path / "eval"
    before = evaluation(out)
    begin(out, {"new": 1}, {}, overwrite=True)
    assert set(content(out)) == {"settings.json", "inputs.json", "notes.txt"}
    settle(out)
    assert content(out) == before
    assert "the earlier evaluation is back" in capsys.readouterr().err

    begin(out, {"new": 1}, {}, overwrite=True)
    (out / "predictions.jsonl").write_text("new answers\n")
    settle(out)  # a kill, and the next start: it goes on from the new answers
    assert (out / "predictions.jsonl").read_text() == "new answers\n"
    assert (out / ".replaced" / "predictions.jsonl").read_text() == "old predictions.jsonl"
    assert "what --overwrite replaces, until this evaluation is complete" in capsys.readouterr().err
    begin(out, {"new": 2}, {}, overwrite=True)  # overwritten again: the complete one still stays
    assert (out / ".replaced" / "predictions.jsonl").read_text() == "old predictions.jsonl"
    assert not (out / "predictions.jsonl").exists()
    (out / "predictions.jsonl").write_text("newest\n")
    (out / "results.json").write_text("{}")
    settle(out)
    assert not (out / ".replaced").exists() and (out / "notes.txt").read_text() == "old notes.txt"


def test_two_evaluations_of_one_folder(asked, tmp_path):
    config = asked[1](tmp_path / "out")
    refused = pytest.raises(DataError, match=r"output=.*out: another process is evaluating there")
    with evaluation_folder(config, False), refused:
        run_eval(config, overwrite=True)
    assert not (tmp_path / "out").exists()


def test_a_model_inside_the_output_is_refused(asked, tmp_path):
    before = evaluation(tmp_path / "out")
    (tmp_path / "out" / "final").mkdir()
    (tmp_path / "out" / "final" / "config.json").write_text("{}")
    for path in (tmp_path / "out" / "final", tmp_path / "out"):
        with pytest.raises(DataError, match=r"model\.path=.*: lies in output="):
            run_eval(asked[1](tmp_path / "out", f"model.path={path}"), overwrite=True)
    assert content(tmp_path / "out") == before


def test_a_typo_in_the_model_loses_nothing(asked, tmp_path):
    before = evaluation(tmp_path / "out")
    with pytest.raises(DataError, match="no such folder"):
        run_eval(asked[1](tmp_path / "out", f"model.path={tmp_path / 'typo'}"), overwrite=True)
    assert content(tmp_path / "out") == before


@pytest.mark.integration
def test_replaced_videos_and_broken_models(asked, tmp_path, tiny_folder, capsys):
    folder, config = asked
    out = tmp_path / "out"
    run_eval(config(out))
    before = content(out)
    broken = shutil.copytree(tiny_folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(Exception):  # noqa: B017  whatever the loader says
        run_eval(config(out, f"model.path={broken}"), overwrite=True)
    assert content(out) == before

    video = folder / "scannet/scene0001_00.mp4"
    for _ in range(100):  # the hashes come from the background
        if all("sha256" in entry for entry in json.loads((out / "inputs.json").read_text())["files"].values()):
            break
        time.sleep(0.1)
    os.utime(video)
    run_eval(config(out))  # the same bytes, written again
    whole = (out / "predictions.jsonl").read_bytes()
    (out / "predictions.jsonl").write_bytes(whole[:-7])
    stat = video.stat()
    video.write_bytes(video.read_bytes()[:-1] + b"?")  # the same size, and the time set back
    os.utime(video, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(
        DataError, match=r"1 of its inputs changed since it started: video .*scene0001_00.mp4: other con"
    ):
        run_eval(config(out))
    report = run_eval(config(out), allow_changed=True)
    assert report is not None and "scene0001_00.mp4: other content" in report.to_json()["changed_inputs"][0]
    assert "warning: answers from here on are to other inputs: video" in capsys.readouterr().err
