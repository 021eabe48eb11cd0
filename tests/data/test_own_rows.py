"""Rows of one's own: question, answer and media are enough; all faults at once; files, folders, parquet, the hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hub_server import Repo, serve_hub
from vsgrpo.cli import run
from vsgrpo.config.compose import load_config
from vsgrpo.data.importing.own_records import OwnRowFaults
from vsgrpo.data.own_rows import dataset_folder, is_complete, with_own_rows
from vsgrpo.data.rows import read_rows
from vsgrpo.errors import DataError
from vsgrpo.video.writer import write_video

pytestmark = pytest.mark.integration


def film(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, (np.full((64, 64, 3), 40 * shade, np.uint8) for shade in range(6)), fps=2)


def ten_rows():
    counts = [
        {"question": f"How many chair(s) are in room {n}?", "answer": n + 1, "video": f"clips/room{n % 3}.mp4"}
        for n in range(5)
    ]
    choices = [
        {
            "question": f"Which one is nearer to door {n}?",
            "options": ["the chair", "the table", "the sofa"],
            "answer": "B" if n % 2 else "the table",
            "video": f"clips/room{n % 3}.mp4",
            "difficulty": n,
        }
        for n in range(5)
    ]
    return counts + choices


@pytest.fixture
def own(tmp_path):
    for number in range(3):
        film(tmp_path / "own" / "clips" / f"room{number}.mp4")
    return tmp_path / "own"


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_ten_rows_of_four_fields_are_a_dataset_in_one_step(own, capsys):
    file = write(own / "rows.jsonl", ten_rows())
    assert run(["-q", "check-data", str(file), "model=tiny"]) == 0, capsys.readouterr()
    folder = dataset_folder(str(file))
    rows = read_rows(folder / "train.jsonl")
    assert folder == own / "rows.complete" and len(rows) == 10
    assert {row.answer_kind for row in rows} == {"number", "choice"}
    assert all(row.ground_truth == "B" and row.answer == "the table" for row in rows if row.answer_kind == "choice")
    assert [row.extra["difficulty"] for row in rows if row.answer_kind == "choice"] == [0, 1, 2, 3, 4]
    assert {row.scene_name for row in rows} == {"room0", "room1", "room2"}
    assert all((folder / row.media[0]["path"]).samefile(own / row.extra["source_video"]) for row in rows)  # no copy


def test_rows_are_completed_once_and_again_when_the_file_has_changed(own):
    file = write(own / "rows.jsonl", ten_rows())
    folder = dataset_folder(str(file))
    written = (folder / "train.jsonl").stat().st_mtime_ns
    assert dataset_folder(str(file)) == folder and (folder / "train.jsonl").stat().st_mtime_ns == written
    write(file, ten_rows()[:4])
    assert len(read_rows(dataset_folder(str(file)) / "train.jsonl")) == 4
    assert json.loads(file.read_text().splitlines()[0])["answer"] == 1  # the user's file is as it was


def test_every_fault_is_named_at_once_with_its_lines(own, capsys):
    rows = ten_rows()
    del rows[0]["answer"], rows[0]["video"]
    del rows[1]["question"]
    del rows[9]["answer"]
    rows[2]["video"] = "clips/none.mp4"
    rows[3] = "a text"
    rows[4]["answer"] = -1
    rows[5]["answer"] = "the lamp"
    rows[6]["options"] = ["one"]
    rows[7]["video"] = "/elsewhere/room.mp4"
    file = write(own / "rows.jsonl", rows)
    with pytest.raises(OwnRowFaults) as caught:
        dataset_folder(str(file))
    said = "\n".join(caught.value.problems)
    for part in (
        f"{file}: 2 rows: no answer (lines 1, 10)",
        f"{file}:1: no video and no image",
        f"{file}:2: no question",
        f"{file}:3: no such video",
        f"{file}:4: not a JSON object",
        f"{file}:5: an answer of 0",
        f"{file}:6: an answer that is none of its options",
        f"{file}:7: options that are not 2 to 6",
        f"{file}:8: a path that leaves the folder",
    ):
        assert part in said
    assert len(caught.value.problems) == 9
    assert not (own / "rows.complete" / "train.jsonl").exists()
    assert run(["-q", "check-data", str(file), "model=tiny"]) == 2
    assert capsys.readouterr().out.count("problem: ") == 9


@pytest.mark.parametrize(
    "row",
    [
        {"video": "scannet/scene0025_00.mp4"},
        {"video": "arkitscenes/41069025.mp4"},
        {"id": "scene0025_00"},
        {"scene": "scene0025_00"},
        {"note": {"from": "arkitscenes/videos/41069025.mov"}},
    ],
)
def test_a_room_of_the_benchmark_is_refused_wherever_a_row_names_it(own, row):
    for name in ("scannet/scene0025_00.mp4", "arkitscenes/41069025.mp4"):
        film(own / name)
    rows = ten_rows()
    rows[4] |= row
    file = write(own / "rows.jsonl", rows)
    with pytest.raises(OwnRowFaults) as caught:
        dataset_folder(str(file), allow_val_safe=True)
    assert f"{file}:5: " in caught.value.problems[0] and "VSI-Bench" in caught.value.message + caught.value.hint


def test_folders_parquet_and_lists_are_taken_too(own):
    write(own / "train.jsonl", ten_rows()[:6])
    write(own / "dev.jsonl", [{**row, "scene": f"other{n}"} for n, row in enumerate(ten_rows()[6:])])
    folder = dataset_folder(str(own))
    assert folder == own / "complete"
    assert [len(read_rows(folder / f"{name}.jsonl")) for name in ("train", "dev")] == [6, 4]
    table = [{"options": None, **row, "answer": str(row["answer"])} for row in ten_rows()]
    pq.write_table(pa.Table.from_pylist(table), own / "rows.parquet")
    assert len(read_rows(dataset_folder(str(own / "rows.parquet")) / "train.jsonl")) == 10
    (own / "list.json").write_text(json.dumps(ten_rows()))
    assert len(read_rows(dataset_folder(str(own / "list.json")) / "train.jsonl")) == 10
    assert dataset_folder(str(folder)) == folder  # what is complete stays as it is
    assert dataset_folder(str(folder / "train.jsonl")) == folder


def test_a_preference_and_a_thought_are_kept(own):
    rows = [{**ten_rows()[0], "rejected": "9", "reasoning": "I count them."}, {**ten_rows()[5], "rejected": "C"}]
    found = read_rows(dataset_folder(str(write(own / "rows.jsonl", rows))) / "train.jsonl")
    assert [row.rejected for row in found] == ["9", "the sofa"]
    assert found[0].reasoning == "I count them." and "reasoning" not in found[0].extra


def test_a_row_of_ours_that_lacks_fields_is_completed(own):
    row = {"schema_version": 1, "question": "How many chair(s) are in this room?", "answer": "2", "objects": []}
    row |= {"media": [{"kind": "video", "path": "clips/room0.mp4"}], "extra": {"level": 3}}
    (found,) = read_rows(dataset_folder(str(write(own / "train.jsonl", [row]))) / "train.jsonl")
    assert found.extra["level"] == 3 and found.answer_kind == "number" and "schema_version" not in found.extra


def test_what_is_no_data_names_the_ways(tmp_path):
    with pytest.raises(DataError) as caught:
        dataset_folder(str(tmp_path / "none.jsonl"))
    assert "no such folder or file" in caught.value.message and "FILE.jsonl" in caught.value.hint
    with pytest.raises(DataError) as caught:
        dataset_folder(str(tmp_path))
    assert "has no train.jsonl" in caught.value.message and "import-data" in caught.value.hint


def test_a_later_row_that_lacks_fields_is_completed_too(own):
    folder = dataset_folder(str(write(own / "rows.jsonl", ten_rows())))
    whole = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    whole = [
        {**row, "media": [{**item, "path": f"clips/{Path(item['path']).name}"} for item in row["media"]]}
        for row in whole
    ]
    assert is_complete(write(own / "train.jsonl", whole))
    mixed = write(own / "mixed.jsonl", [*whole[:5], *ten_rows()[5:]])
    assert not is_complete(mixed)
    rows = read_rows(dataset_folder(str(mixed)) / "train.jsonl")
    assert sorted(row.question for row in rows) == sorted(row["question"] for row in ten_rows())


def test_a_dry_run_leaves_nothing_behind(own, capsys):
    file = write(own / "rows.jsonl", ten_rows())
    before = sorted(own.rglob("*"))
    words = ["train", "sft", f"data={file}", "model=tiny", f"output={own / 'run'}", "launch=cpu", "--dry-run"]
    assert run(words) == 0
    assert "rows: 10" in capsys.readouterr().out
    assert sorted(own.rglob("*")) == before


def test_train_takes_a_file_of_rows_and_mixes_another(own, capsys):
    file = write(own / "rows.jsonl", ten_rows())
    more = write(own / "more.jsonl", [{**row, "question": f"{row['question']} Again."} for row in ten_rows()])
    words = ["trainer=sft", f"data={file}", f"data.mix=[{{path: {more}, weight: 1}}]", "model=tiny", "output=o"]
    config = with_own_rows(load_config("train", words))
    assert [source.path for source in config.data.sources()] == [str(own / "rows.complete"), str(own / "more.complete")]
    start = ["-q", "train", "sft", f"data={file}", "model=tiny", f"output={own / 'run'}", "trainer.max_steps=1"]
    start += ["trainer.per_device_train_batch_size=2", "trainer.gradient_accumulation_steps=1", "launch=cpu"]
    assert run(start) == 0, capsys.readouterr()


@pytest.fixture
def hub(own):
    rows = "".join(json.dumps(row) + "\n" for row in ten_rows())
    files = {"train.jsonl": rows.encode(), "README.md": b"# Rooms\n"}
    files |= {f"clips/{path.name}": path.read_bytes() for path in (own / "clips").iterdir()}
    with serve_hub() as found:
        found.repos["datasets", "org/rooms"] = Repo(files)
        yield found.endpoint


def check_from_hub(name, endpoint, cache, **more):
    env = {**os.environ, "HF_ENDPOINT": endpoint, "VSGRPO_CACHE_DIR": str(cache), "HF_HUB_OFFLINE": "0", **more}
    command = [sys.executable, "-m", "vsgrpo.cli", "check-data", name, "model=tiny"]
    return subprocess.run(command, env=env, cwd=cache, capture_output=True, text=True, timeout=120, check=False)


def test_rows_come_from_the_hub_and_offline_is_said_at_once(hub, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    done = check_from_hub("org/rooms", hub, cache)
    assert done.returncode == 0, done.stderr
    assert "train.jsonl: 10 rows" in done.stdout and "all is well" in done.stdout
    again = check_from_hub("org/rooms", hub, cache, HF_HUB_OFFLINE="1")  # what is there is taken
    assert again.returncode == 0, again.stderr
    missing = check_from_hub("org/nothing", hub, cache)
    assert missing.returncode == 2 and "no such data set on the hub" in missing.stderr
    offline = check_from_hub("org/other", hub, cache, HF_HUB_OFFLINE="1")
    assert offline.returncode == 2 and "HF_HUB_OFFLINE=1" in offline.stderr
    unreachable = check_from_hub("org/other", "http://127.0.0.1:9", cache)
    assert unreachable.returncode == 2 and "127.0.0.1:9 cannot be reached" in unreachable.stderr
