"""A real vLLM server on a CPU draws what our own rollout draws. By hand: VSGRPO_VLLM_PYTHON=... make test-vllm.

The models are tiny ones with heads of 32: vLLM's attention on CPUs refuses those of 24.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from evaluation_rows import write_vsibench
from real_server import RealServer
from vsgrpo.engine import serve
from vsgrpo.engine.client import Server
from vsgrpo.engine.wire import Array, Item, Request, encode_features, greedy, keyed
from vsgrpo.families.family import TinySizes
from vsgrpo.modeling.bundle import vision_token_ids
from vsgrpo.modeling.load import LoraSettings, load
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.prompt import encode_prompt
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.save import save_model
from vsgrpo.modeling.tiny import build_tiny
from vsgrpo.modeling.tree import Prompt, build_trees
from vsgrpo.modeling.vision import FeatureStore
from vsgrpo.video.budget import Medium
from vsgrpo.video.loader import VideoInputs

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(serve.INTERPRETER not in os.environ, reason=f"{serve.INTERPRETER} is not set (docs/engine.md)"),
]
QUESTIONS = ("How many chair(s) are in this room?", "What is the size of this room (in square meters)?")
NEW_TOKENS = 24
GAP = 1e-4
"""Largest difference of a log-prob between two libraries in float32."""
SIZES = TinySizes(hidden_size=128)


def made(kind, seed, frames, height, width, seconds=None):
    """Return a medium with random frames, of sizes in pixels."""
    patches = frames // 2 if kind == "video" else 1
    grid = (patches, height // 14, width // 14)
    times = tuple(seconds * patch for patch in range(patches)) if kind == "video" else None
    medium = Medium(kind, grid, grid[0] * grid[1] * grid[2] // 4, seconds, times)
    size = (frames, 3, height, width)
    pixels = torch.randint(0, 256, size, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return VideoInputs(f"{kind} {seed}", pixels, medium)


MEDIA = {
    "short": made("video", 1, 8, 112, 112, 1.7),
    "long": made("video", 2, 64, 56, 56, 2.0),  # 32 patches in time over 4 x 4: text goes on far behind its rows
    "image": made("image", 3, 1, 112, 140),
}


class Lab:
    """A tiny model, its own rollout, and requests for the same completions."""

    def __init__(self, bundle, name):
        self.bundle, self.name = bundle, name
        bundle.model.eval()
        self.features = FeatureStore(bundle).features([*MEDIA.values()])
        ends = bundle.model.generation_config.eos_token_id if bundle.model is not None else ()
        self.eos = tuple(sorted({*ends, bundle.tokenizer.eos_token_id}))

    def prompts(self, medium):
        return [Prompt(tuple(encode_prompt(self.bundle, text, [medium.medium])), (medium.key,)) for text in QUESTIONS]

    def sampling(self, **options):
        suppress = vision_token_ids(self.bundle.model)
        common = {"seed": 42, "step": 3, "max_new_tokens": NEW_TOKENS, "eos_ids": self.eos, "suppress": suppress}
        return Sampling(**{**common, **options})

    def own(self, medium, group, **options):
        keys = [(f"row {i}", index) for i in range(len(QUESTIONS)) for index in range(group)]
        sampling = self.sampling(**options)
        return rollout(self.bundle.model, self.prompts(medium), self.features, keys, sampling, layout="tree")

    def scored(self, medium, group, completions):
        trees = build_trees(self.prompts(medium), [completions[:group], completions[group:]], True)
        with torch.no_grad():
            return [scores.tolist() for scores, _ in logps(self.bundle.model, trees, self.features, layout="tree")]

    def requests(self, medium, group, temperature=1.0, new_tokens=NEW_TOKENS):
        """Return requests for `group` completions of each question, greedy ones for a temperature of 0."""
        kind, found = medium.medium.kind, self.features[medium.key]
        pad = getattr(self.bundle.processor, f"{kind}_token_id")
        seconds = medium.medium.seconds_per_patch if self.bundle.family.seconds_argument and kind == "video" else None
        tensor = found.tensor.contiguous()
        array = Array("float32", tuple(tensor.shape), tensor.numpy().tobytes())
        requests = []
        for number, prompt in enumerate(self.prompts(medium)):
            item = Item(
                kind,
                f"{self.name} {medium.key}",
                prompt.token_ids.index(pad),
                prompt.token_ids.count(pad),
                lambda: encode_features(kind, array, medium.medium.grid_thw, seconds),
            )
            common = {"suppress": vision_token_ids(self.bundle.model)}
            for index in range(group):
                key = {"seed": 42, "step": 3, "row": f"row {number}", "index": index, "temperature": temperature}
                params = keyed(new_tokens, self.eos, **key, **common)
                if not temperature:
                    params = greedy(new_tokens, self.eos, **common)
                requests.append(Request(prompt.token_ids, (item,), params))
        return requests


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl"])
def served(request, tmp_path_factory):
    """A server of a tiny model, its client and its laboratory; one server for each family."""
    folder = tmp_path_factory.mktemp(request.param)
    build_tiny(folder / "model", family=request.param, sizes=SIZES)
    server = RealServer(folder / "model", folder / "server.log", 'serve.args=["--num-gpu-blocks-override=18"]')
    server.start()
    client = Server(server.url, str(folder / "model"), timeout_s=120, max_model_len=2048)
    yield client, Lab(load(folder / "model", tune="none", offline=True), request.param), folder, server
    server.kill()


def tokens(completions):
    return [list(completion.token_ids) for completion in completions]


def report(what, drawn, own):
    equal = sum(mine == theirs for mine, theirs in zip(own, drawn, strict=True))
    print(f"\n{what}: {equal} of {len(own)} equal")
    assert drawn == own, what


@pytest.mark.parametrize("name", list(MEDIA))
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_keyed_completions_are_those_of_our_own_rollout(served, name, temperature):
    client, lab, *_ = served
    own = lab.own(MEDIA[name], 8, temperature=temperature)
    completions = client.generate(lab.requests(MEDIA[name], 8, temperature))
    report(f"{lab.name}, {name}, temperature {temperature}", tokens(completions), own)
    assert len({tuple(each) for each in own}) > 8  # they differ: the noise is at work
    gaps = [
        abs(mine - theirs)
        for completion, scores in zip(completions, lab.scored(MEDIA[name], 8, own), strict=True)
        for mine, theirs in zip(scores, completion.logprobs, strict=True)
    ]
    print(f"largest difference of a log-prob: {max(gaps):.1e}")
    assert max(gaps) < GAP


def test_greedy_completions_are_those_of_our_own_rollout(served):
    client, lab, *_ = served
    for name, medium in MEDIA.items():
        drawn = tokens(client.generate(lab.requests(medium, 1, temperature=0)))
        report(f"{lab.name}, {name}, greedy", drawn, lab.own(medium, 1, greedy=True))


def test_a_tight_cache_preempts_and_changes_no_token(served):
    """18 blocks of 128 tokens for 64 completions that end in their second block each."""
    client, lab, *_ = served
    before = client.preemptions()
    own = lab.own(MEDIA["short"], 32, max_new_tokens=60)
    completions = client.generate(lab.requests(MEDIA["short"], 32, new_tokens=60))
    report(f"{lab.name}, tight cache", tokens(completions), own)
    print(f"preemptions: {client.preemptions() - before:g}")
    assert client.preemptions() > before


def test_an_adapter_a_step_is_seen_at_once(served):
    client, lab, folder, _ = served
    base = tokens(client.generate(lab.requests(MEDIA["short"], 4)))
    seen = [base]
    for step in (1, 2):
        bundle = load(folder / "model", tune="lora", lora=LoraSettings(r=8, alpha=16), offline=True)
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for name, weight in bundle.model.named_parameters():
                if "lora_B" in name:
                    weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
        save_model(bundle, folder / f"adapter-{step}", merge=False)
        client.add_adapter(f"run-{step}", str(folder / f"adapter-{step}"))
        client.weights = f"run-{step}"
        drawn = tokens(client.generate(lab.requests(MEDIA["short"], 4)))
        report(f"{lab.name}, adapter of step {step}", drawn, Lab(bundle, lab.name).own(MEDIA["short"], 4))
        seen.append(drawn)
        if step == 2:
            client.drop_adapter("run-1")
    client.weights = None
    assert tokens(client.generate(lab.requests(MEDIA["short"], 4))) == base
    assert seen[0] != seen[1] != seen[2] != seen[0]


def test_full_weights_are_read_again_and_nothing_of_the_old_is_left(served):
    client, lab, folder, _ = served
    before = tokens(client.generate(lab.requests(MEDIA["long"], 4)))
    bundle = load(folder / "model", tune="full", offline=True)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in bundle.model.named_parameters():
            if "language_model.layers" in name and weight.dim() == 2:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.02)
    save_model(bundle, folder / "step-1", merge=False)
    try:
        client.reload_weights(str(folder / "step-1"), "run-step-1")
        client.version = "run-step-1"
        drawn = tokens(client.generate(lab.requests(MEDIA["long"], 4)))
        own = Lab(bundle, lab.name).own(MEDIA["long"], 4)
        report(f"{lab.name}, weights of step 1", drawn, own)
        assert drawn != before
    finally:
        client.version = None
        client.reload_weights(str(folder / "model"), "default")
    assert tokens(client.generate(lab.requests(MEDIA["long"], 4))) == before


V2 = """
import types, numpy, torch
from vsgrpo_keyed import KeyedSampling, KeyedSamplingV2
from vllm.v1.sample.logits_processor import BatchUpdate
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext
from vllm import SamplingParams

key = {"seed": 1, "step": 2, "row": "a/b", "temperature": 0.7, "suppress": [5]}
params = [SamplingParams(temperature=0, extra_args={"keyed": {**key, "index": i}}) for i in range(3)]
params.append(SamplingParams())
logits, lengths = torch.randn(4, 800, generator=torch.Generator().manual_seed(0)), [0, 4, 2, 3]
first = KeyedSampling(None, torch.device("cpu"), False)
added = [(row, each, None, [7] * length) for row, (each, length) in enumerate(zip(params, lengths))]
first.update_state(BatchUpdate(batch_size=4, removed=[], added=added, moved=[]))
expected = first.apply(logits.clone())
slots = [6, 2, 9, 4]
prompts = numpy.zeros(10, dtype=numpy.int64)
prompts[slots] = [11, 20, 7, 13]
second = KeyedSamplingV2(None, types.SimpleNamespace(prompt_len=types.SimpleNamespace(np=prompts)))
taken = [second.add_request(slot, each) for slot, each in zip(slots, params)]
assert taken == [True, True, True, False], taken
order = torch.tensor(slots)
context = LogitsContext(order, order, order.numpy(), None, None, None, prompts[slots] + lengths)
found = second.apply(logits.clone(), context)
assert torch.equal(found, expected) and not torch.equal(found[:3], logits[:3]) and torch.equal(found[3], logits[3])
second.add_request(6, params[3])
assert torch.equal(second.apply(logits.clone(), context)[0], logits[0])
print("equal")
"""


def test_both_processors_give_the_same_noise():
    """The interface of Model Runner V2 with its own classes; its runner needs Triton and a GPU."""
    plugin = Path(serve.__file__).parents[1] / "server_plugin"
    environment = {**os.environ, "PYTHONPATH": str(plugin)}
    command = [os.environ[serve.INTERPRETER], "-c", V2]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.endswith("equal\n"), done.stderr[-2000:]


def evaluation(folder, model, benchmark, url, *words):
    """Return the command of an evaluation by a server."""
    given = [f"model={model}", f"benchmark.path={benchmark}", f"output={folder}", "prompt.mode=think"]
    given += ["decoding.max_new_tokens=200", "decoding.temperature=1", "decoding.num_samples=2", "decoding.engine=vllm"]
    given += [f"decoding.vllm.base_urls=[{url}]", "decoding.vllm.concurrency=4", *words]
    return ["nice", "-n", "5", sys.executable, "-m", "vsgrpo.cli", "eval", *given]


def begin(command):
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_answers(folder, number, process):
    """Wait until so many answers of an evaluation are kept."""
    end = time.monotonic() + 120
    while sum(path.read_bytes().count(b"\n") for path in folder.glob("predictions*.jsonl")) < number:
        assert process.poll() is None and time.monotonic() < end, process.stderr.read()
        time.sleep(0.02)


def test_an_evaluation_survives_its_server(tmp_path):
    """Killed and started again: waited for. Killed for good: what was answered is kept, and the same bytes come out."""
    write_vsibench(tmp_path / "bench", num_scenes=8)
    build_tiny(tmp_path / "model", sizes=SIZES)
    server = RealServer(tmp_path / "model", tmp_path / "server.log")
    server.start()
    try:
        given = (tmp_path / "model", tmp_path / "bench", server.url)
        own = [word for word in evaluation(tmp_path / "own", *given) if not word.startswith("decoding.vllm")]
        own = [word.replace("engine=vllm", "engine=own") for word in own]
        subprocess.run(own, check=True, capture_output=True, timeout=300)
        expected = (tmp_path / "own" / "predictions.jsonl").read_bytes()
        assert expected.count(b"\n") == 48

        waiting = begin(evaluation(tmp_path / "waiting", *given))
        wait_for_answers(tmp_path / "waiting", 12, waiting)
        server.kill()
        server.start(wait=False)
        _, errors = waiting.communicate(timeout=300)
        assert waiting.returncode == 0, errors
        assert (tmp_path / "waiting" / "predictions.jsonl").read_bytes() == expected
        print("\nevaluation, server killed and started again: 48 of 48 answers are our own engine's, byte for byte")

        stopped = begin(evaluation(tmp_path / "stopped", *given, "decoding.vllm.startup_timeout_s=1"))
        wait_for_answers(tmp_path / "stopped", 12, stopped)
        server.kill()
        _, errors = stopped.communicate(timeout=300)
        lines = errors.strip().splitlines()[-2:]
        assert stopped.returncode == 1 and lines[0].startswith("error: "), errors
        assert "answers that came are kept" in lines[1]
        kept = sum(path.read_bytes().count(b"\n") for path in (tmp_path / "stopped").glob("predictions*.jsonl"))
        server.start()
        again = begin(evaluation(tmp_path / "stopped", *given))
        _, errors = again.communicate(timeout=300)
        assert again.returncode == 0, errors
        assert (tmp_path / "stopped" / "predictions.jsonl").read_bytes() == expected
        print(f"evaluation, server killed for good: {kept} answers kept, the same bytes after the second command")
    finally:
        server.kill()
