"""What a multimodal endpoint is shown: the pixels that training reads."""

import base64
import hashlib
import io
import os
import time

import numpy as np
import pytest
from PIL import Image

from vsgrpo.config.build import CotSection
from vsgrpo.errors import DataError
from vsgrpo.vision_r1.questions import _file_digest, _image_url

BUDGET = CotSection("caption", num_frames=4, max_pixels=28 * 28 * 16, jpeg_quality=95, cache_dir=None, max_failed=0.1)


def saved(image, form="PNG", **options):
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def sent(content):
    head, _, data = _image_url(content, "a.png", BUDGET).partition(",")
    return head, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")), base64.b64decode(data)


def test_a_plain_image_is_sent_as_it_is():
    content = saved(Image.new("RGB", (40, 30), (10, 200, 30)))
    head, _, data = sent(content)
    assert head == "data:image/png;base64" and data == content


def test_other_images_are_sent_as_training_reads_them():
    clear = sent(saved(Image.new("RGBA", (40, 30), (0, 0, 0, 0))))
    assert clear[0] == "data:image/jpeg;base64" and clear[1].min() > 250
    deep = sent(saved(Image.fromarray(np.full((30, 40), 4095, np.uint16))))
    assert deep[1].min() > 250
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = sent(saved(Image.new("RGB", (40, 30)), "JPEG", exif=exif))
    assert turned[1].shape == (40, 30, 3)


def test_a_replaced_video_of_the_same_size_and_time_has_another_digest(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"one")
    before = path.stat()
    assert _file_digest(path) == hashlib.sha256(b"one").hexdigest()
    time.sleep(0.02)  # the clock of a file system ticks every few milliseconds
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as cp -p and rsync -t do
    assert _file_digest(path) == hashlib.sha256(b"two").hexdigest()
    path.unlink()
    with pytest.raises(DataError, match=r"a\.mp4: cannot be opened"):
        _file_digest(path)


def test_an_image_that_is_none_is_named():
    with pytest.raises(DataError, match=r"a.png: not readable as an image"):
        _image_url(b"text", "a.png", BUDGET)
