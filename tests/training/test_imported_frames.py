"""Frame lists of other projects are trained on: imported in order, accepted by check-data, shown to the model."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import SPREAD

from vsgrpo.data.check import check_data
from vsgrpo.data.importing.dataset_folder import ImportSettings
from vsgrpo.data.importing.import_data import import_data
from vsgrpo.training.worker import train

pytestmark = pytest.mark.integration
COUNT = "How many chair(s) are in this room?"
SIX = "Which is it?\nA. bed\nB. tv\nC. sofa\nD. lamp\nE. door\nF. bin"


@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_two_steps_on_frames(make_config, tmp_path, method):
    rng, rows = np.random.default_rng(0), []
    for scene in range(2):
        frames = [f"scannet/scene{scene:04d}_00/color/{k}.jpg" for k in range(3)]
        for path in frames:
            (tmp_path / "frames" / path).parent.mkdir(parents=True, exist_ok=True)
            pixels = np.repeat(np.repeat(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), 15, axis=0), 15, axis=1)
            Image.fromarray(pixels).save(tmp_path / "frames" / path)
        for asked, answer in ((COUNT, str(2 + scene)), (SIX, "F")):
            text = "".join(f"Frame-{k}: <image>\n" for k in range(3)) + asked
            talk = [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
            rows.append({"image": frames, "type": "nav", "conversations": talk})
    (tmp_path / "spar.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = tmp_path / "data"
    settings = ImportSettings((tmp_path / "spar.jsonl",), data, images=tmp_path / "frames", dev_fraction=0.0)
    summary = import_data(settings)
    assert (summary.num_images, summary.files[0].taken) == ((6, 6), 4)

    more = [SPREAD, "model.freeze_vision=true", "prompt.show_options=true"] if method == "grpo" else []
    config = make_config(method, f"data={data}", "image.max_pixels=6272", *more)
    check_data(data, config).raise_if_bad()
    assert train(config) == 0
    log = [json.loads(line) for line in (Path(config.run.dir) / "log.jsonl").open()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert len(losses) == 2 and np.isfinite(losses).all()
