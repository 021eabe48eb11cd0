"""Optional libraries that a value asks for, looked up without importing them."""

from __future__ import annotations

from importlib.util import find_spec

from vsgrpo.errors import ConfigError


def check_attention(name: str) -> None:
    """Raise ConfigError where `model.attn_implementation` needs a library that is not installed."""
    if name == "flash_attention_2" and find_spec("flash_attn") is None:
        raise ConfigError(
            f"model.attn_implementation={name}: the library flash_attn is not installed",
            hint="set model.attn_implementation=sdpa, or install flash_attn",
        )
