"""Think where unsure: which answers are kept, which are thought over, and what cannot be asked this way."""

import json
import math
import statistics

import pytest
import torch

from vsgrpo.cli import run
from vsgrpo.config.compose import load_config
from vsgrpo.errors import ConfigError
from vsgrpo.evaluation.benchmark import PromptSettings
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench
from vsgrpo.evaluation.budget import vision_budget
from vsgrpo.evaluation.generate import Asked, Decoding, Generator
from vsgrpo.evaluation.predictions import group_by_media
from vsgrpo.evaluation.run import run_eval
from vsgrpo.modeling.load import load
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.tree import build_trees
from vsgrpo.video.loader import VideoLoader

pytestmark = pytest.mark.integration


@pytest.fixture
def answer(tiny_folder, benchmark_folder, tmp_path):
    """Answer the benchmark's questions; return the lines, and what answered."""
    bundle = load(str(tiny_folder), None, dtype="float32", attn="sdpa", offline=True, tiny_folder=tiny_folder)

    def generate(mode, below=None, name="p", **settings):
        benchmark = VsiBench.read(benchmark_folder)
        loader = VideoLoader(vision_budget([bundle.base], {"num_frames": 4}), "pyav")
        decoding = Decoding(max_new_tokens=5, think_below=below, **settings)
        generator = Generator(bundle, loader, PromptSettings(mode, wording="train"), decoding)
        file = tmp_path / f"{name}-{mode}-{below}.jsonl"
        generator.run([Asked(group_by_media(benchmark.rows, benchmark.media), file)], tmp_path / "timing.jsonl")
        return [json.loads(line) for line in file.open()], generator

    return generate


@pytest.mark.both_families
def test_answers_that_are_unsure_are_thought_over(answer, benchmark_folder):
    vanilla, think = answer("vanilla")[0], answer("think")[0]
    every, generator = answer("think", 1.0)
    assert [line["prediction"] for line in every] == [line["prediction"] for line in think]
    assert [line["first_answer"] for line in every] == [line["prediction"] for line in vanilla]
    below = statistics.median(line["first_probability"] for line in every)
    half = answer("think", below)[0]
    unsure = [line["first_probability"] < below for line in half]
    assert 0 < sum(unsure) < len(half)
    for line, first, thought, is_unsure in zip(half, vanilla, think, unsure, strict=True):
        said = {"prompt_mode": line["prompt_mode"], "num_tokens": line["num_tokens"], "prediction": line["prediction"]}
        source = thought if is_unsure else {**first, "prediction": f"<answer>{first['prediction']}</answer>"}
        assert said == {name: source[name] for name in said} and ("first_answer" in line) == is_unsure
    (plain, _) = answer("think", below, "plain", layout="plain", batch_size=2)
    for one, other in zip(half, plain, strict=True):
        assert one | {"first_probability": 0} == other | {"first_probability": 0}
        assert one["first_probability"] == pytest.approx(other["first_probability"], abs=1.1e-4)
    _is_the_mean_of_its_tokens(generator, VsiBench.read(benchmark_folder), every[0])


def _is_the_mean_of_its_tokens(generator, benchmark, line):
    """The geometric mean of the probabilities of the tokens drawn, by log-probs of one row alone."""
    row = next(row for row in benchmark.rows if row.id == line["id"])
    media = [generator.loader.load(path, kind) for kind, path in benchmark.media(row)]
    prompt = generator._prompt(row, media, "vanilla")
    features = generator.store.features(media)
    with torch.no_grad():
        ids = generator.bundle.tokenizer(line["first_answer"], add_special_tokens=False)["input_ids"]
        ((scores, _),) = logps(generator.bundle.model, build_trees([prompt], [[ids]], False), features)
    if generator.bundle.tokenizer.decode(ids) == line["first_answer"] and len(ids) == 5:  # else other tokens say it
        assert line["first_probability"] == pytest.approx(math.prod(scores.exp().tolist()) ** (1 / 5), abs=1e-4)


def words(folder, output, *overrides):
    given = ["model.path=tiny", f"benchmark.path={folder}", f"output={output}", "video.num_frames=4"]
    return [*given, "prompt.mode=think", "decoding.think_below=1", "decoding.max_new_tokens=4", *overrides]


def test_an_evaluation_counts_thoughts_and_goes_on(benchmark_folder, tmp_path, capsys):
    given = words(benchmark_folder, tmp_path / "out")
    assert run(["eval", *given]) == 0
    assert "thought over: 9 of 9" in capsys.readouterr().out
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["thought"] == {"n": 9, "of": 9} and results["decoding"]["think_below"] == 1.0
    whole = (tmp_path / "out/predictions.jsonl").read_bytes()
    (tmp_path / "out/predictions.jsonl").write_bytes(whole[: len(whole) // 2])
    run_eval(load_config("eval", given))
    assert (tmp_path / "out/predictions.jsonl").read_bytes() == whole


@pytest.mark.parametrize(
    ("overrides", "message", "hint"),
    [
        (["prompt.mode=vanilla"], "prompt.mode=vanilla never thinks", "prompt.mode=think"),
        (["decoding.temperature=1"], "decoding.temperature=1 samples", "decoding.temperature=0"),
        (["decoding.think_below=0"], "decoding.think_below=0", "a probability"),
        (["prompt.suffix=Think."], "prompt.suffix takes the place of both", "prompt.suffix=none"),
    ],
)
def test_what_cannot_be_asked_twice_is_refused(benchmark_folder, tmp_path, overrides, message, hint):
    with pytest.raises(ConfigError) as caught:
        run_eval(load_config("eval", words(benchmark_folder, tmp_path / "out", *overrides)))
    assert message in caught.value.message and hint in caught.value.hint
