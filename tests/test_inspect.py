"""`vsgrpo inspect`: rows chosen by type, scene and score, printed and drawn."""

import base64
import io
import json
import re
import shutil
from xml.etree import ElementTree

import av
import numpy as np
import pytest
from PIL import Image

from vsgrpo.cli import run
from vsgrpo.config.compose import load_config
from vsgrpo.data.build.dataset import build_dataset
from vsgrpo.data.own_rows import dataset_folder
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench
from vsgrpo.inspect import inspect
from vsgrpo.report.shown_media import pictures


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "data"
    build_dataset(load_config("build_data", ["experiment=demo_data", "source.num_scenes=2", f"output={folder}"]))
    return folder


@pytest.fixture
def evaluation(data, tmp_path):
    """Predictions: the first room size right, every other answer 1000."""
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    first = next(row["id"] for row in rows if row["question_type"] == "room_size_estimation")
    said = {row["id"]: row["ground_truth"] if row["id"] == first else "1000" for row in rows}
    lines = [json.dumps({"id": name, "prediction": text}) + "\n" for name, text in said.items()]
    (tmp_path / "predictions.jsonl").write_text("".join(lines))
    results = {"scorer": "official", "benchmark": {"file": str(data / "train.jsonl")}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path, first


def test_rows_are_chosen_by_type_and_scene(data):
    sizes = inspect([str(data), "type=room_size_estimation"])
    assert [item.row.question_type for item in sizes.rows] == ["room_size_estimation"] * 2
    scene = sizes.rows[1].row.scene_name
    assert {item.row.scene_name for item in inspect([str(data), f"scene={scene}"]).rows} == {scene}
    first = inspect([str(data)], limit=1)
    assert len(first.rows) == 1 and first.num_rows == len((data / "train.jsonl").read_text().splitlines())
    assert sizes.rows[0].row.answer in sizes.table() and "m\u00b2" in sizes.table()


def test_the_best_and_the_worst_answers_come_first(evaluation):
    folder, first = evaluation
    best = inspect([str(folder), "score=best"]).rows
    assert (best[0].row.id, best[0].score) == (first, 1.0)
    worst = inspect([str(folder), "score=worst"]).rows
    assert worst[0].score == 0.0 and worst[-1].row.id == first and "said: '1000'" in worst[0].text()


def test_the_page_draws_every_row_with_frames(data, tmp_path):
    page = tmp_path / "rows.html"
    result = inspect([str(data), "type=room_size_estimation", f"output={page}"])
    text = page.read_text(encoding="utf-8")
    maps = [ElementTree.fromstring(svg) for svg in re.findall(r'<svg class="mini".*?</svg>', text, re.S)]
    assert len(maps) == len(result.rows) == 2
    assert all(
        any(item.attrib.get("class") == "hit one" for item in drawing) for drawing in maps
    )  # the floor's outline
    assert text.count("data:image/jpeg") == 6 and "<script" not in text and "http" not in text


def write_avi(path):
    """Write five grey frames as MPEG-4 in AVI, whatever the name says: decord refuses it."""
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for level in (0, 0, 128, 255, 255):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8))))
        container.mux(stream.encode(None))


def test_the_page_of_an_evaluation_reads_videos_as_the_evaluation_did(data, evaluation, tmp_path):
    pytest.importorskip("decord")
    copy = shutil.copytree(data, tmp_path / "copy")
    for video in copy.glob("videos/*/*.mp4"):
        write_avi(video)
    folder, first = evaluation
    page = tmp_path / "page.html"
    words = [str(folder), f"rows={copy / 'train.jsonl'}", f"id={first}", f"output={page}"]
    inspect(words)  # of an earlier version, without settings.json: the default backend
    assert page.read_text(encoding="utf-8").count("data:image/jpeg") == 3
    settings = {"reader": {"backend": "decord", "timeout_s": None}}
    (folder / "settings.json").write_text(json.dumps(settings))
    inspect(words)
    text = page.read_text(encoding="utf-8")
    assert "data:image/jpeg" not in text and "not shown: " in text
    assert "video.backend=decord cannot be trusted with it (mpeg4 in avi" in text


def test_a_config_that_is_no_runs_is_not_read(data, evaluation, tmp_path):
    copy = shutil.copytree(data, tmp_path / "copy")
    for folder in (copy, evaluation[0]):
        (folder / "config.yaml").write_text("data: 3\n")
    for path in (copy, copy / "train.jsonl", evaluation[0]):
        assert len(inspect([str(path), f"output={tmp_path / 'page.html'}"], limit=1).rows) == 1


def write_run(folder, data, completions):
    """Write a run on `data` of these (step, row id, said, reward)."""
    folder.mkdir()
    (folder / "config.yaml").write_text(f"data: {{path: {data}, split: train, mix: null}}\ntrainer: {{name: grpo}}\n")
    (folder / "run.json").write_text('{"schema_version": 1, "status": "done"}')
    (folder / "log.jsonl").write_text('{"schema_version": 1, "step": 1}\n')
    names = ("step", "id", "completion", "reward")
    records = [dict(zip(names, item, strict=True)) for item in completions]
    (folder / "completions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(folder)


@pytest.fixture
def trained(data, tmp_path):
    """A run that said "1" and "2" of one room size at steps 1 and 2, both done again after a resume."""
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    row = next(row for row in rows if row["question_type"] == "room_size_estimation")
    key = f"{row['dataset']}/{row['id']}"
    first = [(1, "1", 0.25), (1, "1", 0.25), (1, "2", 1.5)]
    said = [*first, (2, "lost", 0.0), *first, (2, "1", 0.0), (2, "2", 0.75)]
    return write_run(tmp_path / "run", data, [(step, key, text, reward) for step, text, reward in said]), row


def test_what_a_run_said_comes_with_its_reward_newest_step_first(trained):
    folder, row = trained
    seen = inspect([folder]).rows
    assert [(item.step, item.prediction, item.score, item.times, item.of) for item in seen] == [
        (2, "1", 0.0, 1, 2),
        (2, "2", 0.75, 1, 2),
        (1, "1", 0.25, 2, 3),
        (1, "2", 1.5, 1, 3),
    ]
    assert seen[2].text().splitlines()[-1] == "  step 1, 2 of 3 rollouts" and "reward: 0.25" in seen[2].text()
    assert row["question"] in seen[0].text()
    assert [item.step for item in inspect([folder, "step=1"]).rows] == [1, 1]
    assert [item.score for item in inspect([folder, "score=best"]).rows] == [1.5, 0.75, 0.25, 0.0]
    assert len(inspect([folder, f"scene={row['scene_name']}", "type=room_size_estimation"]).rows) == 4


def test_ids_with_a_hash_and_repeated_rows_are_found(data, tmp_path):
    lines = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()[:2]]
    lines[0]["id"], lines[1]["id"] = "q#7", "q"
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    # "q#7" is a row's own id; "q#1" is the row q when it occurs for the second time.
    said = [(1, "demo/q#7", "a", 0.0), (2, "demo/q", "b", 0.0), (3, "demo/q#1", "c", 0.0)]
    seen = inspect([write_run(tmp_path / "run", folder, said)]).rows
    assert [(item.row.id, item.prediction) for item in seen] == [("q", "c"), ("q", "b"), ("q#7", "a")]


def test_rows_of_another_writer_are_found(data, tmp_path):
    lines = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()[:3]]
    ids = ("a", "k\u00fcche", 'b"7')
    for line, name in zip(lines, ids, strict=True):
        line["id"] = name
        line["extra"] = {"id": "other"}
    folder = tmp_path / "own"
    folder.mkdir()
    # An id that is nested before the row's own, no space behind the colon, two, and escapes of ASCII writers.
    lines[0] = {"extra": lines[0].pop("extra"), **lines[0]}
    texts = [json.dumps(lines[0], separators=(",", ":")), json.dumps(lines[1]), json.dumps(lines[2])]
    texts[2] = texts[2].replace('"id": "b', '"id" :  "b')
    assert "\\u00fc" in texts[1] and '"id" :  "b\\"7"' in texts[2]
    (folder / "train.jsonl").write_text("\ufeff" + "\n".join(texts) + "\n", encoding="utf-8")
    seen = inspect([write_run(tmp_path / "run", folder, [(1, f"demo/{name}", "x", 0.0) for name in ids])]).rows
    assert [item.row.id for item in seen] == list(ids)


def test_a_page_of_a_run_has_frames_and_rewards(trained, tmp_path):
    page = tmp_path / "said.html"
    inspect([trained[0], "score=best", f"output={page}"], limit=1)
    text = page.read_text(encoding="utf-8")
    assert "reward 1.50" in text and "step 1, 1 of 3 rollouts" in text
    assert text.count("data:image/jpeg") == 3 and 'class="hit one"' in text


def test_a_run_that_cannot_be_shown_says_why(trained, data, tmp_path):
    folder, _ = trained
    with pytest.raises(ConfigError, match="no row fits") as error:
        inspect([folder, "step=7"])
    assert "steps 1 to 2" in str(error.value.hint)
    gone = write_run(tmp_path / "gone", tmp_path / "moved", [(1, "demo/q1", "1", 0.0)])
    with pytest.raises(DataError, match=r"row demo/q1 is not in .*moved"):
        inspect([gone])
    (tmp_path / "gone/completions.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"a training run without completions\.jsonl"):
        inspect([gone])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "0 paths"),
        (["a", "b"], "2 paths"),
        (["{data}", "kind=x"], "kind: unknown key"),
        (["{data}", "score=low"], "score=low"),
        (["{data}", "type=x"], "no row fits"),
        (["{data}", "score=best"], "no predictions"),
        (["{data}", "step=3"], "step=3, but not a training run"),
    ],
)
def test_what_cannot_be_shown_is_said(words, message, data):
    with pytest.raises(ConfigError, match=message):
        inspect([word.format(data=data) for word in words])


def test_json_and_a_missing_path(data, capsys):
    assert run(["inspect", str(data), "--limit", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["prediction"] is None
    assert run(["inspect", "no/such"]) == 2
    assert "no/such: no such file or folder" in capsys.readouterr().err


def shown(urls):
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


def test_pages_show_the_frames_that_the_run_read(tmp_path):
    path = tmp_path / "a.avi"
    write_avi(path)
    media = [("video", path)]
    urls, problems = pictures(media, {"backend": "pyav", "timeout_s": None})
    assert problems == []
    assert [round(np.asarray(image).mean() / 128) for image in shown(urls)] == [0, 1, 2]  # first, middle, last
    assert pictures(media, {})[0] == urls
    assert pictures(media, {"backend": "gone", "timeout_s": None})[0] == urls  # equal by contract
    gone = ("video", tmp_path / "gone.mp4")
    found, problems = pictures([gone, *media], {})
    assert found == urls and problems == [f"{gone[1]}: cannot be opened (No such file or directory)"]
    pytest.importorskip("decord")
    found, problems = pictures(media, {"backend": "decord", "timeout_s": None})
    assert found == [] and "cannot be trusted" in problems[0]  # that run refused it


def test_pages_show_a_turned_video_upright(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.set_display_rotation(90)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))))
        container.mux(stream.encode(None))
    assert {image.size for image in shown(pictures([("video", path)], {})[0])} == {(48, 64)}


def test_rows_of_a_type_that_no_scorer_knows_are_shown(data, tmp_path):
    video = next((data / "videos" / "demo").glob("*.mp4"))
    shutil.copyfile(video, tmp_path / "a.mp4")
    row = {
        "question": "Which is nearer to the door?",
        "options": ["the sofa", "the bed"],
        "answer": "B",
        "video": "a.mp4",
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    folder = dataset_folder(str(tmp_path / "rows.jsonl"))
    (found,) = inspect([str(folder), f"output={tmp_path / 'rows.html'}"]).rows
    assert (found.row.question_type, found.row.answer) == ("other", "the bed")
    assert "data:image/jpeg;base64," in (tmp_path / "rows.html").read_text()
    with pytest.raises(DataError) as caught:
        VsiBench.read(folder / "train.jsonl")
    assert caught.value.hint.startswith("benchmark=folder scores rows of any type")
