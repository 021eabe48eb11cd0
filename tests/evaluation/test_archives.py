"""Zips on disks and of makes that give trouble: no half file, and the message says which side failed."""

import resource
import signal
import zipfile

import pytest

from vsgrpo.errors import DataError, RunError
from vsgrpo.evaluation.archives import find_in_zips, unpack


@pytest.fixture
def zipped(tmp_path):
    """A zip of one video of 200,000 bytes."""
    with zipfile.ZipFile(tmp_path / "scannet.zip", "w") as archive:
        archive.writestr("scene0000_00.mp4", bytes(200_000))
    return tmp_path


def members(folder):
    return find_in_zips(folder, ["scannet/scene0000_00.mp4"])


def test_a_full_disk_leaves_no_part_and_does_not_blame_the_zip(zipped):
    found = members(zipped)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(RunError) as caught:
            unpack(found, zipped, zipped)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.message.startswith(f"{zipped / 'scannet/scene0000_00.mp4'}: cannot be unpacked: ")
    assert "free disk space" in caught.value.hint and "download" not in caught.value.hint
    assert list((zipped / "scannet").iterdir()) == []
    assert unpack(found, zipped, zipped)["scannet/scene0000_00.mp4"].stat().st_size == 200_000


def test_a_broken_member_says_download_again(zipped):
    found = members(zipped)
    file = zipped / "scannet.zip"
    content = bytearray(file.read_bytes())
    content[100_000] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="cannot be unpacked") as caught:
        unpack(found, zipped, zipped)
    assert caught.value.hint == "download it again"
    assert list((zipped / "scannet").iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_no_fault_of_the_zip(zipped):
    found = members(zipped)
    (zipped / "scannet").write_text("mine")
    with pytest.raises(RunError, match="cannot be unpacked") as caught:
        unpack(found, zipped, zipped)
    assert "a folder that can be written" in caught.value.hint
    assert (zipped / "scannet").read_text() == "mine"
