"""Completions of servers are those of our own rollout, with their log-probs, for videos and images of both families."""

from dataclasses import replace

import pytest
import torch

from vsgrpo.engine.client import Server
from vsgrpo.engine.draw import ServerRollout, as_array
from vsgrpo.errors import ConfigError, RunError
from vsgrpo.modeling.bundle import MediaFeatures, vision_token_ids
from vsgrpo.modeling.load import load
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.prompt import encode_prompt
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.tree import Prompt, build_trees
from vsgrpo.video.budget import Medium

pytestmark = pytest.mark.integration
SERVED = pytest.mark.parametrize("tiny_folder", ["qwen2_vl", "qwen2_5_vl"], indirect=True, scope="session")


def medium_of(kind, grid, seconds=None):
    return Medium(kind, grid, grid[0] * grid[1] * grid[2] // 4, seconds)


@pytest.fixture
def shown(tiny_folder):
    """Return a bundle, four prompts and their features: a short and a long video, a picture, both together."""
    bundle = load(tiny_folder, tune="none", offline=True)
    bundle.model.eval()
    media = {
        "short": medium_of("video", (2, 4, 4), 0.3),
        "long": medium_of("video", (12, 4, 4), 3.0),
        "picture": medium_of("image", (1, 4, 8)),
    }
    numbers = torch.Generator().manual_seed(7)
    features = {
        key: MediaFeatures(torch.randn(medium.num_tokens, 96, generator=numbers), medium)
        for key, medium in media.items()
    }
    asked = (("short",), ("long",), ("picture",), ("picture", "long"))
    prompts = [
        Prompt(tuple(encode_prompt(bundle, "How many chairs?", [media[key] for key in keys])), keys) for keys in asked
    ]
    keys, parts = ("long", "picture"), ("First ", ", then ", ": how many chairs?")
    prompts.append(Prompt(tuple(encode_prompt(bundle, parts, [media[key] for key in keys])), keys))
    return bundle, prompts, features


def sampling_of(bundle, **values):
    options = {"seed": 3, "step": 2, "max_new_tokens": 8, "eos_ids": (bundle.tokenizer.eos_token_id,)}
    return Sampling(**{**options, "suppress": vision_token_ids(bundle.model), **values})


def keys_of(count, group=4):
    return [(f"row{row}", index) for row in range(count) for index in range(group)]


def connect(server, bundle, sampling="keyed"):
    return ServerRollout([Server(server.url, server.name, timeout_s=20)], bundle.model, sampling)


def scored(bundle, prompts, completions, features, group, temperature=1.0):
    groups = [[c.token_ids for c in completions[i * group : (i + 1) * group]] for i in range(len(prompts))]
    return logps(bundle.model, build_trees(prompts, groups, False), features, temperature=temperature)


@SERVED
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"greedy": True}], ids=["T1", "T0.7", "greedy"])
def test_completions_are_those_of_our_own_rollout(serve, shown, options):
    bundle, prompts, features = shown
    sampling, keys = sampling_of(bundle, **options), keys_of(len(prompts))
    own = rollout(bundle.model, prompts, features, keys, sampling)
    found = connect(serve(), bundle).rollout(prompts, features, keys, sampling)
    assert [list(each.token_ids) for each in found] == own
    # Raw log-probs: at temperature 1, whatever the noise was scaled for.
    rows = scored(bundle, prompts, found, features, 4)
    for each, (row, _) in zip(found, rows, strict=True):
        assert torch.allclose(torch.tensor(each.logprobs), row, atol=1e-5)


def test_seeded_draws_have_the_log_probs_of_their_temperature(serve, shown):
    bundle, prompts, features = shown
    sampling, keys = sampling_of(bundle, temperature=0.7), keys_of(len(prompts))
    server = serve(sampling="seeded")
    found = connect(server, bundle, "seeded").rollout(prompts, features, keys, sampling)
    seeds = {body["sampling_params"]["seed"] for path, body in server.requests}
    assert len(seeds) == len(keys)
    for each, (row, _) in zip(found, scored(bundle, prompts, found, features, 4, temperature=0.7), strict=True):
        assert torch.allclose(torch.tensor(each.logprobs), row, atol=1e-5)
    again = connect(server, bundle, "seeded").rollout(prompts[::-1], features, keys[::-1], sampling)
    assert [each.token_ids for each in again[::-1]] == [each.token_ids for each in found]


def test_rows_of_a_video_go_to_one_server_and_all_servers_get_some(serve, shown):
    bundle, _, _ = shown
    medium, servers = medium_of("video", (2, 4, 4)), [serve(), serve()]
    names = [f"video{i}" for i in range(6)]
    features = {name: MediaFeatures(torch.full((8, 96), 0.1 * i), medium) for i, name in enumerate(names)}
    ids = tuple(encode_prompt(bundle, "How many?", [medium]))
    pool = ServerRollout([Server(each.url, each.name, timeout_s=20) for each in servers], bundle.model)
    prompts = [Prompt(ids, (name,)) for name in names]
    sampling, keys = sampling_of(bundle, max_new_tokens=2), keys_of(6, 2)
    found = pool.rollout(prompts, features, keys, sampling)
    assert [list(each.token_ids) for each in found] == rollout(bundle.model, prompts, features, keys, sampling)
    sent = [set(each.sent_with_data()) for each in servers]
    assert all(sent) and not sent[0] & sent[1] and len(sent[0] | sent[1]) == 6


def test_features_in_bfloat16_arrive_bit_for_bit(serve, shown):
    bundle, prompts, features = shown
    server = serve()
    half = {key: replace(given, tensor=given.tensor.bfloat16()) for key, given in features.items()}
    connect(server, bundle).rollout(prompts[:1], half, keys_of(1), sampling_of(bundle))
    (kept,) = server.features.values()
    assert torch.equal(kept.tensor, half["short"].tensor.float())
    assert as_array(half["short"].tensor).dtype == "bfloat16"


def test_features_that_change_have_another_name(serve, shown):
    bundle, prompts, features = shown
    server, keys, sampling = serve(), keys_of(1), sampling_of(bundle)
    pool = connect(server, bundle)
    pool.rollout(prompts[:1], features, keys, sampling)
    moved = {"short": replace(features["short"], tensor=features["short"].tensor + 1)}
    found = pool.rollout(prompts[:1], moved, keys, sampling)
    assert [list(c.token_ids) for c in found] == rollout(bundle.model, prompts[:1], moved, keys, sampling)
    assert len(set(server.sent_with_data())) == 2


@pytest.mark.parametrize("tiny_folder", ["qwen3_vl", "qwen3_5"], indirect=True, scope="session")
def test_families_that_were_not_tried_are_refused(tiny_folder):
    bundle = load(tiny_folder, tune="none", offline=True)
    with pytest.raises(ConfigError, match=r"rollout\.engine=vllm: Qwen3.*: a video's placeholders are parted"):
        ServerRollout([], bundle.model)


def test_what_servers_cannot_draw_is_an_error(serve, shown):
    bundle, prompts, features = shown
    pool, keys = connect(serve(), bundle), keys_of(1)
    with pytest.raises(ValueError, match="no top_p"):
        pool.rollout(prompts[:1], features, keys, sampling_of(bundle, top_p=0.9))
    with pytest.raises(ValueError, match="no multiple"):
        pool.rollout(prompts[:2], features, keys[:3], sampling_of(bundle))
    with pytest.raises(RunError, match="no features were computed"):
        pool.rollout(prompts[:1], {}, keys, sampling_of(bundle))
    short = {"short": replace(features["short"], tensor=features["short"].tensor[:7])}
    text = tuple(token for token in prompts[0].token_ids if token != bundle.processor.video_token_id)
    wrong = Prompt(text, ("short",))
    with pytest.raises(RunError, match="no 7 placeholders in a row"):
        pool.rollout([wrong], short, keys, sampling_of(bundle))
    assert pool.rollout([], {}, [], sampling_of(bundle)) == []


def test_a_token_that_must_not_be_drawn_is_an_error(serve, shown, monkeypatch):
    bundle, prompts, features = shown
    server = serve()
    loose = sampling_of(bundle, suppress=(), greedy=True)
    monkeypatch.setattr(server, "sampling_of", lambda params, length: (loose, ("", 0)))
    drawn = rollout(bundle.model, prompts[:1], features, [("a", 0)], loose)
    with pytest.raises(RunError, match="must not be drawn"):
        banned = sampling_of(bundle, suppress=(drawn[0][0],))
        connect(server, bundle).rollout(prompts[:1], features, [("a", 0)], banned)
