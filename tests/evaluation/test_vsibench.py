import json
import resource
import signal
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from evaluation_rows import official_rows
from vsgrpo.config.compose import load_config
from vsgrpo.data.row import Row
from vsgrpo.data.rows import write_rows
from vsgrpo.errors import ConfigError, DataError, RunError
from vsgrpo.evaluation.benchmark import ReadOptions
from vsgrpo.evaluation.benchmarks.vsibench import PART_ROWS, VsiBench
from vsgrpo.evaluation.unpacking import find_in_zips, unpack
from vsgrpo.spatial.question_types import answer_kind_of

DEV_HALF = Path(__file__).parents[3] / "shared/data/vsibench_dev/test_dev.jsonl"


def test_official_rows_become_rows_of_our_schema(write_benchmark):
    benchmark = VsiBench.read(write_benchmark([{**row, "pruned": True} for row in official_rows(1)]))
    count, size, choice = benchmark.rows
    assert benchmark.official and benchmark.num_rows == 3
    assert (count.id, count.key, count.room, count.answer_kind) == ("0", "scannet/0", "scene0000", "number")
    assert (size.ground_truth, size.options, size.extra) == ("12.5", None, {"pruned": True})
    assert (choice.options, choice.ground_truth, choice.answer) == (("chair", "bed"), "B", "bed")
    assert benchmark.media(choice) == (("video", benchmark.file.parent / "scannet/scene0000_00.mp4"),)


def test_harness_easi_asks_as_vlmevalkit(write_benchmark):
    path = write_benchmark(official_rows(1))
    number, _, choice = VsiBench.read(path).rows
    ours, easi = VsiBench.read(path), VsiBench.read(path, ReadOptions(harness="easi"))
    frames = "These are frames of a video."
    letter = "Answer with the option's letter from the given choices directly."
    assert easi.text(number) == f"{frames}\n{number.question}\nAnswer briefly and directly in one float number."
    assert easi.text(choice) == f"{frames}\n{choice.question}\nA. chair\nB. bed\n{letter}"
    assert ours.text(choice) == f"{frames}\n{choice.question}\nOptions:\nA. chair\nB. bed\n{letter}"
    assert (ours.quoted("lmms"), easi.quoted("lmms")) == ("lmms", "easi")
    assert easi.identity() == {**ours.identity(), "harness": "easi"}


def test_parquet_gives_the_same_rows_as_jsonl(write_benchmark, tmp_path):
    rows = official_rows()
    parquet = tmp_path / "download" / "test-00000-of-00001.parquet"
    parquet.parent.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet)
    assert VsiBench.read(parquet.parent).rows == VsiBench.read(write_benchmark(rows).parent).rows
    parquet.write_bytes(parquet.read_bytes()[:100])
    with pytest.raises(DataError, match="not a parquet file"):
        VsiBench.read(parquet)


def test_our_dataset_folders_are_read_by_split(tmp_path, write_benchmark):
    row = VsiBench.read(write_benchmark(official_rows())).rows[0]
    write_rows(tmp_path / "data/dev.jsonl", [row])
    write_rows(tmp_path / "data/train.jsonl", [])
    benchmark = VsiBench.read(tmp_path / "data", ReadOptions("dev"))
    assert not benchmark.official and benchmark.rows == (row,)
    with pytest.raises(DataError, match=r"has no test.jsonl \(there: dev.jsonl, train.jsonl\)"):
        VsiBench.read(tmp_path / "data", ReadOptions("test"))
    with pytest.raises(DataError, match="no rows"):
        VsiBench.read(tmp_path / "data", ReadOptions("train"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"question_type": "object_colour"}, 'question_type="object_colour": unknown question type'),
        (  # a count may be 0, a size not
            {"question_type": "room_size_estimation", "ground_truth": "0"},
            'ground_truth="0": must be a number in plain digits, above 0',
        ),
        ({"ground_truth": "nan"}, 'ground_truth="nan": must be a number in plain digits, above 0'),
        ({"ground_truth": "many"}, 'ground_truth="many": must be a number'),
        ({"ground_truth": "1_0"}, 'ground_truth="1_0": must be a number in plain digits'),
        ({"ground_truth": "\u0663"}, "must be a number in plain digits"),
        ({"ground_truth": "1e-320"}, 'ground_truth="1e-320": must be a number'),
        ({"ground_truth": 3}, "ground_truth=3: must be a non-empty string"),
        ({"question_type": "object_rel_distance"}, "options=None: must be a list"),
        ({"question_type": "object_rel_distance", "options": ["chair", "bed"]}, "must begin with 'A. '"),
        ({"question_type": "object_rel_distance", "options": ["A. x", "B. y"]}, "must be a letter of AB"),
        ({"id": None}, "id=None"),
        ({"id": 1}, "id=1: already used at"),
        ({"scene_name": ""}, "scene_name=''"),
    ],
)
def test_a_bad_row_is_refused_with_file_and_line(write_benchmark, change, says):
    rows = official_rows(1)
    path = write_benchmark([rows[1], {**rows[0], **change}])
    with pytest.raises(DataError) as error:
        VsiBench.read(path)
    assert error.value.message.startswith(f"{path}:2: ")
    assert says in error.value.message
    assert error.value.hint


def test_a_missing_column_is_named(write_benchmark):
    row = official_rows(1)[0]
    del row["scene_name"]
    with pytest.raises(DataError, match=r"test.jsonl:1: scene_name is missing"):
        VsiBench.read(write_benchmark([row]))


def test_paths_that_hold_no_rows_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        VsiBench.read(tmp_path / "none")
    (tmp_path / "rows.csv").write_text("id\n")
    with pytest.raises(DataError, match=r"not a \.jsonl or \.parquet"):
        VsiBench.read(tmp_path / "rows.csv")
    with pytest.raises(DataError, match=r"there: no row file"):
        VsiBench.read(tmp_path)


def test_tasks_filter_knows_directions_as_one_task(write_benchmark):
    rows = official_rows(1)
    for index, level in enumerate(("easy", "medium", "hard")):
        options = ["A. left", "B. right"]
        change = {"id": 90 + index, "question_type": f"object_rel_direction_{level}", "options": options}
        rows.append({**rows[2], **change})
    path = write_benchmark(rows)
    assert [row.id for row in VsiBench.read(path, ReadOptions(tasks=["object_rel_direction"])).rows] == [
        "90",
        "91",
        "92",
    ]
    assert [row.id for row in VsiBench.read(path, ReadOptions(tasks=["object_rel_direction_hard"])).rows] == ["92"]
    with pytest.raises(ConfigError, match=r"benchmark\.tasks=counting: unknown task"):
        VsiBench.read(path, ReadOptions(tasks=["counting"]))
    with pytest.raises(DataError, match=r"no row of benchmark.tasks=\['route_planning'\]"):
        VsiBench.read(path, ReadOptions(tasks=["route_planning"]))


def test_limit_depends_on_ids_alone_and_keeps_file_order(write_benchmark):
    rows = official_rows(20)
    forward = VsiBench.read(write_benchmark(rows), ReadOptions(limit=12)).rows
    backward = VsiBench.read(write_benchmark(rows[::-1], "back.jsonl"), ReadOptions(limit=12)).rows
    assert len(forward) == 12
    assert forward == backward[::-1]
    assert len({row.question_type for row in forward}) == 3
    # A larger limit keeps the rows of a smaller one.
    larger = VsiBench.read(write_benchmark(rows), ReadOptions(limit=30)).rows
    assert {row.id for row in forward} <= {row.id for row in larger}


def test_missing_videos_are_named_and_refused_unless_skipped(write_benchmark):
    benchmark = VsiBench.read(write_benchmark(official_rows(3)))
    video = benchmark.file.parent / "scannet/scene0001_00.mp4"
    with pytest.raises(DataError, match="every video is missing"):
        benchmark.with_media(skip_missing=True)
    video.parent.mkdir()
    video.write_bytes(b"mp4")
    with pytest.raises(DataError, match=r"2 videos missing: scannet/scene0000_00.mp4, scannet/scene0002_00.mp4"):
        benchmark.with_media(skip_missing=False)
    left = benchmark.with_media(skip_missing=True)
    assert [row.scene_name for row in left.rows] == ["scene0001_00"] * 3
    assert left.num_rows == 9


@pytest.mark.skipif(not DEV_HALF.is_file(), reason="the development half of VSI-Bench is not here")
def test_the_development_half_of_the_benchmark_reads():
    benchmark = VsiBench.read(DEV_HALF)
    assert benchmark.num_rows == len(benchmark.rows) == 2443
    counts = Counter(row.question_type for row in benchmark.rows)
    assert (counts["room_size_estimation"], counts["object_rel_direction_easy"], counts["route_planning"]) == (
        130,
        97,
        90,
    )
    assert all(isinstance(row, Row) and row.room for row in benchmark.rows)


def zipped(folder, name, members):
    with zipfile.ZipFile(folder / name, "w") as archive:
        for member in members:
            archive.writestr(member, b"mp4 of " + member.encode())


def test_videos_are_unpacked_from_the_zips_beside_the_rows(write_benchmark, tmp_path):
    benchmark = VsiBench.read(write_benchmark(official_rows(3)), ReadOptions(run_dir=tmp_path / "out"))
    folder = benchmark.file.parent
    zipped(folder, "scannet.zip", ["scene0000_00.mp4", "deep/scannet/scene0001_00.mp4", "__MACOSX/scannet/._x.mp4"])
    with pytest.raises(DataError, match=r"1 video missing: scannet/scene0002_00.mp4"):
        benchmark.with_media(False)
    assert not (folder / "scannet").exists()  # refused before anything was unpacked
    left = benchmark.with_media(True)
    assert len(left.rows) == 6
    assert left.media(left.rows[3])[0][1] == folder / "scannet/scene0001_00.mp4"
    assert left.media(left.rows[3])[0][1].read_bytes() == b"mp4 of deep/scannet/scene0001_00.mp4"
    assert not list(folder.rglob("*.part"))
    (folder / "scannetpp.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"scannetpp\.zip: not a whole zip"):
        benchmark.with_media(True)


def test_a_folder_that_cannot_be_written_is_unpacked_elsewhere(tmp_path, monkeypatch):
    zipped(tmp_path, "scannet.zip", ["scannet/a.mp4"])
    found = find_in_zips(tmp_path, ["scannet/a.mp4", "scannet/b.mp4"])
    monkeypatch.setattr("os.access", lambda *_: False)
    paths = unpack(found, tmp_path, tmp_path / "out")
    assert paths == {"scannet/a.mp4": tmp_path / "out/scannet/a.mp4"}
    (tmp_path / "out/scannet/a.mp4").write_bytes(b"half")
    unpack(found, tmp_path, tmp_path / "out")
    assert (tmp_path / "out/scannet/a.mp4").read_bytes() == b"mp4 of scannet/a.mp4"


def test_videos_unpacked_into_the_evaluation_are_found_again(write_benchmark, tmp_path, monkeypatch):
    """`vsgrpo inspect` reads the benchmark anew, and shows frames."""
    file = write_benchmark(official_rows(1))
    zipped(file.parent, "scannet.zip", ["scene0000_00.mp4"])
    options = ReadOptions(run_dir=tmp_path / "out")
    monkeypatch.setattr("os.access", lambda *_: False)
    done = VsiBench.read(file, options).with_media(False)
    again = VsiBench.read(file, options)
    place = tmp_path / "out/videos/scannet/scene0000_00.mp4"
    assert place.is_file()
    assert [again.media(row) for row in again.rows] == [done.media(row) for row in done.rows]
    assert again.media(again.rows[0]) == (("video", place),)
    assert len(again.with_media(False).rows) == len(done.rows)


def test_the_debiased_part_is_told_from_other_rows(tmp_path):
    rows, choice = [], {"ground_truth": "A", "options": ["A. x", "B. y"]}
    for kind, (kept, of) in PART_ROWS.items():
        row = {"dataset": "scannet", "scene_name": "scene0000_00", "question_type": kind, "question": "q?"}
        row |= choice if answer_kind_of(kind) == "choice" else {"ground_truth": "2", "options": None}
        rows += [{"id": len(rows) + k, **row, "pruned": k >= kept} for k in range(of)]
    file = tmp_path / "test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = VsiBench.read(file, ReadOptions(subset="debiased"))
    assert (whole.num_rows, whole.other_part) == (2362, "")
    assert VsiBench.read(file, ReadOptions(subset="pruned")).num_rows == 2768
    rows[0]["pruned"] = True
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = VsiBench.read(file, ReadOptions(subset="debiased")).other_part
    assert said == "not the published part: rows of object_counting 250 for 251"
    for row in rows:
        del row["pruned"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "pruned_ids.txt").write_text("0\n")
    said = VsiBench.read(file, ReadOptions(subset="debiased")).other_part
    assert said.startswith("pruned_ids.txt is not the published list: sha256 ") and said.endswith("not 76fc941f7595")


def test_debiased_rows_come_from_the_column_the_list_or_the_file(write_benchmark):
    rows = official_rows(2)
    with_column = write_benchmark([{**row, "pruned": row["id"] < 10} for row in rows])
    assert [row.id for row in VsiBench.read(with_column, ReadOptions(subset="debiased")).rows] == ["10", "11", "12"]
    assert [row.id for row in VsiBench.read(with_column, ReadOptions(subset="pruned")).rows] == ["0", "1", "2"]
    plain = write_benchmark(rows, "plain.jsonl")
    with pytest.raises(DataError, match="no column `pruned`"):
        VsiBench.read(plain, ReadOptions(subset="debiased"))
    (plain.parent / "pruned_ids.txt").write_text("0\n11\n")
    kept = VsiBench.read(plain, ReadOptions(subset="debiased"))
    assert [row.id for row in kept.rows] == ["1", "2", "10", "12"]
    assert (kept.subset, kept.num_rows) == ("debiased", 4)
    write_benchmark(rows[:1], "test_debiased.jsonl")
    assert len(VsiBench.read(plain.parent, ReadOptions(subset="debiased")).rows) == 1
    with pytest.raises(ConfigError, match=r"benchmark\.subset=half"):
        load_config("eval", ["model.path=tiny", f"benchmark.path={plain}", "output=o", "benchmark.subset=half"])


@pytest.fixture
def archive(tmp_path):
    """A zip of one video of 200,000 bytes."""
    with zipfile.ZipFile(tmp_path / "scannet.zip", "w") as file:
        file.writestr("scene0000_00.mp4", bytes(200_000))
    return tmp_path


def members(folder):
    return find_in_zips(folder, ["scannet/scene0000_00.mp4"])


def test_a_full_disk_leaves_no_part_and_does_not_blame_the_zip(archive):
    found = members(archive)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(RunError) as caught:
            unpack(found, archive, archive)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.message.startswith(f"{archive / 'scannet/scene0000_00.mp4'}: cannot be unpacked: ")
    assert "free disk space" in caught.value.hint and "download" not in caught.value.hint
    assert list((archive / "scannet").iterdir()) == []
    assert unpack(found, archive, archive)["scannet/scene0000_00.mp4"].stat().st_size == 200_000


def test_a_broken_member_says_download_again(archive):
    found = members(archive)
    file = archive / "scannet.zip"
    content = bytearray(file.read_bytes())
    content[100_000] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="cannot be unpacked") as caught:
        unpack(found, archive, archive)
    assert caught.value.hint == "download it again"
    assert list((archive / "scannet").iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_no_fault_of_the_zip(archive):
    found = members(archive)
    (archive / "scannet").write_text("mine")
    with pytest.raises(RunError, match="cannot be unpacked") as caught:
        unpack(found, archive, archive)
    assert "a folder that can be written" in caught.value.hint
    assert (archive / "scannet").read_text() == "mine"
