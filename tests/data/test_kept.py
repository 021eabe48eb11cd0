"""What import-data and build-data replace stays until the new dataset is complete; a kill blocks nothing."""

import json
import os

import pytest

from vsgrpo.config.compose import load_config
from vsgrpo.data.build.dataset import build_dataset
from vsgrpo.data.importing import dataset_folder
from vsgrpo.data.importing import import_data as importer
from vsgrpo.data.importing.dataset_folder import ImportSettings
from vsgrpo.data.importing.import_data import import_data
from vsgrpo.data.rows import read_rows
from vsgrpo.errors import DataError
from vsgrpo.vision_r1.import_images import import_images


def content(folder):
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in files.items() if not name.startswith((".lock", ".import"))}


def num_rows(folder):
    return sum(len(read_rows(folder / f"{name}.jsonl")) for name in ("train", "dev"))


@pytest.fixture
def foreign(tmp_path):
    """Return (number of rows) -> a row file of another project."""

    def write(number):
        file = tmp_path / f"rows{number}.jsonl"
        rows = [
            {
                "id": i,
                "scene_name": f"own{i:04d}",
                "dataset": "own",
                "question_type": "object_counting",
                "question": "How many chair(s) are in this room?",
                "ground_truth": str(i + 1),
            }
            for i in range(number)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    return write


def settings(file, out, **options):
    return ImportSettings(files=(file,), output=out, dev_fraction=0.0, **options)


@pytest.fixture
def imported(foreign, tmp_path):
    """A dataset of two rows, and a video that the user put beside them."""
    out = tmp_path / "ds"
    import_data(settings(foreign(2), out))
    (out / "videos").mkdir()
    (out / "videos" / "mine.mp4").write_bytes(b"mine")
    return out


def test_an_import_that_fails_or_reads_its_own_output_loses_nothing(imported, foreign, tmp_path):
    before = content(imported)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    inside = imported / "train.jsonl"
    (tmp_path / "link.jsonl").symlink_to(inside)
    cases = [
        (tmp_path / "typo.jsonl", {}, "no such file"),
        (empty, {}, "no row can be taken"),
        (inside, {}, "lies in output="),
        (tmp_path / "link.jsonl", {}, "lies in output="),
        (foreign(3), {"videos": imported / "videos"}, "lies in output="),
    ]
    for file, options, message in cases:
        with pytest.raises(DataError, match=message):
            import_data(settings(file, imported, **options), overwrite=True)
        if not options:
            with pytest.raises(DataError):
                import_images(settings(file, imported, format="images"), overwrite=True)
        assert content(imported) == before


def test_an_import_replaces_rows_and_keeps_videos_of_other_names(imported, foreign):
    summary = import_data(settings(foreign(3), imported), overwrite=True)
    assert summary.out == imported and ".import" not in summary.table()
    assert num_rows(imported) == 3
    assert (imported / "videos" / "mine.mp4").read_bytes() == b"mine"
    assert not [path for path in imported.iterdir() if path.name.startswith(".import")]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_killed_import_is_repeated_by_the_same_command(overwrite, foreign, tmp_path, monkeypatch):
    out, file = tmp_path / "new", foreign(2)
    monkeypatch.setattr(dataset_folder.shutil, "rmtree", lambda *args, **kwargs: None)  # a kill cleans nothing up
    monkeypatch.setattr(importer, "write_manifest", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        import_data(settings(file, out))
    monkeypatch.undo()
    assert (out / ".import").is_dir()
    import_data(settings(file, out), overwrite=overwrite)
    assert num_rows(out) == 2 and not (out / ".import").exists()


@pytest.mark.parametrize("moved", range(4))
def test_an_import_killed_while_files_are_put_in_place_is_completed(moved, imported, foreign, monkeypatch, capsys):
    real, calls = os.replace, []

    def killed(source, target):
        if ".import.complete" in f"{source} {target}":
            if len(calls) == moved:
                raise KeyboardInterrupt
            calls.append(source)
        real(source, target)

    before = content(imported)
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        # Moves: the staging folder (once it is whole), dev.jsonl, train.jsonl, the manifest.
        import_data(settings(foreign(3), imported), overwrite=True)
    monkeypatch.undo()
    if not calls:
        assert content(imported) == before
    with pytest.raises(DataError, match="holds a dataset already"):
        import_data(settings(foreign(2), imported))
    assert num_rows(imported) == (3 if calls else 2)
    assert ("is complete now" in capsys.readouterr().err) == bool(calls)


def scannet(root, out):
    return load_config("build_data", ["source=scannet", f"source.root={root}", f"output={out}"])


def test_build_data_gives_the_dataset_back_until_there_is_another(tmp_path):
    out = tmp_path / "ds"
    out.mkdir()
    for name in ("train.jsonl", "manifest.json", "notes.txt"):
        (out / name).write_text(f"old {name}")
    before = content(out)
    with pytest.raises(DataError, match=r"source\.root=.*: lies in data\.path="):
        build_dataset(scannet(out, out), overwrite=True)
    with pytest.raises(DataError, match="no such folder"):
        build_dataset(scannet(tmp_path / "typo", out), overwrite=True)
    assert content(out) == before
