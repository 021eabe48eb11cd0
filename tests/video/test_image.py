"""Images through the loader: sizes as qwen-vl-utils, pixels upright and in RGB, bad files named."""

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from vsgrpo.errors import ConfigError, DataError
from vsgrpo.video.budget import Medium, VisionBudget
from vsgrpo.video.image import image_size, read_image
from vsgrpo.video.loader import BadVideo, VideoLoader

BUDGET = VisionBudget(num_frames=4, image_min_pixels=3136, image_max_pixels=28 * 28 * 12)


def picture(height=90, width=120, seed=0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def save(folder, image, name="a.png", **options):
    image.save(folder / name, **options)
    return folder / name


def test_an_image_is_resized_under_its_own_budget_as_qwen_vl_utils_resizes_it(tmp_path):
    vision = pytest.importorskip("qwen_vl_utils.vision_process")
    loader = VideoLoader(BUDGET, timeout_s=None)
    for number, (height, width) in enumerate([(90, 120), (20, 25), (400, 130), (56, 84), (1, 30)]):
        path = save(tmp_path, picture(height, width, number), f"{number}.png")
        entry = {"image": str(path), "min_pixels": 3136, "max_pixels": BUDGET.image_max_pixels}
        theirs = np.array(vision.fetch_image(entry))
        ours = loader.load(path, "image")
        assert ours.medium.kind == "image" and ours.frames.dtype == torch.uint8
        assert np.array_equal(ours.frames[0].permute(1, 2, 0).numpy(), theirs)
        rows, columns = theirs.shape[0] // 14, theirs.shape[1] // 14
        assert (ours.medium.grid_thw, ours.medium.num_tokens) == ((1, rows, columns), rows * columns // 4)
        assert loader.medium(path, "image") == ours.medium
        undecoded = loader.undecoded(path, "image")
        assert undecoded.key == ours.key and undecoded.medium.kind == "image"
        assert torch.equal(undecoded.frames, ours.frames)
    # 90 x 120 rounds to 84 x 112 = 9408 pixels, 12 tokens of 28 x 28: just within 12 * 784
    assert loader.medium(tmp_path / "0.png", "image") == Medium("image", (1, 6, 8), 12)


def test_the_key_holds_content_and_image_budget_and_no_video_budget(tmp_path):
    path = save(tmp_path, picture())
    key = VideoLoader(BUDGET, timeout_s=None).key(path, "image")
    more_frames = VisionBudget(num_frames=8, max_pixels=200704, image_max_pixels=BUDGET.image_max_pixels)
    assert VideoLoader(more_frames, timeout_s=None).key(path, "image") == key
    assert VideoLoader(VisionBudget(num_frames=4), timeout_s=None).key(path, "image") != key
    assert VideoLoader(BUDGET, timeout_s=None).key(path) != key  # as a video it would be another thing
    copy = save(tmp_path, picture(), "copy.png")
    assert VideoLoader(BUDGET, timeout_s=None).key(copy, "image") == key


def test_the_frame_cache_decodes_an_image_once(tmp_path):
    path = save(tmp_path, picture())
    loader = VideoLoader(BUDGET, timeout_s=None, frame_cache="disk", cache_dir=tmp_path / "cache")
    first, second = loader.load(path, "image"), loader.load(path, "image")
    assert loader.num_decoded == 1 and torch.equal(first.frames, second.frames)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_shown_as_its_exif_orientation_says(tmp_path, orientation):
    shown = np.zeros((40, 60, 3), dtype=np.uint8)
    shown[:20, :30] = 255  # the upper left quarter is white
    # What a camera held like this would have stored: the inverse of the turn that EXIF asks for.
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.transpose(1, 0, 2),
        6: np.rot90(shown, 1),
        7: shown[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(shown, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), "a.jpg", exif=exif, quality=95)
    assert image_size(path) == (40, 60)
    assert np.abs(read_image(path).astype(int) - shown).mean() < 3


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_exif_does_not_know_turns_nothing(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, picture(40, 60), "a.jpg", exif=exif)
    assert image_size(path) == (40, 60) and read_image(path).shape == (40, 60, 3)


def test_every_colour_form_becomes_rgb(tmp_path):
    red = (255, 0, 0)
    forms = {
        "rgb.png": Image.new("RGB", (30, 30), red),
        "rgba.png": Image.new("RGBA", (30, 30), (*red, 255)),
        "cmyk.jpg": Image.new("CMYK", (30, 30), (0, 255, 255, 0)),
        "palette.gif": Image.new("RGB", (30, 30), red).quantize(4),
    }
    for name, image in forms.items():
        mean = read_image(save(tmp_path, image, name)).reshape(-1, 3).mean(0)
        assert np.abs(mean - red).max() < 6, name
    clear = read_image(save(tmp_path, Image.new("RGBA", (30, 30), (255, 0, 0, 0)), "clear.png"))
    assert (clear == 255).all()  # what is transparent is white
    grey = read_image(save(tmp_path, Image.new("L", (30, 30), 77), "grey.png"))
    assert grey.shape == (30, 30, 3) and (grey == 77).all()
    deep = Image.fromarray(np.full((30, 30), 77 * 257, dtype=np.uint16))
    assert (read_image(save(tmp_path, deep, "deep.png")) == 77).all()  # 16 bits: 77 * 257 of 65535
    assert set(np.unique(read_image(save(tmp_path, Image.new("1", (30, 30), 1), "bit.png")))) == {255}


def deep(folder, name, values):
    return read_image(save(folder, Image.fromarray(values), name))[0, :, 0].tolist()


def test_values_of_more_than_8_bits_are_scaled_by_the_range_they_use(tmp_path):
    row = np.array([[0, 1, 2, 3, 4]])
    # 12 bits in 16: 4095 is white; 3 of 4 steps: 255 * 3 / 4 = 191.25
    assert deep(tmp_path, "12.png", (row * 4095 // 4).astype(np.uint16)) == [0, 64, 127, 191, 255]
    # a depth map in millimetres up to 6000
    assert deep(tmp_path, "mm.png", (row * 1500).astype(np.uint16)) == [0, 64, 128, 191, 255]
    # 16 bits, the brightest at 32768 of 65535: as dark as it was taken
    assert deep(tmp_path, "16.png", (row * 8192).astype(np.uint16)) == [0, 32, 64, 96, 128]
    assert deep(tmp_path, "8.png", (row * 50).astype(np.uint16)) == [0, 50, 100, 150, 200]  # 8 bits in 16
    assert deep(tmp_path, "i.tiff", (row * 100_000).astype(np.int32)) == [0, 64, 128, 191, 255]
    assert deep(tmp_path, "f.tiff", (row / 4).astype(np.float32)) == [0, 64, 128, 191, 255]
    assert deep(tmp_path, "dim.tiff", (row / 400).astype(np.float32)) == [0, 64, 128, 191, 255]
    assert deep(tmp_path, "half.tiff", (row / 8).astype(np.float32)) == [0, 32, 64, 96, 128]  # half of white
    assert deep(tmp_path, "black.png", (row * 0).astype(np.uint16)) == [0] * 5


@pytest.mark.parametrize("values", [[-1.0, 2.0], [0.0, np.nan], [0.0, np.inf]])
def test_values_without_a_range_are_refused(tmp_path, values):
    path = save(tmp_path, Image.fromarray(np.array([values], np.float32)), "a.tiff")
    with pytest.raises(DataError, match=r"a.tiff: grey values from .* cannot be shown") as caught:
        read_image(path)
    assert "convert it to 8 bits" in caught.value.hint


def png(path: Path, width: int, height: int, depth: int, colour: int, lines: bytes = b"") -> Path:
    """Write a PNG that states what Pillow does not write: 16-bit colour, or a size that nobody should allocate."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def png16(folder: Path, values: np.ndarray) -> Path:
    """Write (H, W, 3) uint16 as 16-bit colour."""
    height, width, _ = values.shape
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(folder / "colour.png", width, height, 16, 2, lines)


def test_16_bit_colour_keeps_its_range_or_is_refused(tmp_path):
    values = np.zeros((2, 2, 3), np.uint16)
    values[0, 0] = 65535, 32896, 0  # 32896 = 128 * 257
    assert read_image(png16(tmp_path, values))[0, 0].tolist() == [255, 128, 0]
    values[0, 0] = 4095, 2000, 0
    with pytest.raises(DataError, match=r"colour.png: 16-bit colour that uses less than 14 of its bits"):
        read_image(png16(tmp_path, values))


def test_an_image_that_would_fill_the_memory_is_refused_by_its_header(tmp_path):
    for side, depth in ((13000, 8), (8193, 1), (20000, 1)):
        path = png(tmp_path / f"{side}.png", side, side, depth, 0)
        for read in (image_size, read_image, lambda p: VideoLoader(BUDGET, timeout_s=None).load(p, "image")):
            tracemalloc.start()
            with pytest.raises(DataError, match=rf"{side}.png: .*more than the 67108864 pixels") as caught:
                read(path)
            assert tracemalloc.get_traced_memory()[1] < 8_000_000 and caught.value.hint == "scale it down"
            tracemalloc.stop()


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_an_image_in_the_boxes_of_mp4_is_no_film(tmp_path):
    inputs = VideoLoader(BUDGET, timeout_s=None).load(save(tmp_path, picture(), "a.avif"), "image")
    assert inputs.medium.kind == "image" and inputs.medium.grid_thw == (1, 6, 8)


def test_grey_with_transparency_and_animations(tmp_path):
    clear = Image.new("LA", (4, 4), (10, 0))
    assert (read_image(save(tmp_path, clear, "la.png")) == 255).all()
    half = read_image(save(tmp_path, Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "half.png"))
    assert set(np.unique(half)) == {127}  # 255 * (1 - 128 / 255)
    palette = Image.new("P", (4, 4), 3)
    palette.putpalette([0, 0, 0, 50, 50, 50, 90, 90, 90, 200, 100, 0])
    assert read_image(save(tmp_path, palette, "p.png"))[0, 0].tolist() == [200, 100, 0]
    assert (read_image(save(tmp_path, palette, "clear.png", transparency=3)) == 255).all()
    frames = [Image.new("RGB", (8, 8), (0, 255 * number, 0)) for number in (1, 0)]
    path = save(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(path)[0, 0].tolist() == [0, 255, 0]


def broken_files(folder):
    whole = io.BytesIO()
    picture(200, 200).save(whole, "JPEG")
    (folder / "cut.jpg").write_bytes(whole.getvalue()[:3000])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not an image")
    save(folder, picture(2, 500), "thin.png")
    return {
        "cut.jpg": "truncated",
        "empty.png": "is empty",
        "text.png": "not readable as an image",
        "thin.png": "image size 500x2: the aspect ratio must be at most 200",
        "none.png": "no such file|cannot be opened",
    }


def test_a_bad_image_is_one_clear_line_and_quarantined(tmp_path):
    loader = VideoLoader(BUDGET, timeout_s=None, on_bad="skip")
    for name, what in broken_files(tmp_path).items():
        with pytest.raises(BadVideo, match=what) as caught:
            loader.load(tmp_path / name, "image")
        assert name in caught.value.message and "\n" not in caught.value.message
    (tmp_path / "text.png").unlink()
    save(tmp_path, picture(), "text.png")
    with pytest.raises(DataError, match="not readable as an image"):  # as it was: a run never changes its mind
        loader.load(tmp_path / "text.png", "image")
    assert len(loader.quarantine) == 5


def test_a_wrong_image_budget_is_refused_by_its_key():
    with pytest.raises(ConfigError, match=r"image\.min_pixels=5000: must lie between 1 and image\.max_pixels=3136"):
        VisionBudget(image_min_pixels=5000, image_max_pixels=3136)
    with pytest.raises(ConfigError, match=r"image\.max_pixels=700: must be at least 784"):
        VisionBudget(image_min_pixels=1, image_max_pixels=700)
