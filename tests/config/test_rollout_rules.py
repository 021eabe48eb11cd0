"""Rules of the rollout section: who draws, and what a server cannot do."""

import pytest

from vsgrpo.config.compose import load_config
from vsgrpo.errors import ConfigError

GIVEN = ["data=d", "output=o", "model=qwen2_vl_2b"]
SERVER = "rollout.engine=vllm"


def config(*overrides, method="grpo"):
    return load_config("train", [f"trainer={method}", *GIVEN, *overrides])


@pytest.mark.parametrize(
    ("engine", "tokens", "expected"),
    [("own", 4096, "own"), ("vllm", 4, "vllm"), ("auto", 64, "own"), ("auto", 65, "vllm")],
)
def test_auto_takes_our_own_rollout_up_to_64_new_tokens(engine, tokens, expected):
    found = config(f"rollout.engine={engine}", f"trainer.max_completion_length={tokens}")
    assert found.rollout_engine(found.trainer) == expected
    assert found.uses_servers() is (expected == "vllm")


def test_the_default_is_our_own_rollout_and_other_methods_have_none():
    found = config()
    assert found.rollout_engine(found.trainer) == "own"
    found = config(method="sft")
    assert found.rollout_engine(found.trainer) == "own" and not found.uses_servers()


def test_each_stage_has_its_engine():
    stages = "trainer.stages=[{max_completion_length: 8}, {max_completion_length: 512}]"
    found = config("rollout.engine=auto", stages)
    assert [found.rollout_engine(section) for section in found.stage_sections()] == ["own", "vllm"]
    with pytest.raises(ConfigError, match=r"trainer.top_k=5"):
        config("rollout.engine=auto", stages, "trainer.top_k=5")


@pytest.mark.parametrize(
    ("sampling", "temperature", "expected"),
    [("keyed", 1, "keyed"), ("keyed", 0.7, "seeded"), ("seeded", 1, "seeded"), ("seeded", 0.7, "seeded")],
)
def test_keyed_sampling_is_for_temperature_1(sampling, temperature, expected):
    found = config(SERVER, f"rollout.vllm.sampling={sampling}", f"trainer.temperature={temperature}")
    assert found.rollout.sampling_of(found.trainer) == expected


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.top_p=0.9"], r"trainer\.top_p=0\.9: rollout\.engine=vllm: the correction needs"),
        (["trainer.top_k=50"], r"trainer\.top_k=50: rollout\.engine=vllm: the correction needs"),
        (["trainer.min_p=0.1"], r"trainer\.min_p=0\.1: rollout\.engine=vllm: the correction needs"),
        (["model.tune=full", "model.freeze_vision=true"], r"rollout\.vllm\.sync=lora: model\.tune=full has no adapter"),
        (["rollout.vllm.base_urls=[]"], r"rollout\.vllm\.base_urls=\[\]: no server"),
        (["rollout.vllm.base_urls=[localhost]"], r"rollout\.vllm\.base_urls: localhost: an address is needed"),
        (['rollout.vllm.base_urls=["http://a:x"]'], r"http://a:x: an address is needed"),
        (["rollout.vllm.base_urls=[http://a,http://a]"], "one is in it twice"),
        (["rollout.vllm.is_clip_max=0.5"], r"rollout\.vllm\.is_clip_max=0\.5: must be at least 1"),
        (["rollout.vllm.max_logprob_gap=0"], r"rollout\.vllm\.max_logprob_gap=0: must be above 0"),
        (["rollout.vllm.is_mode=token"], r"rollout\.vllm\.is_mode=token"),
        (
            ["trainer.loss_type=vespo", "rollout.vllm.is_mode=sequence_mask"],
            r"rollout\.vllm\.is_mode=sequence_mask: trainer\.loss_type=vespo takes a ratio for each token",
        ),
    ],
)
def test_what_a_server_cannot_do_is_refused(overrides, words):
    with pytest.raises(ConfigError, match=words):
        config(SERVER, *overrides)


def test_addresses_need_no_quotes():
    found = config(SERVER, "rollout.vllm.base_urls=[http://10.0.0.1:8000,https://b.example/gpu]")
    assert found.rollout.vllm.base_urls == ["http://10.0.0.1:8000", "https://b.example/gpu"]
    assert config(SERVER, "trainer.top_p=1", "trainer.top_k=0", "trainer.min_p=0").uses_servers()
    assert config(SERVER, "model.tune=full", "model.freeze_vision=true", "rollout.vllm.sync=disk").uses_servers()


def test_keys_of_servers_are_without_effect_where_none_draws():
    found = config()
    assert found.why_unused("rollout.vllm.is_mode") == (
        "no completion is drawn by a server",
        "set rollout.engine=vllm too, or leave rollout.vllm.is_mode out",
    )
    assert config(SERVER).why_unused("rollout.vllm.is_mode") is None
    assert config(method="dpo").why_unused("rollout.engine")[0] == "`train dpo` has no rollouts"
