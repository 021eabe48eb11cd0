"""What a multimodal endpoint is shown: the pixels that training reads."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from vsgrpo.data.cot.media import MediaBudget, _image_url
from vsgrpo.errors import DataError

BUDGET = MediaBudget(num_frames=4, max_pixels=28 * 28 * 16, jpeg_quality=95)


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


def test_an_image_that_is_none_is_named():
    with pytest.raises(DataError, match=r"a.png: not readable as an image"):
        _image_url(b"text", "a.png", BUDGET)
