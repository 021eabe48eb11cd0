"""export-data: every format is read back as the same rows; what it cannot say is left out and counted."""

import hashlib
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from vsgrpo.cli import run
from vsgrpo.data.exporting.export_data import export_data
from vsgrpo.data.exporting.formats import FORMATS
from vsgrpo.data.exporting.settings import ExportSettings, parse_settings
from vsgrpo.data.frame_true import check_fields
from vsgrpo.data.importing.dataset_folder import ImportSettings
from vsgrpo.data.importing.import_data import import_data
from vsgrpo.data.manifest import changed_files, read_manifest
from vsgrpo.data.prompts import TRAIN_SENTENCES
from vsgrpo.data.rows import make_row, read_rows, write_rows
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.records import read_records
from vsgrpo.spatial.question import Question
from vsgrpo.spatial.question_types import QUESTION_TYPES
from vsgrpo.video.writer import write_video

SCENES = ("scene0000_00", "scene0001_00")
ASKED = (
    ("object_counting", "How many chair(s) are in this room?", None, "4", "4"),
    (
        "object_abs_distance",
        "Measuring from the centroid of each object, what is the direct distance between the desk and the "
        "caf\u00e9 sign (in meters)?",
        None,
        *("2.5", "2.5"),
    ),
    (
        "object_rel_distance",
        "Measuring from the centroid of each object, which of these objects (bed, sink, lamp, tv) is the closest to "
        "the chair?",
        ("bed", "sink", "lamp", "tv"),
        *("C", "lamp"),
    ),
    (
        "object_rel_direction_easy",
        "If I am standing by the desk and facing the sofa, is the lamp to the left or the right of the sofa?",
        ("right", "left"),  # not the order of the type: the column must be kept
        *("B", "left"),
    ),
    (
        "object_size_estimation",
        "What is the length of the longest dimension (length, width, or height) of the desk, measured in centimeters?",
        None,
        *("120", "120"),
    ),
    ("room_size_estimation", "What is the size of this room (in square meters)?", None, "20.4", "20.4"),
)


def asked_rows(scene):
    return [
        make_row(
            Question(QUESTION_TYPES[kind], text, options, truth, answer, ()),
            dataset="scannet",
            split="train",
            scene_name=scene,
            room=scene[:-3],
            video=f"videos/scannet/{scene}.mp4",
            generator={},
        )
        for kind, text, options, truth, answer in ASKED
    ]


@pytest.fixture
def dataset(tmp_path):
    rows = [row for scene in SCENES for row in asked_rows(scene)]
    write_rows(tmp_path / "own" / "train.jsonl", rows)
    for number, scene in enumerate(SCENES):
        frames = np.full((8, 56, 56, 3), 40 * number, np.uint8)
        write_video(tmp_path / "own" / "videos" / "scannet" / f"{scene}.mp4", iter(frames), fps=2)
    return tmp_path / "own"


def moment_of(frames):
    return {"moment": [{"frame": 3, "time_s": 1.2}], "frames_shown": frames}


def exported(dataset, name, **given):
    return export_data(ExportSettings(str(dataset), name, dataset.parent / f"to-{name}", **given))


def imported(out, **given):
    files = sorted(file for file in out.iterdir() if file.suffix in (".json", ".jsonl", ".parquet"))
    files = tuple(file for file in files if file.name not in ("manifest.json", "dataset_info.json"))
    settings = ImportSettings(files, out.with_name(f"{out.name}-back"), dev_fraction=0.0, **given)
    summary = import_data(settings)
    assert not summary.left_out, summary.table()
    return read_rows(settings.output / "train.jsonl")


def said(rows):
    return sorted(
        (row.scene_name, row.room, row.dataset, row.question_type, row.question, row.options, row.ground_truth)
        for row in rows
    )


@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_exported_and_imported_are_the_same_rows(name, shown, dataset):
    if shown and not FORMATS[name].has_prompt:
        pytest.skip("the format's text is its own")
    rows = read_rows(dataset / "train.jsonl")
    rows[3] = replace(rows[3], room="the flat", extra={"true_at": [16], "judged_at": [8, 16]})
    if name != "vsibench":  # has no count of 0
        rows[6] = replace(rows[6], answer="0", ground_truth="0")
    write_rows(dataset / "train.jsonl", rows)
    summary = exported(dataset, name, show_options=shown)
    assert summary.num_written == len(rows) == 12 and not summary.left_out
    back = imported(summary.out, **({"videos": dataset / "videos"} if name == "vsi100k" else {}))
    assert said(back) == said(rows)
    assert {row.extra["source_row"] for row in back} == {
        hashlib.sha256(line.encode() + b"\n").hexdigest() for line in (dataset / "train.jsonl").read_text().splitlines()
    }
    assert [row.extra["true_at"] for row in back if row.room == "the flat"] == [[16]]
    for row in back:
        check_fields(row, "row")
        assert row.video_path(summary.out.with_name(f"{summary.out.name}-back")).is_file()


@pytest.mark.parametrize("mode", ["vanilla", "think"])
def test_a_prompt_has_one_token_and_the_sentence_of_its_mode(mode, dataset):
    thought = [replace(row, reasoning="I look around.") for row in read_rows(dataset / "train.jsonl")]
    write_rows(dataset / "train.jsonl", thought)
    first = read_rows(dataset / "train.jsonl")[2]
    records = {}
    for name in ("llamafactory", "swift", "verl", "easyr1"):
        out = exported(dataset, name, mode=mode, show_options=True).out
        (file,) = (file for file in out.glob("train.*"))
        records[name] = [record for _, record in read_records(file)][2]
    wanted = f"<video>{first.question}\nOptions:\nA. bed\nB. sink\nC. lamp\nD. tv\n{TRAIN_SENTENCES[mode]} Answer with "
    for text in (
        records["llamafactory"]["messages"][0]["content"],
        records["swift"]["messages"][0]["content"],
        records["verl"]["prompt"][0]["content"],
        records["easyr1"]["problem"],
    ):
        assert text.startswith(wanted) and text.count("<video>") == 1
    target = "C" if mode == "vanilla" else "<think>I look around.</think><answer>C</answer>"
    assert records["swift"]["messages"][1] == {"role": "assistant", "content": target}
    assert records["verl"]["reward_model"] == {"style": "rule", "ground_truth": "C"}
    assert records["easyr1"]["videos"] == ["videos/scannet/scene0000_00.mp4"]


def test_preference_pairs_and_the_entry_of_llamafactory(dataset):
    out = exported(dataset, "llamafactory", method="dpo").out
    record = json.loads((out / "train.json").read_text(encoding="utf-8"))[3]
    assert [turn["role"] for turn in record["messages"]] == ["user"]
    assert (record["chosen"]["content"], record["rejected"]["content"]) == ("left", "right")
    entry = json.loads((out / "dataset_info.json").read_text())["vsgrpo_train"]
    assert entry["ranking"] and entry["file_name"] == "train.json"
    assert entry["columns"] == {name: name for name in ("messages", "videos", "chosen", "rejected")}
    swift = exported(dataset, "swift", method="dpo").out
    record = json.loads((swift / "train.jsonl").read_text(encoding="utf-8").splitlines()[3])
    assert (record["messages"][1]["content"], record["rejected_response"]) == ("left", "right")


def test_columns_that_other_readers_need(dataset):
    grpo = json.loads((exported(dataset, "swift", method="grpo").out / "train.jsonl").read_text().splitlines()[4])
    assert [turn["role"] for turn in grpo["messages"]] == ["user"]
    assert {name: grpo[name] for name in ("solution", "question_type", "answer_kind", "unit", "room")} == {
        "solution": "120",
        "question_type": "object_size_estimation",
        "answer_kind": "number",
        "unit": "cm",
        "room": "scene0000",
    }
    table = pq.read_table(exported(dataset, "verl").out / "train.parquet").to_pylist()
    assert table[0]["videos"] == [{"video": "videos/scannet/scene0000_00.mp4"}] and table[0]["data_source"] == "vsgrpo"
    r1 = json.loads((exported(dataset, "video-r1").out / "train.json").read_text())
    assert Counter(item["problem_type"] for item in r1) == {"numerical": 2, "regression": 6, "multiple choice": 4}
    assert r1[2]["solution"] == "<answer>C</answer>" and r1[2]["options"][2] == "C. lamp"
    assert r1[0]["path"] == "./videos/scannet/scene0000_00.mp4"
    vlm3r = json.loads((exported(dataset, "vlm3r").out / "train.json").read_text())
    assert vlm3r[2]["video"] == "scannet/videos/train/scene0000_00.mp4"
    assert vlm3r[2]["conversations"][0]["value"].startswith("<image>\nThese are frames of a video.\nMeasuring")
    six = exported(dataset, "vsi100k").out
    assert sorted(file.stem for file in six.glob("*.json")) == sorted(["manifest", *(asked[0] for asked in ASKED)])
    rows = json.loads((six / "object_rel_distance.json").read_text())
    assert (rows[0]["scene"], rows[0]["answer"]) == ("scene0000_00", "lamp")


def test_no_file_names_a_path_of_this_machine_and_the_manifest_knows_every_file(dataset):
    for name in FORMATS:
        out = exported(dataset, name).out
        for file in out.iterdir():
            if file.is_file():
                assert str(dataset.parent).encode() not in file.read_bytes(), file
                assert b"\r" not in file.read_bytes() or file.suffix == ".parquet"
        manifest = read_manifest(out)
        assert changed_files(out, manifest) == [] and manifest.rooms == {"train": ["scene0000", "scene0001"]}
        there = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
        assert there == {"manifest.json", *manifest.files}


def test_what_a_format_cannot_say_is_left_out_and_counted(dataset):
    rows = read_rows(dataset / "train.jsonl")
    zero = replace(rows[0], id="zero", question="How many bed(s) are in this room?", ground_truth="0", answer="0")
    own = replace(rows[0], id="own", question="What is on the desk?", question_type="other", answer_kind="text")
    moment = replace(rows[0], id="m", question="In frame 3 of 8, is it day?", extra=moment_of(8))
    lost = replace(rows[0], id="lost", media=({"kind": "video", "path": "videos/scannet/scene0002_00.mp4"},))
    images = replace(rows[0], id="images", media=({"kind": "image", "path": "a.jpg"},))
    write_rows(dataset / "train.jsonl", [*rows, zero, own, moment, lost, images])
    summary = exported(dataset, "vsibench")
    assert summary.num_written == 12
    assert [(number, reason.partition(" (")[0]) for reason, number in sorted(summary.left_out.items())] == [
        (1, "VSI-Bench has no questions of type other"),
        (1, "a count of 0, by which VSI-Bench's scorer divides"),
        (1, "its video is not there"),
        (1, "shows something else than one video"),
        (1, "true for one number of frames alone, which only frame lists fix"),
    ]
    assert read_manifest(summary.out).counts["left_out"] == summary.left_out
    assert exported(dataset, "swift", mode="think", media="none", method="grpo").num_written == 15  # no thought needed
    with pytest.raises(DataError, match="no reasoning, which prompt"):
        exported(dataset, "llamafactory", mode="think")
    assert not (dataset.parent / "to-llamafactory").exists() and not list(dataset.parent.glob(".to-llamafactory*"))


def test_frame_lists_show_the_frames_and_take_rows_with_a_moment(dataset):
    rows = read_rows(dataset / "train.jsonl")
    right, wrong = (
        replace(rows[0], id=f"m{n}", question=f"In frame 3 of {n}, how many chairs?", extra=moment_of(n))
        for n in (8, 16)
    )
    false = replace(rows[1], id="f", question=rows[1].question + " ", extra={"true_at": [16], "judged_at": [8, 16]})
    timed = replace(right, id="t", question="At 1.2 s, how many chairs?")
    write_rows(dataset / "train.jsonl", [*rows, right, wrong, false, timed])
    summary = exported(dataset, "swift", frames=8)
    assert summary.num_written == 13 and summary.num_media == 16
    assert summary.left_out == {
        "not true for 8 frames (extra.true_at, frames_shown)": 2,
        "speaks of seconds, which a list of pictures does not tell": 1,
    }
    record = json.loads((summary.out / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert record["videos"] == [[f"frames/scannet/scene0000_00/{k:05d}.jpg" for k in range(8)]]
    assert (summary.out / record["videos"][0][7]).is_file()
    back = imported(summary.out)
    asked = {(row.scene_name, row.question, row.ground_truth) for row in back}
    assert asked == {(row.scene_name, row.question, row.ground_truth) for row in [*rows, right]}
    assert [item["kind"] for item in back[0].media] == ["image"] * 8
    assert [row.extra["frames_shown"] for row in back if "moment" in row.extra] == [8]


@pytest.mark.parametrize("place", ["train.jsonl", "manifest.json", "TRAIN.JSON/a.mp4", ".lock"])
def test_no_file_of_rows_is_written_through_the_link_of_a_video(place, dataset):
    """A video in the place of the row file would be a hard link to the source, which writing rows would empty."""
    rows = read_rows(dataset / "train.jsonl")
    video = dataset / place
    video.parent.mkdir(exist_ok=True)
    video.write_bytes(video.read_bytes() if video.is_file() else b"{}")
    rows[0] = replace(rows[0], media=({"kind": "video", "path": place},))
    write_rows(dataset / "train.jsonl", rows)
    before = {path: path.read_bytes() for path in (video, dataset / "train.jsonl")}
    summary = exported(dataset, "swift")
    assert summary.left_out == {"its video is called like a file of rows": 1} and summary.num_written == 11
    assert {path: path.read_bytes() for path in before} == before


def test_maps_come_back_without_the_sentence_of_their_mode(dataset):
    scene = read_rows(dataset / "train.jsonl")[0]
    said = '<map>{"table": [[0, 3]], "chair": [[9, 3], [1, 1]]}</map>'
    asked = {"question_type": "object_map", "answer_kind": "map", "question": "Draw a map.", "reasoning": "I look."}
    row = replace(scene, **asked, answer=said, ground_truth=said, unit=None)
    write_rows(dataset / "train.jsonl", [row])
    for name, entry in FORMATS.items():
        if name in ("vsibench", "vsi100k"):
            with pytest.raises(DataError, match="has no questions of type object_map"):
                exported(dataset, name)
            continue
        for mode in ("vanilla", "think", "observe") if entry.has_prompt else ("vanilla",):
            out = export_data(ExportSettings(str(dataset), name, dataset.parent / f"{name}-{mode}", mode=mode)).out
            (back,) = imported(out)
            assert (back.question, back.answer, back.answer_kind) == ("Draw a map.", said, "map"), (name, mode)


def test_a_benchmark_room_is_refused_and_nothing_is_left_behind(dataset):
    leaked = [replace(row, scene_name="scene0025_00", room="scene0025") for row in asked_rows("scene0025_00")]
    write_rows(dataset / "train.jsonl", [*read_rows(dataset / "train.jsonl"), *leaked])
    with pytest.raises(DataError, match="VSI-Bench"):
        exported(dataset, "swift", media="none")
    assert sorted(path.name for path in dataset.parent.iterdir()) == ["own"]


def test_rooms_of_a_benchmark_that_is_kept_out_are_refused_and_the_manifest_names_its_file(dataset, tmp_path):
    rows = tmp_path / "bench" / "test.jsonl"
    rows.parent.mkdir()
    rows.write_text('{"video": "ScanNet/scene0001_02.mp4"}\n')  # another recording of a room of the dataset
    words = [str(dataset), "swift", f"output={tmp_path / 'out'}", "media=none", f"data.keep_out=[{rows}]"]
    with pytest.raises(DataError, match=r"room scene0001 is in .*test\.jsonl \(data\.keep_out\) \(6 of 12 rows\)"):
        export_data(parse_settings(words))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench", "own"]
    rows.write_text('{"video": "ScanNet/scene0002_00.mp4"}\n{"id": 2}\n')
    summary = export_data(parse_settings(words))
    assert "data.keep_out: 1 room of 1 file denied as VSI-Bench's; 1 of 2 rows there name none" in summary.notes
    manifest = read_manifest(summary.out)
    (file,) = manifest.counts["keep_out"]["files"]
    assert (file["file"], file["rooms"], file["rows_without_room"]) == ("test.jsonl", 1, 1)
    assert manifest.config["exported"]["keep_out"] == ["test.jsonl"]
    assert str(tmp_path) not in (summary.out / "manifest.json").read_text()
    with pytest.raises(DataError, match=r"data\.keep_out=.*nothing: no such file"):
        export_data(parse_settings([*words[:-1], f"data.keep_out={tmp_path / 'nothing'}", f"output={tmp_path / 'b'}"]))


def test_nothing_is_overwritten_unasked_and_files_of_others_never(dataset, tmp_path):
    out = exported(dataset, "easyr1").out
    again = ExportSettings(str(dataset), "easyr1", out)
    with pytest.raises(DataError, match="holds an export already"):
        export_data(again)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"1 file that no export wrote, such as notes\.txt"):
        export_data(again, overwrite=True)
    (out / "notes.txt").unlink()
    export_data(replace(again, format="swift"), overwrite=True)
    assert read_manifest(out).config["exported"]["format"] == "swift"
    with pytest.raises(DataError, match="is no export"):
        export_data(replace(again, dataset=str(out), output=dataset), overwrite=True)
    with pytest.raises(DataError, match="lies in output"):
        export_data(replace(again, output=tmp_path), overwrite=True)
    assert len(read_rows(dataset / "train.jsonl")) == 12


@pytest.mark.parametrize(
    ("words", "says", "hint"),
    [
        (["own", "swfit", "output=o"], "FORMAT=swfit: not one of", "did you mean swift?"),
        (["own", "swift"], "output: no value given", "output=DIR"),
        (["own", "output=o"], "1 name given", "formats: llamafactory"),
        (["own", "swift", "output=o", "metod=sft"], "metod: unknown key", "did you mean method?"),
        (["own", "easyr1", "output=o", "method=dpo"], "method=dpo: rows of easyr1 are for grpo", "llamafactory, swift"),
        (["own", "verl", "output=o", "frames=8"], "frames=8: verl has no frame lists", "swift"),
        (["own", "swift", "output=o", "frames=7"], "frames=7: loaders show pairs", "frames=32"),
        (["own", "swift", "output=o", "frames=x"], "frames=x: a whole number", "frames=32"),
        (["own", "vsibench", "output=o", "prompt=think"], "prompt.mode: has no effect", "leave out"),
    ],
)
def test_wrong_words_are_named_with_a_way_out(words, says, hint):
    with pytest.raises(ConfigError) as raised:
        parse_settings(words)
    assert says in raised.value.message and hint in raised.value.hint


@pytest.mark.integration
def test_the_command(dataset, capsys):
    out = dataset.parent / "out"
    assert run(["export-data", str(dataset), "swift", f"output={out}", "method=grpo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == 12
    assert run(["export-data", str(dataset), "swift", f"output={out}"]) == 2
    assert "holds an export already" in capsys.readouterr().err
    assert run(["export-data", str(dataset.parent / "nothing"), "swift", f"output={out}2"]) == 2
    assert "no such folder or file" in capsys.readouterr().err
    assert run(["export-data", str(dataset), "swift", f"output={out}", "data.split=dev", "--overwrite"]) == 2
    assert "dev.jsonl: no such file" in capsys.readouterr().err
    assert read_manifest(out).counts["written"] == 12
