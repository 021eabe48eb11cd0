"""Rows of images, several a row, beside rows of videos: every method trains on them, and what is shown matters."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import LORA, SPREAD, make_rows, make_trainer, write_dataset

from vsgrpo.data.rows import write_rows
from vsgrpo.training.worker import train

pytestmark = pytest.mark.integration
SMALL_IMAGES = "image.max_pixels=6272"


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory) -> Path:
    """Rows 0-5 show two images, row 6 an image and a video, row 7 a video; each with a thought."""
    folder = write_dataset(tmp_path_factory.mktemp("images"), num_scenes=4)
    (folder / "images").mkdir()
    rows = []
    for number, row in enumerate(row for scene in range(4) for row in make_rows(scene)):
        names = [f"images/{number}_{k}.png" for k in range(2)]
        for k, name in enumerate(names):
            blocks = np.random.default_rng(10 * number + k).integers(0, 256, (4, 3, 3), dtype=np.uint8)
            Image.fromarray(np.repeat(np.repeat(blocks, 20, axis=0), 20, axis=1)).save(folder / name)
        images = tuple({"kind": "image", "path": name} for name in names)
        media = images if number < 6 else (images[0], *row.media) if number == 6 else row.media
        rows.append(replace(row, media=media, reasoning="I look at the picture."))
    write_rows(folder / "train.jsonl", rows)
    return folder


def config_of(make_config, folder, method, *overrides, **options):
    return make_config(method, f"data={folder}", SMALL_IMAGES, *overrides, **options)


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo"])
def test_another_image_changes_what_is_scored(make_config, image_folder, method):
    reward = [SPREAD] if method == "grpo" else []
    trainer = make_trainer(config_of(make_config, image_folder, method, *reward, *LORA))
    rows = [dict(trainer.train_dataset[i]) for i in (0, 6)]

    def score():
        if method == "grpo":
            trainer.model.train()
            batch = trainer._generate_and_score_completions([dict(row) for row in rows for _ in range(4)])
            own = [tuple(sample.completion) for sample in batch["samples"]]
            trainer.current_gradient_accumulation_steps = 1
            trainer._compute_loss(trainer.model, batch).backward()
            return own
        batch = trainer.data_collator(rows)
        if method == "sft":
            return trainer.compute_loss(trainer.model, batch).item()
        features = trainer._store.features([item for sample in batch["samples"] for item in sample.media])
        return trainer._answer_logps(trainer.model, batch["samples"], features)[0].sum().item()

    own = score()
    assert own == score()
    assert [item["kind"] for item in rows[1]["media"]] == ["image", "video"]
    rows[0]["media"] = [rows[0]["media"][0], rows[1]["media"][0]]  # the second of two images
    assert own != score()


@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_a_run_on_images_trains_saves_and_skips_what_is_broken(make_config, image_folder, tmp_path, method, capsys):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("images", "videos"):
        shutil.copytree(image_folder / name, data / name)
    rows = [json.loads(line) for line in (image_folder / "train.jsonl").open()]
    rows[0]["media"][1]["path"] = "broken.png"
    (data / "broken.png").write_text("no picture")
    whole = (image_folder / "images/1_0.png").read_bytes()
    (data / "cut.png").write_bytes(whole[:-60])  # the header is whole, the pixels are not
    rows[1]["media"][0]["path"] = "cut.png"
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = [SPREAD, "model.freeze_vision=true"] if method == "grpo" else []
    more.append("video.max_quarantined=0.2")  # two of fifteen files
    config = config_of(make_config, data, method, *more, "trainer.max_steps=4", "trainer.learning_rate=1e-3")
    assert train(config) == 0
    run = Path(config.run.dir)
    log = [json.loads(line) for line in (run / "log.jsonl").open()]
    assert all(np.isfinite(line["loss"]) for line in log if "loss" in line)
    shown = capsys.readouterr().err
    assert shown.count("skipped image") == 2 and "broken.png: not readable as an image" in shown
    vision = json.loads((run / "final/vision.json").read_text())
    assert (vision["image_min_pixels"], vision["image_max_pixels"]) == (3136, 6272)


def test_no_readable_row_is_one_clear_error(make_config, image_folder, tmp_path):
    from vsgrpo.errors import DataError

    row = json.loads((image_folder / "train.jsonl").open().readline())
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"2 videos or images cannot be read, .*png: cannot be opened"):
        train(config_of(make_config, tmp_path, "sft"))
