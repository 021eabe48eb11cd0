import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from evaluation_rows import leak_of, official_rows
from vsgrpo.cli import run
from vsgrpo.data.manifest import TrainingManifest, write_training_manifest
from vsgrpo.data.rows import write_rows
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.ask import parse_request
from vsgrpo.evaluation.benchmark import PromptSettings, ReadOptions
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench
from vsgrpo.evaluation.leak import check_lineage
from vsgrpo.evaluation.score_tables import VsiBenchReport, compare_table
from vsgrpo.evaluation.scores import score_rows
from vsgrpo.evaluation.several_models import split_models
from vsgrpo.video.writer import write_video


def judge(path, adapter, benchmark, allow_leak=False):
    return leak_of(benchmark, check_lineage(path, adapter, allow_leak=allow_leak), allow_leak=allow_leak, name=path)


SETTINGS = {
    "benchmark": {"sha256": "0"},
    "model": {"path": "runs/x/final", "adapter": None, "size": None},
    "vision": {"num_frames": 8, "min_pixels": 3136, "max_pixels": 100352},
    "video": "own",
    "prompt": {"mode": "vanilla", "wording": "eval", "show_options": True},
    "decoding": {"temperature": 0.0, "num_samples": 1},
}


@pytest.fixture
def benchmark(write_benchmark):
    return VsiBench.read(write_benchmark(official_rows(2)))


def model(folder, **fields):
    write_training_manifest(folder, TrainingManifest(**fields))
    return str(folder)


def test_a_benchmark_room_in_the_lineage_is_refused_unless_allowed(tmp_path, benchmark):
    path = model(tmp_path / "m", parents=[TrainingManifest(rooms={"scannet": ["scene0025"]})])
    with pytest.raises(DataError, match="trained on 1 benchmark room"):
        judge(path, None, benchmark, allow_leak=False)
    leak = judge(path, None, benchmark, allow_leak=True)
    assert (leak.verdict, leak.rooms) == ("leak", ("scene0025",))


def test_a_room_of_the_rows_in_the_lineage_is_a_leak_in_the_benchmarks_form_only(tmp_path, benchmark):
    path = model(tmp_path / "m", rooms={"scannet": ["scene0000", "scene0009"]})
    with pytest.raises(DataError, match="such as scene0000"):
        judge(path, None, benchmark, allow_leak=False)
    write_rows(tmp_path / "data/dev.jsonl", benchmark.rows)
    leak = judge(path, None, VsiBench.read(tmp_path / "data", ReadOptions("dev")), allow_leak=False)
    assert (leak.verdict, leak.num_trained, leak.num_rooms) == ("clean", 1, 2)


def test_the_adapters_lineage_counts_too(tmp_path, benchmark):
    base = model(tmp_path / "base", base="fresh")
    assert judge(base, None, benchmark, allow_leak=False).verdict == "clean"
    unknown = tmp_path / "adapter"
    unknown.mkdir()
    assert judge(base, str(unknown), benchmark, allow_leak=False).verdict == "unknown"


def test_part_of_the_rows_is_never_called_vsibench(benchmark):
    leak = judge("tiny", None, benchmark, allow_leak=False)
    scores = score_rows(benchmark.rows, {"0": ["3"], "1": [None]}, PromptSettings())
    report = VsiBenchReport(benchmark, scores, leak, SETTINGS, {"1": "a.mp4: no frames"}, "official")
    assert report.title() == "1 of 6 rows of VSI-Bench's form in test.jsonl"
    table = report.table()
    assert "5 questions are unanswered" in table and "a.mp4: no frames" in table and "leak: clean" in table
    assert report.to_json()["unanswered"][0] == {"id": "1", "reason": "a.mp4: no frames"}
    whole = replace(benchmark, num_rows=5130)
    complete = replace(scores, num_answered=5130)
    assert replace(report, benchmark=whole, scores=complete).title() == "VSI-Bench"


def test_controls_stand_in_the_results_and_in_comparisons(benchmark, tmp_path):
    leak = judge("tiny", None, benchmark, allow_leak=False)
    everything = {row.id: [row.ground_truth] for row in benchmark.rows}
    scores = score_rows(benchmark.rows, everything, PromptSettings())
    report = VsiBenchReport(benchmark, scores, leak, {**SETTINGS, "benchmark": {"rows": "0"}}, {}, "official")
    # Both scenes have the same answers, so the constant is always right; chance is 1/2 of two options.
    assert report.controls()["best constant"]["overall"] == 1.0
    assert report.controls()["chance"] == {"object_rel_distance": 0.5}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(report.to_json()))
    table = compare_table([("before", tmp_path / "a"), ("after", tmp_path / "b")], "held out").splitlines()
    names = [line.split("  ")[0] for line in table if line.split("  ")[0]]
    assert names == ["held out", "chance", "most frequent", "best constant", "before", "after", "n"]
    assert sum(".." in line for line in table) == 2  # the intervals below each model's scores
    other = {**report.to_json(), "n": 5}
    (tmp_path / "b/results.json").write_text(json.dumps(other))
    with pytest.raises(DataError, match="other rows than"):
        compare_table([("before", tmp_path / "a"), ("after", tmp_path / "b")])
    with pytest.raises(DataError, match="no such file"):
        compare_table([("none", tmp_path)])


def test_one_model_stays_as_it_was():
    assert split_models(["model=runs/x/final", "a=b"]) == [("", ["a=b", "model.path=runs/x/final"])]
    assert split_models(["a=b"]) == [("", ["a=b"])]


def test_each_of_several_models_gets_a_folder_named_by_what_differs():
    found = split_models(["model=runs/x/final", "output=out", "model.path=runs/y/final", "benchmark.path=b"])
    assert found == [
        ("x-final", ["benchmark.path=b", "model.path=runs/x/final", "output=out/x-final"]),
        ("y-final", ["benchmark.path=b", "model.path=runs/y/final", "output=out/y-final"]),
    ]


def test_a_pattern_finds_checkpoints_in_order_of_their_numbers(tmp_path):
    for number in (10, 9, 100):
        (tmp_path / f"checkpoint-{number}").mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    found = split_models([f"model={tmp_path}/checkpoint-*", "output=o"])
    assert [name for name, _ in found] == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=none/of-*", "output=o"], "no folder matches"),
        (["model=a", "model=a", "output=o"], "given twice"),
        (["model=a", "model=b"], "output=DIR is needed"),
    ],
)
def test_wrong_models_are_refused(words, says):
    with pytest.raises(ConfigError, match=says):
        split_models(words)


@pytest.fixture
def video(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (8, 56, 56, 3), dtype=np.uint8)
    write_video(tmp_path / "room.mp4", list(frames), fps=4)
    return tmp_path / "room.mp4"


def test_the_question_is_the_word_with_spaces_or_without_equals(video):
    request = parse_request(["model=m/x", f"video={video}", "prompt.mode=think", "Is a = b here?"])
    assert request.question == "Is a = b here?"
    assert request.overrides[:3] == ("model=m/x", "prompt.mode=think", "decoding.max_new_tokens=512")
    given = parse_request(["model=m/x", f"video={video}", "prompt.mode=think", "decoding.max_new_tokens=9", "Why?"])
    assert "decoding.max_new_tokens=512" not in given.overrides


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["video=v.mp4", "why ?"], "no model"),
        (["model=m/x", "why ?"], "0 videos"),
        (["model=m/x", "video=a", "video=b", "why ?"], "2 videos"),
        (["model=m/x", "video=a", "image=b", "video=c", "why ?"], "2 videos"),
        (["model=m/x", "video=a"], "0 questions"),
        (["model=m/x", "video=a", "how many", "chairs ?"], "2 questions"),
    ],
)
def test_an_incomplete_request_is_refused_with_an_example(words, message):
    with pytest.raises(ConfigError, match=message) as error:
        parse_request(words)
    assert "vsgrpo ask model=" in error.value.hint


def test_a_missing_video_or_model_ends_in_one_error_and_one_hint(video, tmp_path, capsys):
    requests = {
        "no.mp4: no such file": ["model=m/x", "video=no.mp4", "why ?"],
        "no such folder": [f"model={tmp_path}/none", f"video={video}", "why ?"],
        "neither config.json nor adapter_config.json": [f"model={tmp_path}", f"video={video}", "why ?"],
    }
    for message, words in requests.items():
        assert run(["ask", *words]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 2 and message in lines[0] and lines[1].startswith("hint: ")


@pytest.mark.integration
def test_a_model_answers_the_question_in_evaluation_wording(tiny_folder, video, capsys):
    words = [
        f"model={tiny_folder}",
        f"video={video}",
        "video.num_frames=4",
        "video.timeout_s=null",
        "model.offline=true",
    ]
    assert run(["ask", *words, "video.backend=pyav", "How many chairs?", "--json"]) == 0
    reply = json.loads(capsys.readouterr().out)
    assert reply["num_frames"] == 4 and len(reply["answers"]) == 1
    sentence = "Please answer the question using a single word or phrase."
    assert reply["prompt"] == f"These are frames of a video.\nHow many chairs?\n{sentence}"


@pytest.mark.integration
def test_images_are_shown_in_the_order_given(tiny_folder, tmp_path, capsys):
    for name, grey in (("a.png", 10), ("b.png", 240)):
        Image.new("L", (56, 56), grey).save(tmp_path / name)
    words = [f"model={tiny_folder}", "model.offline=true", "Which is darker?", "--json"]
    replies = []
    for names in (("a.png", "b.png"), ("b.png", "a.png"), ("a.png",)):
        assert run(["ask", *words, *(f"image={tmp_path / name}" for name in names)]) == 0
        replies.append(json.loads(capsys.readouterr().out))
    assert len({reply["answers"][0] for reply in replies}) > 1  # what is shown matters
    assert replies[0]["prompt"].startswith("Which is darker?\nPlease answer")
    assert run(["ask", *words, f"image={tmp_path / 'none.png'}"]) == 2
    assert "none.png: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("shown", ["video=junk.mp4", "image=junk.png"])
def test_a_broken_file_is_named_before_the_model_is_loaded(shown, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / shown.partition("=")[2]).write_text("neither")
    assert run(["ask", "model=tiny", shown, "video.backend=pyav", "How many chairs?"]) == 2
    said = capsys.readouterr().err
    assert "junk" in said and "hint: give another file\n" in said and "loading model" not in said
