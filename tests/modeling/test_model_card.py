"""README.md of a model folder: front matter that the hub reads, lineage, licence, scores that are renewed."""

import json
import shutil

import pytest
from huggingface_hub import ModelCard

from vsgrpo.data.manifest import TrainingManifest, write_training_manifest
from vsgrpo.families.vision_record import write_vision
from vsgrpo.modeling.model_card import CARD_NAME, renew_scores, write_model_card

BASE = TrainingManifest(base="published", name="Qwen/Qwen2-VL-2B-Instruct")
DEMO = {"demo": ["demo000001", "demo000002"]}
CONFIG = """
run: {seed: 7}
model: {path: Qwen/Qwen2-VL-2B-Instruct, tune: lora, lora: {r: 8}, freeze_vision: true}
prompt: {mode: vanilla}
reward: {names: [accuracy, format]}
trainer: {name: grpo, num_generations: 14, beta: 0.0001, learning_rate: 1.0e-5, max_steps: -1, stages: null}
"""


@pytest.fixture
def run_dir(tmp_path):
    """A run folder with final/ and one evaluation of it."""
    final = tmp_path / "run" / "final"
    final.mkdir(parents=True)
    (final / "config.json").write_text('{"model_type": "qwen2_vl"}')
    (tmp_path / "run/config.yaml").write_text(CONFIG)
    write_vision(final, {"num_frames": 16, "min_pixels": 3136, "max_pixels": 100352}, "published")
    return tmp_path / "run"


def describe(run_dir, *parents, rooms=None, **values):
    manifest = TrainingManifest(rooms or DEMO, {"train.jsonl": "ab" * 32}, 1234, parents=list(parents), **values)
    write_training_manifest(run_dir / "final", manifest)
    return write_model_card(run_dir / "final", run_dir).read_text()


def evaluate(run_dir, name="eval", model=None, **values):
    (run_dir / name).mkdir()
    result = {
        "title": "VSI-Bench",
        "scorer": "official",
        "scores": {"overall": 0.295, "object_counting": 0.5},
        "intervals": {"overall": [0.2751, 0.315]},
        "leak": {"verdict": "clean"},
        "benchmark": {"format": "vsibench"},
        "model": {"path": str(model or run_dir / "final"), "adapter": None},
        "video": "own",
        "decoding": {"temperature": 0.0, "num_samples": 1},
    }
    (run_dir / name / "results.json").write_text(json.dumps({**result, **values}))


def test_the_card_tells_base_data_vision_method_and_that_no_score_is_there(run_dir):
    text = describe(run_dir, BASE, name="x")
    data = ModelCard(text).data
    assert data.base_model == "Qwen/Qwen2-VL-2B-Instruct" and data.library_name == "transformers"
    assert data.pipeline_tag == "video-text-to-text" and data.license == "apache-2.0"
    for part in (
        "# x\n",
        "| x | 1,234 | 2 of demo | train.jsonl `abababababab` | clean |",
        "Leak verdict: **clean:",
        "Trained on 16 frames a video, uniform in time, each of 3,136 to 100,352 pixels",
        "| completions per question | 14 |",
        "| rewards | accuracy, format |",
        "None yet: no evaluation of this model",
    ):
        assert part in text, part


def test_scans_and_unknown_origins_are_not_called_free(run_dir):
    text = describe(run_dir, BASE, rooms={"scannet": ["scene0000"]}, name="x")
    assert ModelCard(text).data.license == "other" and "ScanNet_TOS" in text and "ask its authors" in text
    text = describe(run_dir, TrainingManifest(base="unknown", name="theirs"), name="x")
    assert ModelCard(text).data.license == "other" and "Leak verdict: **unknown:" in text
    text = describe(run_dir, BASE, rooms={"scannet": ["scene0025"]}, name="x", verdict_rows="leak")
    assert "Leak verdict: **leak:" in text and "Benchmark rooms: scene0025." in text


def test_scores_are_renewed_and_the_rest_of_the_card_is_kept(run_dir):
    card = run_dir / "final" / CARD_NAME
    card.write_text(describe(run_dir, BASE, name="x") + "\nA line of my own.\n")
    evaluate(run_dir)
    evaluate(run_dir, "eval_shuffled", video="shuffled")
    evaluate(run_dir, "other", model=run_dir / "checkpoint-5")
    assert renew_scores(run_dir / "final")
    text = card.read_text()
    # 0.295 x 100; 27.51 rounds to 27.5
    assert "| eval | 29.5 (27.5 to 31.5) | 50.0 |" in text and "A line of my own." in text and "None yet" not in text
    assert "a control: every question was shown the video of another room" in text and "| other |" not in text
    (result, second) = ModelCard(text).data.eval_results
    assert (result.dataset_type, result.metric_value, second.metric_value) == ("vsi-bench", 29.5, 50.0)
    before = text
    assert renew_scores(run_dir / "final") and card.read_text() == before
    assert ModelCard(text).data.base_model == BASE.name


def test_a_merged_folder_has_the_scores_of_its_adapter(run_dir, tmp_path):
    describe(run_dir, BASE, name="x")
    evaluate(run_dir)
    shutil.copytree(run_dir / "final", tmp_path / "merged")
    (tmp_path / "merged" / CARD_NAME).unlink()
    text = write_model_card(tmp_path / "merged", run_dir, of=run_dir / "final").read_text()
    assert "| eval | 29.5" in text


def test_a_folder_without_card_or_marks_is_left_alone(run_dir):
    assert not renew_scores(run_dir / "final")
    (run_dir / "final" / CARD_NAME).write_text("mine\n")
    assert not renew_scores(run_dir / "final") and (run_dir / "final" / CARD_NAME).read_text() == "mine\n"
    (run_dir / "final" / "vision.json").unlink()
    text = write_model_card(run_dir / "final").read_text()
    assert "not recorded" in text and "not beside this folder" in text and "unknown" in text
