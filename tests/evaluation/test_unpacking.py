"""Media that lie packed: pictures inside row files, files in zips, row files in several parts."""

import base64
import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vsgrpo.errors import DataError
from vsgrpo.evaluation.benchmark import Benchmark, ReadOptions, question_row
from vsgrpo.evaluation.unpacking import PACKED, picture_bytes, rows_sha256, shards
from vsgrpo.files import file_sha256
from vsgrpo.loose_records import read_tsv
from vsgrpo.records import read_records
from vsgrpo.video.image import read_image


def png(level):
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), (level, level, level)).save(stream, "PNG")
    return stream.getvalue()


class Packed(Benchmark):
    """Rows of one or more pictures inside a parquet."""

    @classmethod
    def find_file(cls, path, split):
        return path

    @classmethod
    def read_rows(cls, file):
        for _, data in read_records(file, skip={"images"}):
            yield question_row(str(data["id"]), "Which?", "x", [("image", PACKED)], dataset="packed")

    @classmethod
    def packed_pictures(cls, file, ids):
        for _, data in read_records(file):
            yield str(data["id"]), data["images"]


@pytest.fixture
def parquet(tmp_path):
    """Three rows of 1, 2 and 3 grey pictures, each of another level."""
    rows = [{"id": n, "images": [{"bytes": png(10 * n + k), "path": None} for k in range(n)]} for n in (1, 2, 3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    return tmp_path / "data.parquet"


def levels(benchmark):
    """Return row id -> grey levels of its pictures in order."""
    return {row.id: [int(read_image(path)[0, 0, 0]) for _, path in benchmark.media(row)] for row in benchmark.rows}


def test_all_pictures_of_a_row_come_out_in_order_and_once(parquet, tmp_path, monkeypatch):
    options = ReadOptions(name="packed", run_dir=tmp_path / "out")
    found = Packed.read(parquet, options).with_media(False)
    assert levels(found) == {"1": [10], "2": [20, 21], "3": [30, 31, 32]}
    folder = found.media(found.rows[0])[0][1].parent
    assert folder.parent == parquet.parent and folder.name == f"data.{file_sha256(parquet)[:12]}.images"
    monkeypatch.setattr(Packed, "packed_pictures", None)  # a second evaluation does not read them again
    again = Packed.read(parquet, ReadOptions(run_dir=tmp_path / "other")).with_media(False)
    assert levels(again) == levels(found)
    assert Packed.read(parquet).media(again.rows[1]) == again.media(again.rows[1])  # as `inspect` and `score` read it


def test_another_version_of_the_file_has_pictures_of_its_own(parquet, tmp_path):
    options = ReadOptions(run_dir=tmp_path / "out")
    Packed.read(parquet, options).with_media(False)
    pq.write_table(pa.Table.from_pylist([{"id": 1, "images": [{"bytes": png(99), "path": None}]}]), parquet)
    assert levels(Packed.read(parquet, options).with_media(False)) == {"1": [99]}


def test_pictures_go_to_the_run_where_the_folder_cannot_be_written(parquet, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr("os.access", lambda path, _: Path(path) == out)
    found = Packed.read(parquet, ReadOptions(run_dir=out)).with_media(False)
    assert {path.parent.parent for row in found.rows for _, path in found.media(row)} == {out}
    assert levels(found)["3"] == [30, 31, 32]


def test_a_row_without_its_picture_is_refused(tmp_path):
    pq.write_table(
        pa.Table.from_pylist([{"id": 1, "images": [png(1)]}, {"id": 2, "images": []}]), tmp_path / "d.parquet"
    )
    with pytest.raises(DataError, match=r"d\.parquet: id=2: no picture \(1 such row\)"):
        Packed.read(tmp_path / "d.parquet", ReadOptions(run_dir=tmp_path)).with_media(False)


def test_pictures_in_every_form_of_a_column():
    content = png(7)
    text = base64.b64encode(content).decode()
    forms = (
        content,
        {"bytes": content, "path": "x.png"},
        text,
        f"{text[:50]}\n{text[50:]}",
        f"data:image/png;base64,{text}",
    )
    assert all(picture_bytes(form, "x") == content for form in forms)
    for bad in ("images/a.png", b"text", {"path": "a.png"}, base64.b64encode(b"text").decode(), None):
        with pytest.raises(DataError, match="row 1"):
            picture_bytes(bad, "row 1")


def test_a_tsv_reads_long_texts_and_empty_values(tmp_path):
    text = base64.b64encode(np.random.default_rng(0).bytes(300_000)).decode()
    file = tmp_path / "a.tsv"
    file.write_text(f'index\tquestion\timage\tD\n0\t"Which\nis ""it""?"\t{text}\t\n')
    (row,) = [row for _, row in read_tsv(file)]
    assert row == {"index": "0", "question": 'Which\nis "it"?', "image": text, "D": None}
    assert [row for _, row in read_tsv(file, skip={"image", "question"})] == [{"index": "0", "D": None}]
    file.write_text("index\tquestion\n0\tx\ty\n")
    with pytest.raises(DataError, match=r"a\.tsv:row 1: not as many values"):
        list(read_tsv(file))


def test_a_row_file_in_several_parts_is_read_whole_or_refused(tmp_path):
    names = ["test-00000-of-00002-ab12.parquet", "test-00001-of-00002-cd34.parquet"]
    for name in names:
        (tmp_path / name).write_text(name)
    assert shards(tmp_path / names[1]) == [tmp_path / name for name in names]
    assert rows_sha256(shards(tmp_path / names[0])) == rows_sha256(shards(tmp_path / names[1]))
    assert rows_sha256(shards(tmp_path / names[0])) != file_sha256(tmp_path / names[0])
    (tmp_path / names[0]).unlink()
    with pytest.raises(DataError, match=r"1 of 2 row files missing, such as test-00000-of-00002\.parquet"):
        shards(tmp_path / names[1])
    assert shards(tmp_path / "test.parquet") == [tmp_path / "test.parquet"]


def test_images_of_any_folder_come_out_of_zips(tmp_path):
    class Zipped(Benchmark):
        @classmethod
        def read_rows(cls, file):
            media = [("image", "bench/scene/a.png"), ("image", "b.png")]
            yield question_row("q", "Which?", "x", media, dataset="zipped")

    (tmp_path / "test.jsonl").write_text("{}\n")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("download/bench/scene/a.png", png(1))
        archive.writestr("b.png", png(2))
    found = Zipped.read(tmp_path, ReadOptions(run_dir=tmp_path / "out")).with_media(False)
    assert levels(found) == {"q": [1, 2]}
    assert (tmp_path / "bench/scene/a.png").is_file() and not (tmp_path / "out").exists()
