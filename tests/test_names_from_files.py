"""Names that stand in files never lead out of the folder they belong to: one case for each place that follows them."""

import io
import json
import zipfile
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evaluation_rows import official_rows
from vsgrpo.config.compose import load_config
from vsgrpo.data.build.dataset import stored
from vsgrpo.data.build.plan import PARTS, PlannedScan
from vsgrpo.data.build.scan import ScanOutcome
from vsgrpo.data.importing.dataset_folder import ImportSettings
from vsgrpo.data.importing.import_data import import_data
from vsgrpo.data.inputs import model_folders
from vsgrpo.data.lineage import lineage_of
from vsgrpo.data.manifest import Manifest, changed_files
from vsgrpo.data.row import Row, check_row
from vsgrpo.data.rows import read_rows, row_to_dict, write_rows
from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmarks.folder import Folder
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench
from vsgrpo.evaluation.unpacking import unpack, unpack_pictures
from vsgrpo.families import adapter_base, find_model, model_shape
from vsgrpo.files import link_or_copy
from vsgrpo.report.sweep_page import write_sweep_report
from vsgrpo.vision_r1.bridge import item_text
from vsgrpo.vision_r1.build import link_media
from vsgrpo.vision_r1.import_images import import_images
from vsgrpo.vision_r1.mathvista import MathVista, parse_problem
from vsgrpo.vision_r1.questions import Item, find_source

BASE = "base_model_name_or_path"
ROW = Row(
    schema_version=1,
    id="a1",
    dataset="demo",
    split="train",
    scene_name="demo000000_00",
    room="demo000000",
    question_type="object_counting",
    question="How many chair(s)in the room?",
    options=None,
    ground_truth="3",
    answer="3",
    answer_kind="number",
    unit=None,
    media=({"kind": "video", "path": "videos/demo/demo000000_00.mp4"},),
    rejected=None,
    reasoning=None,
    objects=(),
    generator={},
    extra={},
)
LEAVING = [
    "../x.mp4",
    "videos/../../x.mp4",
    "/etc/passwd",
    "..\\x.mp4",
    "C:\\x.mp4",
    "a\0b.mp4",
    "\ud83d.mp4",
    "x" * 300,
]


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(stream, "PNG")
    return stream.getvalue()


def talk(video, scene=None):
    row = {"question": "How many chair(s) are in this room?", "answer": "4", "video": video}
    return row if scene is None else {**row, "scene_name": scene}


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def secret(tmp_path):
    """A file outside the folder that rows and videos lie in."""
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    return tmp_path / "secret.mp4"


@pytest.mark.parametrize("path", LEAVING)
def test_a_row_names_no_media_outside_its_folder(path):
    with pytest.raises(DataError, match=r"media\.path=") as error:
        check_row(replace(ROW, media=({"kind": "video", "path": path},)), "f:1")
    error.value.message.encode()


def test_a_link_out_of_the_dataset_folder_is_not_followed(tmp_path, secret):
    (tmp_path / "data/link.mp4").symlink_to(secret)
    row = replace(ROW, media=({"kind": "video", "path": "link.mp4"},))
    for read in (row.media_paths, row.video_path):
        with pytest.raises(DataError, match="a link to a place outside"):
            read(tmp_path / "data")
    with pytest.raises(DataError, match="a link to a place outside"):
        Item(row, tmp_path / "data").media_bytes(0)


@pytest.mark.parametrize("video", ["../secret.mp4", "x/../../secret.mp4", "SECRET", "../../../etc/passwd", "link.mp4"])
def test_import_data_takes_no_video_from_elsewhere(tmp_path, secret, video):
    (tmp_path / "data/link.mp4").symlink_to(secret)
    good = talk("scene0001_00.mp4")
    file = tmp_path / "data/rows.json"
    file.write_text(json.dumps([talk(video.replace("SECRET", str(secret))), good]))
    summary = import_data(ImportSettings((file,), tmp_path / "out", dev_fraction=0.0))
    assert list(summary.left_out.values()) == [1] and "videos=DIR" in summary.table()
    assert everything(tmp_path / "out") == [".lock", "dev.jsonl", "manifest.json", "train.jsonl"]
    assert b"secret" not in b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_a_given_folder_stands_for_the_paths_of_another_machine(tmp_path, secret):
    folder = tmp_path / "mp4"
    (folder / "clips").mkdir(parents=True)
    (folder / "clips/scene0001_00.mp4").write_bytes(b"one")
    (folder / "scene0002_00.mp4").symlink_to(secret)
    rows = ["/mnt/a/clips/scene0001_00.mp4", "../clips/scene0001_00.mp4", f"{folder}/clips/scene0001_00.mp4"]
    file = tmp_path / "data/rows.json"
    file.write_text(json.dumps([{**talk(v), "question": f"{k}?"} for k, v in enumerate([*rows, "scene0002_00.mp4"])]))
    summary = import_data(ImportSettings((file,), tmp_path / "out", videos=folder, dev_fraction=0.0))
    assert len(read_rows(tmp_path / "out/train.jsonl")) == 3
    assert (tmp_path / "out/videos/scannet/scene0001_00.mp4").read_bytes() == b"one"
    assert [reason for reason in summary.left_out if "outside" in reason]


@pytest.mark.parametrize("scene", ["..", "../..", "/", "a/../../b", "x" * 400, "\ud83d", "a\0b"])
def test_a_scene_name_is_no_path(tmp_path, secret, scene):
    file = tmp_path / "data/rows.json"
    file.write_text(json.dumps([talk("a.mp4", scene), talk("scene0001_00.mp4")]))
    (tmp_path / "data/a.mp4").write_bytes(b"film")
    before = everything(tmp_path / "data")
    import_data(ImportSettings((file,), tmp_path / "out", dataset="../../x", dev_fraction=0.0))
    assert everything(tmp_path / "data") == before and sorted(p.name for p in tmp_path.iterdir()) == [
        "data",
        "out",
        "secret.mp4",
    ]
    for row in read_rows(tmp_path / "out/train.jsonl"):
        row.media_paths(tmp_path / "out")


@pytest.mark.parametrize("image", ["../secret.png", "SECRET", "images/../../secret.png", "link.png"])
def test_import_of_images_takes_none_from_elsewhere(tmp_path, image):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "data/link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "data/good.png").write_bytes(png())
    names = [image.replace("SECRET", str(tmp_path / "secret.png")), "good.png"]
    rows = [{"problem": f"What is {k}?", "answer": "2", "images": [name]} for k, name in enumerate(names)]
    (tmp_path / "data/rows.json").write_text(json.dumps(rows))
    settings = ImportSettings((tmp_path / "data/rows.json",), tmp_path / "out", format="images", dev_fraction=0.0)
    summary = import_images(settings)
    assert (summary.counts["train"], sum(summary.left_out.values())) == (1, 1)
    assert everything(tmp_path / "out") == [".lock", "dev.jsonl", "images/good.png", "manifest.json", "train.jsonl"]


def test_ids_of_pictures_inside_a_file_become_names_of_their_own(tmp_path):
    ids = ["../../x", "a/b", "a_b", "a:b", "y" * 300]
    rows = [{"id": k, "problem": f"{k}?", "answer": "2", "images": [{"bytes": png(), "path": None}]} for k in ids]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    settings = ImportSettings((tmp_path / "rows.parquet",), tmp_path / "out", format="images", dev_fraction=0.0)
    import_images(settings)
    paths = {row.id: row.media[0]["path"] for row in read_rows(tmp_path / "out/train.jsonl")}
    assert list(paths) == ids and len(set(paths.values())) == len(ids)
    assert all((tmp_path / "out" / path).is_file() for path in paths.values())
    assert {path.name for path in tmp_path.iterdir()} == {"rows.parquet", "out"}


def test_mathvista_ids_are_no_paths(tmp_path):
    folder = tmp_path / "images"
    rows = [{"pid": pid, "decoded_image": {"bytes": png(), "path": None}} for pid in ("/../../x", "..", "7")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "testmini.parquet")
    file, ids = tmp_path / "testmini.parquet", dict.fromkeys(("/../../x", "..", "7"), True)
    found = unpack_pictures(lambda: MathVista.packed_pictures(file, ids), ids, [folder], "testmini")
    assert len(set(found.values())) == 3 and found["7"] == (folder / "7_0.png",)
    assert sorted(folder.iterdir()) == sorted(
        [*(path for paths in found.values() for path in paths), folder / "index.json"]
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "testmini.parquet"]
    question = {"pid": "1", "question": "?", "question_type": "free_form", "answer_type": "text", "answer": "x"}
    with pytest.raises(DataError, match=r"q: image='../../x.png': leaves its folder"):
        parse_problem({**question, "image": "../../x.png"}, "q")


@pytest.mark.parametrize(
    "change", [{"dataset": ".."}, {"scene_name": "../x"}, {"scene_name": "x/../../y"}, {"scene_name": "a\0"}]
)
def test_a_benchmark_row_names_no_video_outside(write_vsibench_file, change):
    path = write_vsibench_file([{**official_rows(1)[0], **change}])
    with pytest.raises(DataError, match=r"test\.jsonl:1: media\.path="):
        VsiBench.read(path)


@pytest.fixture
def write_vsibench_file(tmp_path):
    def write(rows):
        path = tmp_path / "bench/test.jsonl"
        path.parent.mkdir()
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def test_a_member_of_a_zip_stays_in_the_folder(tmp_path):
    folder = tmp_path / "bench"
    folder.mkdir()
    with zipfile.ZipFile(folder / "scannet.zip", "w") as archive:
        archive.writestr("../SLIP.mp4", b"out")
    member = (folder / "scannet.zip", zipfile.ZipInfo("../SLIP.mp4"))
    with pytest.raises(DataError, match="leaves its folder"):
        unpack({"../SLIP.mp4": member}, folder, tmp_path / "fallback")
    assert not (tmp_path / "SLIP.mp4").exists()
    (tmp_path / "other").mkdir()
    (folder / "scannet").symlink_to(tmp_path / "other")
    with pytest.raises(DataError, match="a link to a place outside"):
        unpack({"scannet/a.mp4": member}, folder, tmp_path / "fallback")
    assert not list((tmp_path / "other").iterdir())


def test_questions_of_ones_own_show_nothing_outside(tmp_path):
    (tmp_path / "data").mkdir()
    file = tmp_path / "data/test.jsonl"
    file.write_text(json.dumps({"question": "What?", "answer": "x", "image": "../secret.png"}) + "\n")
    with pytest.raises(DataError, match=r"test\.jsonl:1: media\.path="):
        Folder.read(file)


def test_chains_of_thought_read_nothing_outside(tmp_path):
    (tmp_path / "data").mkdir()
    file = tmp_path / "data/train.jsonl"
    file.write_text(json.dumps({"problem": "What?", "answer": "x", "images": ["../secret.png"]}) + "\n")
    with pytest.raises(DataError, match=r"train\.jsonl:1: images='../secret.png': leaves its folder"):
        list(find_source(file, "train", "images", None, False).items())
    row = replace(ROW, dataset="..", scene_name="../x")
    with pytest.raises(DataError, match="leaves its folder"):
        item_text(Item(row, tmp_path / "data"))


def test_linking_takes_media_only_and_what_a_link_points_to(tmp_path):
    base, out = tmp_path / "data", tmp_path / "out"
    (base / "videos").mkdir(parents=True)
    (base / "videos/a.mp4").write_bytes(b"film")
    for name in ("videos/a", "videos/a.jfif"):  # a row may name them: what they hold decides
        (base / name).write_bytes(b"picture")
    (base / "train.jsonl").write_text("rows")
    for name in ("videos/a.mp4", "videos/a", "videos/a.jfif", "videos/gone.mp4"):
        link_media(base, out, name)
    with pytest.raises(DataError, match=r"'train\.jsonl': not a video or image"):
        link_media(base, out, "train.jsonl")
    assert everything(out) == ["videos/a", "videos/a.jfif", "videos/a.mp4"]
    link_media(base, out, "videos/a.mp4")  # it is there: nothing is left of a second try
    link_or_copy(base / "videos/a.mp4", out / "videos/a.mp4")
    assert everything(out) == ["videos/a", "videos/a.jfif", "videos/a.mp4"]
    (base / "videos/b.mp4").symlink_to("a.mp4")  # relative: its copy in another folder would lead nowhere
    link_or_copy(base / "videos/b.mp4", out / "b.mp4")
    assert (out / "b.mp4").read_bytes() == b"film" and not (out / "b.mp4").is_symlink()


def test_manifests_and_plans_name_nothing_outside(tmp_path, secret):
    names = {"../secret.mp4": {"sha256": "", "size": 6, "mtime": 0.0}}
    manifest = Manifest(dataset="demo", config={}, seed=0, scans={}, rooms={}, counts={}, files=names)
    with pytest.raises(DataError, match="leaves its folder"):
        changed_files(tmp_path / "data", manifest)
    config = load_config("build_data", ["source=demo", "data.path=x"])
    done = tmp_path / "data" / PARTS / "......secret.json"  # a key is one name there: "../../secret" leads nowhere
    done.parent.mkdir(parents=True)
    done.write_text(json.dumps(ScanOutcome("../../secret", "r", "built").to_json()))
    with pytest.raises(DataError, match="leaves its folder"):
        stored(tmp_path / "data", config, PlannedScan("../../secret", 0, "../../secret"))


def test_no_row_with_such_a_path_is_written(tmp_path):
    with pytest.raises(DataError):
        write_rows(tmp_path / "train.jsonl", [replace(ROW, media=({"kind": "image", "path": "../x.png"},))])
    assert not list(tmp_path.iterdir())
    (tmp_path / "train.jsonl").write_text(json.dumps(row_to_dict(ROW) | {"id": "\ud83d"}) + "\n")
    with pytest.raises(DataError, match=r"train\.jsonl:1: id=.*half a character") as error:
        read_rows(tmp_path / "train.jsonl")
    error.value.message.encode()


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", "[" * 100_000, "{}", *(json.dumps({BASE: base}) for base in (5, None, ""))],
    ids=["cut off", "list", "brackets", "none", "number", "null", "empty"],
)
def test_an_adapter_that_names_no_base_has_none(tmp_path, monkeypatch, text):
    """The base that an adapter names decides its lineage, its size and which files a run reads."""
    monkeypatch.chdir(tmp_path)  # a base of "" would be the folder in which the command runs
    folder = tmp_path / "adapter"
    folder.mkdir()
    assert adapter_base(folder) is None
    (folder / "adapter_config.json").write_text(text)
    assert adapter_base(folder) is None
    assert model_folders(folder) == [folder] and model_shape(str(folder)) is None
    assert lineage_of(str(folder)).lineage() == [lineage_of(str(folder))]
    (folder / "adapter_config.json").write_text(json.dumps({BASE: "Qwen/Qwen2-VL-2B-Instruct"}))
    assert adapter_base(folder) == "Qwen/Qwen2-VL-2B-Instruct"
    assert model_shape(str(folder)) == model_shape("Qwen/Qwen2-VL-2B-Instruct") is not None


@pytest.mark.parametrize("part", ["../leaky/model-00001.safetensors", "/x/model.safetensors", "a/../../b.bin"])
def test_an_index_names_no_weights_outside_the_models_folder(tmp_path, part):
    """Else a folder with a clean record would be another model."""
    for name in ("preprocessor_config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    assert find_model(str(tmp_path)) == str(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors", "b": part}}))
    with pytest.raises(DataError, match="weight_map"):
        find_model(str(tmp_path))


def test_a_sweep_names_no_run_outside_its_folder(tmp_path):
    run = {"name": "../other", "values": {"trainer.beta": "0.1"}, "words": []}
    (tmp_path / "sweep.json").write_text(json.dumps({"schema_version": 1, "fixed": [], "runs": [run]}))
    with pytest.raises(DataError, match="leaves its folder"):
        write_sweep_report(tmp_path)
