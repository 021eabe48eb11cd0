import math

import pytest
import torch

from fake_gpu import CountKernels
from vsgrpo.modeling import sampling as sampling_module
from vsgrpo.modeling.sampling import Sampling, draw_tokens, logits_processors, noise_keys
from vsgrpo.server_plugin.vsgrpo_noise import gumbel, noise_key, splitmix64

GOLDEN = 0x9E3779B97F4A7C15


def signed(value: int) -> int:
    value %= 1 << 64
    return value - (1 << 64) if value >= 1 << 63 else value


def sampling(**changes) -> Sampling:
    return Sampling(**{"seed": 0, "step": 0, "max_new_tokens": 4, "eos_ids": (1,), **changes})


def draw(logits, num_draws, settings, row="row"):
    (noise,) = noise_keys([(row, index) for index in range(num_draws)], [0], settings, logits.device)
    processors = logits_processors(settings, logits.device)
    return draw_tokens(logits.expand(num_draws, -1), None if settings.greedy else noise, processors)


def noise_of(keys, vocab_size):
    return gumbel(torch.tensor([signed(key) for key in keys]), vocab_size)


def test_splitmix64_gives_the_published_sequence_of_seed_1234567():
    # Reference outputs of the public-domain C code (Vigna): the n-th output mixes seed + n * golden ratio.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    states = torch.tensor([signed(1234567 + n * GOLDEN) for n in (1, 2, 3, 4)])
    assert splitmix64(states).tolist() == [signed(value) for value in expected]


def test_gumbel_noise_is_the_documented_formula():
    noise = noise_of([1234567], 3)
    # token 1: top 32 bits of 6457827717110365317
    v = ((6457827717110365317 >> 32) + 0.5) / 2**32
    assert noise[0, 1].item() == pytest.approx(-math.log(-math.log1p(-v)), rel=1e-5)


def test_noise_keys_are_fixed_for_good_and_differ_in_each_of_the_five_values():
    assert noise_key(0, 0, "scannet/1", 0, 0) == noise_key(0, 0, "scannet/1", 0, 0)
    changes = [(1, 0, "a", 0, 0), (0, 1, "a", 0, 0), (0, 0, "b", 0, 0), (0, 0, "a", 1, 0), (0, 0, "a", 0, 1)]
    assert len({noise_key(*values) for values in [(0, 0, "a", 0, 0), *changes]}) == 6
    # Changing this number changes every completion of every run: never do it silently.
    assert noise_key(7, 12, "demo/q1", 3, 2) == 10855447065407999186


def test_noise_is_always_finite():
    noise = noise_of(range(64), 4096)
    assert noise.isfinite().all()
    # Gumbel: mean 0.5772, variance pi^2 / 6 = 1.6449; 262144 draws: standard error of the mean .0025
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert noise.var().item() == pytest.approx(1.6449, abs=0.03)


def unmixed(output: int) -> int:
    """Return the state that splitmix64 turns into `output`: its three steps backwards."""
    for shift, factor in ((31, 1), (27, 0x94D049BB133111EB), (30, 0xBF58476D1CE4E5B9)):
        output = output * pow(factor, -1, 1 << 64) % (1 << 64)
        wanted = output
        for _ in range(64 // shift + 1):  # x ^ (x >> shift) is undone from the top bits down
            output = wanted ^ (output >> shift)
    return output


@pytest.mark.parametrize("top", [0xFFFFFFFF, 0xFFFFFF80, 0xFFFFFF7F, 0x80000000, 1, 0])
@pytest.mark.parametrize("low", [0, 0xFFFFFFFF])
@pytest.mark.parametrize("token", [0, 1, 151_642])
def test_noise_is_finite_for_the_extreme_bits_of_any_token(top, low, token):
    key = (unmixed(top << 32 | low) - token * GOLDEN) % (1 << 64)
    start = torch.tensor([signed(key + token * GOLDEN)])
    assert splitmix64(start).item() == signed(top << 32 | low)
    noise = noise_of([key], token + 1)[0, token].item()
    v = min((top + 0.5) / 2**32, 1 - 2**-24)  # the largest float32 below 1
    assert noise == pytest.approx(-math.log(-math.log1p(-v)), rel=1e-5)


@pytest.mark.parametrize("key", [0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_noise_is_finite_for_the_extreme_keys(key):
    assert noise_of([key], 4096).isfinite().all()


def test_first_tokens_of_50k_draws_follow_the_softmax_as_closely_as_exact_sampling():
    logits = torch.randn(1, 60, generator=torch.Generator().manual_seed(0))
    temperature, num_draws = 0.7, 50_000
    target = (logits[0] / temperature).softmax(-1)

    def distance(tokens):
        return (torch.bincount(tokens, minlength=60) / num_draws - target).abs().sum().item() / 2

    keyed = distance(draw(logits, num_draws, sampling(temperature=temperature)))
    torch.manual_seed(0)
    exact = distance(torch.multinomial(target, num_draws, replacement=True))
    # expected total variation: about sum sqrt(p (1 - p) / n) * sqrt(2 / pi) / 2 = .0115
    assert keyed < 0.016 and abs(keyed - exact) < 0.005


def test_draws_neither_read_nor_move_the_global_random_state():
    logits = torch.randn(1, 60)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draw(logits, 100, sampling())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(draw(logits, 100, sampling()), first)
    assert not torch.equal(draw(logits, 100, sampling(step=1)), first)


def test_a_row_draws_the_same_alone_and_in_any_company():
    logits = torch.randn(50, 400, generator=torch.Generator().manual_seed(3))
    keys = [(f"row{i}", i) for i in range(50)]
    processors = logits_processors(sampling(), logits.device)
    noise = noise_keys(keys, [1, 2, 3], sampling(), logits.device)
    together = draw_tokens(logits, noise[1], processors)
    for i in (0, 17, 49):
        (alone,) = noise_keys([keys[i]], [2], sampling(), logits.device)
        assert draw_tokens(logits[i : i + 1], alone, processors).item() == together[i]


def test_rows_of_noise_that_are_made_at_a_time_change_no_token(monkeypatch):
    logits = torch.randn(112, 500, generator=torch.Generator().manual_seed(3))
    (noise,) = noise_keys([("row", i) for i in range(112)], [0], sampling(), logits.device)
    processors = logits_processors(sampling(), logits.device)
    found = []
    for rows in (1, 4, 64, 112):
        monkeypatch.setitem(sampling_module.NOISE_ENTRIES, "cpu", rows * 500)
        found.append(draw_tokens(logits, noise, processors))
    assert all(torch.equal(tokens, found[0]) for tokens in found)


def test_a_gpu_launches_at_most_40_kernels_for_112_rows_of_a_real_vocabulary(monkeypatch):
    settings = sampling(suppress=(3, 4, 5))
    vocab = 400
    monkeypatch.setitem(sampling_module.NOISE_ENTRIES, "cpu", sampling_module.NOISE_ENTRIES["cuda"] // 152_064 * vocab)
    logits, processors = torch.randn(112, vocab), logits_processors(settings, torch.device("cpu"))
    (noise,) = noise_keys([("row", i) for i in range(112)], [0], settings, logits.device)
    with CountKernels() as counter:
        draw_tokens(logits, noise, processors)
    assert counter.count <= 40


def test_suppressed_tokens_are_never_drawn_even_when_likeliest():
    logits = torch.zeros(1, 10)
    logits[0, 3] = 50.0
    assert 3 not in draw(logits, 2000, sampling(suppress=(3, 4))).tolist()
    assert draw(logits, 1, sampling(suppress=(3,), greedy=True)).item() != 3


def test_top_k_top_p_and_min_p_cut_the_tail():
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert set(draw(logits, 500, sampling(top_k=2)).tolist()) == {0, 1}
    assert set(draw(logits, 500, sampling(top_p=0.85)).tolist()) == {0, 1, 2}  # .4 + .3 < .85 <= .4 + .3 + .2
    assert set(draw(logits, 500, sampling(min_p=0.6)).tolist()) == {0, 1}  # below .6 * .4 = .24 is cut


def test_senseless_settings_are_refused():
    with pytest.raises(ValueError, match="temperature=0"):
        sampling(temperature=0.0)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        sampling(max_new_tokens=0)
