"""Paths that come from files: none leaves its folder, and every text has a file name of its own."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsgrpo.errors import DataError
from vsgrpo.paths import inside, path_fault, safe_name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("/etc/passwd", "is absolute"),
        ("\\\\host\\x.mp4", "is absolute"),
        ("C:\\x.mp4", "is absolute"),
        ("..", "leaves its folder"),
        ("../x.mp4", "leaves its folder"),
        ("videos/../../x.mp4", "leaves its folder"),
        ("videos\\..\\..\\x.mp4", "leaves its folder"),
        ("videos/a\0b.mp4", "control characters"),
        ("videos/a\nb.mp4", "control characters"),
        ("videos/\x1b]0;x\x07.mp4", "control characters"),
        ("videos/\ud83d.mp4", "half a character"),
        ("videos/" + "x" * 252 + ".mp4", "is too long"),
        ("x/" * 600 + "y.mp4", "is too long"),
    ],
)
def test_a_path_that_leaves_its_folder_is_refused(tmp_path, name, says):
    with pytest.raises(DataError) as error:
        inside(tmp_path, name)
    assert says in error.value.message and "\n" not in error.value.message and "\0" not in error.value.message
    error.value.message.encode()  # can be printed
    assert str(tmp_path) in error.value.hint


def test_links_are_followed(tmp_path):
    base = tmp_path / "data"
    (base / "videos").mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    (tmp_path / "elsewhere").mkdir()
    (base / "videos" / "own.mp4").write_text("x")
    (base / "link.mp4").symlink_to("videos/own.mp4")
    (base / "out.mp4").symlink_to(tmp_path / "secret")
    (base / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data2").mkdir()
    (base / "sibling").symlink_to(tmp_path / "data2")  # shares the first letters of the base
    assert inside(base, "link.mp4") == base / "link.mp4"
    assert inside(base, "videos/none.mp4") == base / "videos/none.mp4"
    for name in ("out.mp4", "folder/new.mp4", "sibling/x.mp4"):
        with pytest.raises(DataError, match="a link to a place outside"):
            inside(base, name)
    linked = tmp_path / "linked"
    linked.symlink_to(base)  # a base may be a link itself
    assert inside(linked, "videos/own.mp4").is_file()


def test_a_file_of_the_hub_cache_is_inside_its_snapshot(tmp_path):
    snapshot, blobs = tmp_path / "repo" / "snapshots" / "abc", tmp_path / "repo" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "123").write_text("x")
    (tmp_path / "repo" / "other").write_text("x")
    (snapshot / "a.mp4").symlink_to("../../blobs/123")
    (snapshot / "b.mp4").symlink_to("../../other")
    assert inside(snapshot, "a.mp4").is_file()
    with pytest.raises(DataError, match="a link to a place outside"):
        inside(snapshot, "b.mp4")


@pytest.mark.parametrize("text", ["scene0000_00", "41069021", "demo000000_00", "3e8bba0176", "a b", "客厅1", "v1.2"])
def test_a_plain_name_stays_as_it_is(text):
    assert safe_name(text) == text


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=300) | st.sampled_from(["..", ".", "a/b"]))
def test_every_text_becomes_one_good_file_name(text):
    name = safe_name(text)
    assert path_fault(name) is None and "/" not in name and not name.startswith(".")
    assert len(os.fsencode(name)) <= 120 and os.path.basename(name) == name


def test_different_texts_have_different_names():
    texts = ["a/b", "a_b", "a\\b", "a:b", "../a_b", "..", ".", "", " ", "\0", "\ud83d", "_", "x" * 400, "x" * 401, "a."]
    assert len({safe_name(text) for text in texts}) == len(texts)
