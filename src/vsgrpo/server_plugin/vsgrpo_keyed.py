"""Keyed sampling inside a vLLM server: the tokens that vsgrpo's own rollout draws, up to numerics.

    PYTHONPATH=FOLDER_OF_THIS_FILE vllm serve ... --logits-processors vsgrpo_keyed:KeyedSampling

(`vsgrpo serve` writes the whole command.) A request asks for it by `temperature: 0` and

    "extra_args": {"keyed": {"seed": 42, "step": 7, "row": "demo/3", "index": 0, "temperature": 1.0, "suppress": [5]}}

Logits lose the suppressed tokens, are divided by the keyed temperature and get the noise of (seed, step, row, index,
position in the completion); vLLM then takes the likeliest token. A keyed temperature of 0 adds no noise: greedy.
Log-probs that vLLM returns are those of the model itself under `--logprobs-mode raw_logprobs`.

`KeyedSampling` is for vLLM's V1 model runner. `KeyedSamplingV2` is for Model Runner V2, which needs Triton: it follows
the interface of vLLM 0.32 and has not run yet.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as LogitsProcessorV2
from vsgrpo_noise import as_int64, gumbel, noise_key

EXTRA = "keyed"
"""Name of the settings in a request's `extra_args`."""
_NOISE_ENTRIES = 64 * 152_064
"""Numbers of noise that are made at a time: 28 bytes each."""


@dataclass(frozen=True)
class Keyed:
    """What a request asks for."""

    seed: int
    step: int
    row: str
    index: int
    temperature: float
    suppress: tuple[int, ...]

    @classmethod
    def of(cls, params: Any) -> "Keyed | None":
        """Return the settings in a request's sampling parameters, None where it has none.

        Raises:
            ValueError: they are incomplete, of the wrong kind, or the request itself has a temperature.
        """
        values = (params.extra_args or {}).get(EXTRA)
        if values is None:
            return None
        names = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or sorted(values) != sorted(names):
            raise ValueError(f"extra_args.{EXTRA}: an object with {', '.join(names)} is needed")
        suppress = values["suppress"] if isinstance(values["suppress"], list) else [None]
        numbers = [*(values[name] for name in ("seed", "step", "index")), *suppress]
        if not all(type(number) is int for number in numbers) or not isinstance(values["row"], str):
            raise ValueError(
                f"extra_args.{EXTRA}: seed, step and index are integers, suppress a list of them, row a text"
            )
        temperature = values["temperature"]
        if not isinstance(temperature, int | float) or temperature < 0:
            raise ValueError(f"extra_args.{EXTRA}.temperature={temperature}: a number of at least 0 is needed")
        if params.temperature != 0:
            raise ValueError(f"temperature={params.temperature}: keyed sampling needs temperature=0 in the request")
        return cls(**{**values, "suppress": tuple(values["suppress"])})


def sample(logits: Tensor, drawn: Iterable[tuple[int, Keyed, int]]) -> None:
    """Change logits (rows, V) in place, so that the largest of a keyed row is its draw.

    Args:
        drawn: (row of `logits`, settings, position in the completion) of each keyed request.
    """
    alike: dict[tuple[float, tuple[int, ...]], list[tuple[int, int]]] = {}
    for row, keyed, position in drawn:
        key = as_int64(noise_key(keyed.seed, keyed.step, keyed.row, keyed.index, position))
        alike.setdefault((keyed.temperature, keyed.suppress), []).append((row, key))
    rows_at_once = max(1, _NOISE_ENTRIES // logits.shape[1])
    for (temperature, suppress), asked in alike.items():
        for start in range(0, len(asked), rows_at_once):
            rows, keys = torch.tensor(asked[start : start + rows_at_once]).T.to(logits.device)
            scores = logits[rows]
            scores[:, list(suppress)] = -torch.inf
            if temperature > 0:
                # Divided by the number itself: by a tensor, a GPU rounds differently than vsgrpo's own rollout.
                scores = (scores if temperature == 1 else scores / temperature) + gumbel(keys, logits.shape[1])
            logits[rows] = scores


class KeyedSampling(LogitsProcessor):
    """Keyed sampling for the V1 model runner."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._requests: dict[int, tuple[Keyed, list[int]]] = {}
        """Row -> settings and the completion so far, which vLLM lengthens in place."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a request before it is queued."""
        Keyed.of(sampling_params)

    def is_argmax_invariant(self) -> bool:
        """Say that greedy requests need it too."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests that come, move and go."""
        process_dict_updates(self._requests, batch_update, self._new)

    def _new(self, params: Any, prompt: list[int] | None, completion: list[int]) -> tuple[Keyed, list[int]] | None:
        keyed = Keyed.of(params)
        return None if keyed is None else (keyed, completion)

    def apply(self, logits: Tensor) -> Tensor:
        """Change the rows of keyed requests."""
        sample(logits, ((row, keyed, len(completion)) for row, (keyed, completion) in self._requests.items()))
        return logits


class KeyedSamplingV2(LogitsProcessorV2):
    """Keyed sampling for Model Runner V2. Not run yet."""

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        self._prompt_len = req_states.prompt_len
        self._requests: dict[int, Keyed] = {}
        """Slot -> settings."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a request before it is queued."""
        Keyed.of(sampling_params)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Put a request into a slot, which may have held another."""
        keyed = Keyed.of(sampling_params)
        self._requests.pop(req_idx, None)
        if keyed is not None:
            self._requests[req_idx] = keyed
        return keyed is not None

    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        """Change the rows of keyed requests: without speculative decoding each request has one row, in batch order."""
        places = enumerate(zip(ctx.idx_mapping_np.tolist(), ctx.seq_lens_upper_bound_np.tolist(), strict=True))
        known = [(row, self._requests[slot], slot, length) for row, (slot, length) in places if slot in self._requests]
        sample(logits, ((row, keyed, length - int(self._prompt_len.np[slot])) for row, keyed, slot, length in known))
        return logits
