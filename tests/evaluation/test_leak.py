"""Every scoring command asks the lineage first: names, visits, chains of models, and the bytes of videos."""

import hashlib
import json
import os
import shutil
from dataclasses import replace

import pytest

from evaluation_rows import leak_of, official_rows, write_vsibench
from vsgrpo.cli import run
from vsgrpo.data.lineage import lineage_of
from vsgrpo.data.manifest import TrainingManifest, training_manifest, write_training_manifest
from vsgrpo.data.rows import write_rows
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import ReadOptions, question_row
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench
from vsgrpo.evaluation.leak import check_lineage, compare_rows


def model(folder, *, adapter_of=None, **fields):
    """Write a folder that says what it was trained on; it has no weights, so nothing can have loaded them."""
    folder.mkdir(parents=True)
    if adapter_of is not None:
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(adapter_of)}))
    else:
        for name in ("config.json", "processor_config.json", "tokenizer.json"):
            (folder / name).write_text(json.dumps({"model_type": "qwen2_vl"}))
    if fields:
        write_training_manifest(folder, TrainingManifest(**fields))
    return folder


VAL = "scene0015"
"""A room of ScanNet's val split that VSI-Bench does not use."""
LEAKS = (
    {"scannet": ["scene0025"]},
    {"arkitscenes": ["381658"]},  # a visit
    {"arkitscenes": ["41069021"]},  # a video, as manifests before the visits were known recorded it
    {"imported": ["41069025"]},
    {"imported": ["09c1414f1b"]},
    {"ScanNet++": ["3864514494"]},
    {"mine": ["SCENE_0025_01"]},
)


@pytest.mark.parametrize("rooms", LEAKS, ids=str)
def test_a_benchmark_room_is_found_however_it_was_recorded(tmp_path, rooms):
    bad = model(tmp_path / "bad", rooms=rooms)
    model(tmp_path / "chain", parents=[TrainingManifest(parents=[lineage_of(str(bad))])])
    for name in ("bad", "chain"):
        with pytest.raises(DataError, match=r"trained on 1 benchmark room, such as"):
            check_lineage(str(tmp_path / name))
        assert check_lineage(str(tmp_path / name), allow_leak=True)[0].verdict() == "leak"


@pytest.mark.integration
def test_every_scoring_command_refuses_before_it_reads_anything(tmp_path, capsys):
    bad = model(tmp_path / "bad", rooms={"imported": ["41069025"]})
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{")  # would be the error, were rows read first
    for benchmark in ("vsibench", "folder", "mathvista"):
        words = [f"model={bad}", f"benchmark={benchmark}", f"benchmark.path={broken}", f"output={tmp_path / 'o'}"]
        assert run(["eval", *words]) == 2
        error = capsys.readouterr().err
        assert "trained on 1 benchmark room, such as arkitscenes/381658" in error and "--allow-leak" in error
        assert not (tmp_path / "o").exists()
    for extra in ([], ["benchmark=mathvista", f"benchmark.path={broken}"]):
        assert run(["score", str(broken), f"model.path={bad}", *extra]) == 2
        assert "trained on 1 benchmark room" in capsys.readouterr().err


@pytest.mark.integration
def test_several_models_are_all_checked_before_the_first_is_scored(tmp_path, capsys):
    write_vsibench(tmp_path / "bench", 1)
    bad = model(tmp_path / "bad", rooms={"imported": ["41069025"]})
    words = [f"benchmark.path={tmp_path / 'bench'}", f"output={tmp_path / 'o'}"]
    assert run(["eval", "model=tiny", f"model={bad}", *words]) == 2
    assert f"model.path={bad}: trained on" in capsys.readouterr().err and not (tmp_path / "o").exists()


def test_the_base_of_an_adapter_is_its_ancestor_even_if_its_record_does_not_say(tmp_path):
    bad = model(tmp_path / "bad", rooms={"scannet": ["scene0025"]})
    for name, fields in (("silent", {}), ("other", {"rooms": {"demo": ["demo000000"]}})):
        adapter = model(tmp_path / name, adapter_of=bad, **fields)
        with pytest.raises(DataError, match="such as scene0025"):
            check_lineage(str(adapter))
        with pytest.raises(DataError, match=r"model\.adapter"):
            check_lineage("tiny", str(adapter))
    clean = model(tmp_path / "clean", rooms={"demo": ["demo000000"]})
    assert (
        lineage_of(str(model(tmp_path / "fine", adapter_of=clean, rooms={"demo": ["demo000001"]}))).verdict() == "clean"
    )
    loop = model(tmp_path / "loop", adapter_of=tmp_path / "loop")
    assert lineage_of(str(loop)).verdict() == "unknown"


def test_a_model_without_lineage_is_named(tmp_path, capsys):
    nothing = model(tmp_path / "somebody")
    check_lineage(str(nothing))
    assert "somebody has no training_manifest.json: what it was trained on cannot be told" in capsys.readouterr().err
    leak = leak_of(VsiBench.read(_official(tmp_path)), check_lineage(str(nothing)))
    assert leak.verdict == "unknown" and "no training_manifest.json" in leak.notes()[0]
    assert leak.to_json()["reason"] == leak.reason


def _official(tmp_path, rows=None):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows or official_rows(2)))
    return path


def test_a_visit_trained_on_under_another_video_is_a_leak(tmp_path):
    rows = [{**row, "dataset": "arkitscenes", "scene_name": "40777060"} for row in official_rows(1)]
    benchmark = VsiBench.read(_official(tmp_path, rows))  # in the benchmark's form, though of a visit it does not show
    assert {row.room for row in benchmark.rows} == {"369709"}
    trained = TrainingManifest(rooms={"imported": ["40777063"]})  # the other video of the visit
    with pytest.raises(DataError, match="such as arkitscenes/369709"):
        leak_of(benchmark, [trained])


def test_a_copy_of_a_benchmark_video_under_another_name_is_found_by_its_bytes(tmp_path):
    write_vsibench(tmp_path / "bench", 2)
    benchmark = VsiBench.read(tmp_path / "bench")
    shown = benchmark.rows[0]
    train = tmp_path / "train"
    (train / "videos").mkdir(parents=True)
    shutil.copy(benchmark.media(shown)[0][1], train / "videos" / "kitchen.mp4")
    row = replace(
        shown,
        dataset="mine",
        scene_name="kitchen",
        room="kitchen",
        media=({"kind": "video", "path": "videos/kitchen.mp4"},),
    )
    trained = training_manifest([row], {}, [], base=train)
    content = (train / "videos" / "kitchen.mp4").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert trained.videos == {"videos/kitchen.mp4": {"sha256": digest, "size": len(content)}}
    write_training_manifest(tmp_path / "m", trained)
    with pytest.raises(DataError, match=r"scene0000_00.mp4, there called videos/kitchen.mp4"):
        leak_of(benchmark, [lineage_of(str(tmp_path / "m"))])
    leak = leak_of(benchmark, [trained], allow_leak=True)
    assert (leak.verdict, len(leak.videos), leak.num_trained) == ("leak", 1, 0)
    # Rows of one's own: counted and shown, not refused.
    write_rows(tmp_path / "bench" / "dev.jsonl", benchmark.rows)
    leak = leak_of(VsiBench.read(tmp_path / "bench", ReadOptions("dev")), [trained])
    assert (leak.verdict, len(leak.videos)) == ("unknown", 1) and "under another name" in leak.notes()[1]
    # One byte more: another file.
    (train / "videos" / "kitchen.mp4").write_bytes(content + b"\0")
    assert leak_of(benchmark, [training_manifest([row], {}, [], base=train)]).verdict == "unknown"


def test_recorded_hashes_are_believed_only_while_size_and_time_agree(tmp_path):
    (tmp_path / "videos").mkdir()
    video = tmp_path / "videos" / "a.mp4"
    video.write_bytes(b"12345")
    stat = video.stat()
    record = {"sha256": "recorded", "size": 5, "mtime": stat.st_mtime}
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {"videos/a.mp4": record}}))
    row = replace(VsiBench.read(_official(tmp_path)).rows[0], media=({"kind": "video", "path": "videos/a.mp4"},))
    assert training_manifest([row], {}, [], base=tmp_path).videos["videos/a.mp4"]["sha256"] == "recorded"
    os.utime(video, (1, 1))
    found = training_manifest([row], {}, [], base=tmp_path).videos["videos/a.mp4"]["sha256"]
    assert found == hashlib.sha256(b"12345").hexdigest()


def test_score_believes_what_stands_beside_the_predictions(tmp_path, capsys):
    rows = _official(tmp_path)
    out = tmp_path / "eval"
    out.mkdir()
    file = out / "predictions.jsonl"
    file.write_text("".join(json.dumps({"id": str(row["id"]), "prediction": "3"}) + "\n" for row in official_rows(2)))
    asked = ["score", str(file), f"benchmark.path={rows}"]
    assert run(asked) == 0 and "leak check: unknown: nothing beside the file names the model" in capsys.readouterr().out
    prompt = {"mode": "vanilla", "wording": "eval", "show_options": True}
    bad = model(tmp_path / "bad", rooms={"scannet": ["scene0025"]})
    lmms = out / "20260101_results.json"  # as lmms-eval leaves it beside its sample logs
    lmms.write_text(json.dumps({"config": {"model": "qwen2_vl", "model_args": f"pretrained={bad},max_pixels=3136"}}))
    assert run(asked) == 2 and "such as scene0025" in capsys.readouterr().err
    lmms.unlink()
    (out / "settings.json").write_text(json.dumps({"prompt": prompt, "model": {"path": str(bad), "adapter": None}}))
    assert run(asked) == 2 and "such as scene0025" in capsys.readouterr().err
    assert run([*asked, "--allow-leak"]) == 0 and "leak check: leak: trained on 1" in capsys.readouterr().out
    (out / "settings.json").write_text(json.dumps({"prompt": prompt, "model": {"path": "tiny", "adapter": None}}))
    assert run(asked) == 0 and "leak check" not in capsys.readouterr().out
    # The model is gone, results.json remembers.
    (out / "results.json").write_text(json.dumps({"leak": {"verdict": "leak", "rooms": ["scene0025"]}}))
    assert run(asked) == 2 and "results.json: the model was trained on 1" in capsys.readouterr().err
    (out / "results.json").write_text('{"leak": {"verd')  # cut off: it could have said so
    assert run(asked) == 2 and "results.json: not JSON" in capsys.readouterr().err
    (out / "results.json").unlink()
    settings = json.dumps({"prompt": prompt, "model": {"path": str(bad), "adapter": None}})
    (out / "settings.json").write_bytes(b"\xef\xbb\xbf" + settings.encode())  # as editors of Windows save it
    assert run(asked) == 2 and "such as scene0025" in capsys.readouterr().err


def benchmark_rows(*names):
    """Rows of a published benchmark that name a scene each, or (None) none."""
    made = []
    for number, name in enumerate(names):
        scene = {} if name is None else {"scene_name": name, "room": name}
        media = [("video", f"16_frame/{name or number}.mp4")]
        made.append(question_row(str(number), "How many?", "2", media, dataset="revsi", **scene))
    return made


@pytest.mark.parametrize(
    ("trained", "label"),
    [
        ({"scannet": ["scene0123"]}, "scene0123"),  # another scan of the room
        ({"arkitscenes": ["47895738"]}, "arkitscenes/482324"),  # another video of the visit
        ({"ScanNet++": ["00dd871005"]}, "00dd871005"),
        ({"3rscan": ["0ad2d3a1-79e2-2212-9b99-a96495d9f7fe"]}, "0ad2d3a1"),
    ],
)
def test_a_room_of_another_benchmark_is_a_leak_too(tmp_path, trained, label):
    # No table lists these rooms: the rows of the benchmark name them.
    scenes = ("scene0123_01", "47895739", "00dd871005", "0ad2d3a1-79e2-2212-9b99-a96495d9f7fe")
    rows = benchmark_rows(*scenes)
    manifests = [TrainingManifest(rooms=trained)]
    with pytest.raises(DataError, match=rf"trained on 1 benchmark room, such as \S*{label}"):
        compare_rows(manifests, rows, lambda row: (), True)
    allowed = compare_rows(manifests, rows, lambda row: (), True, allow_leak=True)
    assert (allowed.verdict, allowed.num_trained, allowed.num_rooms) == ("leak", 1, 4)
    assert (
        compare_rows([TrainingManifest(rooms={"scannet": ["scene0200"]})], rows, lambda row: (), True).verdict
        == "clean"
    )


def test_rows_that_name_no_room_are_unknown_where_rooms_were_trained_on():
    rows = benchmark_rows("scene0123_01", None, None)
    found = compare_rows([TrainingManifest(rooms={"scannet": ["scene0200"]})], rows, lambda row: (), True)
    assert (found.verdict, found.num_unnamed) == ("unknown", 2)
    assert "2 rows name no room" in found.notes()[0] and found.to_json()["rows_without_room"] == 2
    # Nothing of ours was trained on, and questions of one's own are no benchmark: nothing to look for.
    assert compare_rows([TrainingManifest(base="published")], rows, lambda row: (), True).verdict == "clean"
    assert compare_rows([TrainingManifest(rooms={"scannet": ["scene0200"]})], rows, lambda row: ()).verdict == "clean"


@pytest.mark.parametrize(
    ("trained", "room"),
    [
        ({"scannet": ["scene0000"]}, None),  # of ScanNet's train split
        ({"scannet": ["scene0707"]}, None),  # of its test split
        ({"scannet": ["scene0000", VAL]}, VAL),
        ({"ScanNet": [f"{VAL}_00"]}, VAL),  # a scan, and the data set's name in another spelling
        ({"scannet": ["scene9999"]}, "scene9999"),  # of no official list
        ({"arkitscenes": ["482324"], "scannetpp": ["00dd871005"], "demo": ["demo000000"]}, None),  # other data sets
        ({"game": ["scene0000"]}, None),  # rows of another project, whose room its name tells
        ({"game": [VAL]}, VAL),
        ({"game": ["level1"]}, "game/level1"),  # may be a room of any data set
    ],
    ids=str,
)
def test_rows_without_a_room_show_one_of_the_split_that_they_are_drawn_from(trained, room):
    rows, manifests = benchmark_rows(None, None), [TrainingManifest(rooms=trained)]
    found = compare_rows(manifests, rows, lambda row: (), True, lambda row: {"scannet": "val"})
    told = "leak check: 2 rows name no room: as far as published, such rows show rooms of scannet val"
    among = f"; 1 room trained on may be among them, such as {room}"
    assert found.notes() == [told + (among if room else ", of which none was trained on")]
    assert found.verdict == ("unknown" if room else "clean")
    assert (found.num_unnamed, found.to_json()["drawn_from"]) == (2, ["scannet val"])
    assert compare_rows(manifests, rows, lambda row: (), True).verdict == "unknown"  # nothing known of what they show


def test_rows_drawn_from_any_split_may_show_every_room_of_the_data_set():
    rows, both = benchmark_rows(None, None), [{"scannet": ""}, {"scannetpp": ""}]
    for trained, verdict in (("scannet", "unknown"), ("scannetpp", "unknown"), ("arkitscenes", "clean")):
        room = {"scannet": "scene0000", "scannetpp": "00dd871005", "arkitscenes": "482324"}[trained]
        manifests = [TrainingManifest(rooms={trained: [room]})]
        found = compare_rows(manifests, rows, lambda row: (), True, lambda row: both[int(row.id)])
        assert (found.verdict, found.drawn_from) == (verdict, ("scannet", "scannetpp"))
        assert [note.count("1 row names no room") for note in found.notes()] == [2]  # each kind of rows is told


def test_a_split_says_nothing_of_rows_that_name_their_room_nor_clears_a_model_that_is_unknown():
    rows, of_val = benchmark_rows(VAL, None), lambda row: {"scannet": "val"}
    with pytest.raises(DataError, match=rf"trained on 1 benchmark room, such as {VAL}"):
        compare_rows([TrainingManifest(rooms={"scannet": [VAL]})], rows, lambda row: (), True, of_val)
    unclear = TrainingManifest(rooms={"scannet": ["scene0000"]}, verdict_rows="unknown")
    assert compare_rows([unclear], rows, lambda row: (), True, of_val).verdict == "unknown"
    published = compare_rows([TrainingManifest(base="published")], rows, lambda row: (), True, of_val)
    assert (published.verdict, published.notes()) == ("clean", [])  # nothing was trained on: nothing to say


def test_score_refuses_a_model_trained_on_a_benchmarks_rooms(tmp_path, capsys):
    row = {"num_frames": 16, "scene_id": "scene0123_01", "question": "How many?", "options": None}
    row |= {"question_type": "object_counting_single", "ground_truth": "2"}
    (tmp_path / "rows.jsonl").write_text(json.dumps({**row, "id": "1"}) + "\n")
    (tmp_path / "answers.jsonl").write_text('{"id": "1", "prediction": "2"}\n')
    seen = model(tmp_path / "seen", rooms={"scannet": ["scene0123"]})  # of no list: the row names it
    words = ["score", str(tmp_path / "answers.jsonl"), "benchmark=revsi", f"benchmark.path={tmp_path / 'rows.jsonl'}"]
    assert run([*words, f"model.path={seen}"]) == 2
    assert "trained on 1 benchmark room, such as scene0123" in capsys.readouterr().err
    assert run([*words, f"model.path={seen}", "--allow-leak"]) == 0
    assert "note: leak check: trained on 1 benchmark room" in capsys.readouterr().out
    other = model(tmp_path / "other", rooms={"scannet": ["scene0200"]})
    assert run([*words, f"model.path={other}"]) == 0
    assert "leak check" not in capsys.readouterr().out
