"""What is sent to a vLLM server's `/inference/v1/generate` and what comes back; nothing here imports vllm or torch.

Token ids are sent as they are (placeholders expanded), features of a video or image once, as a message that is byte for
byte what vLLM's own encoder makes (`tests/engine/golden`); afterwards their hash alone. A hash must name the content: a
server answers other features under a known hash with the old ones, without a word.

Sampling. `greedy` and `seeded` need a stock server. `keyed` needs one that runs the logits processor of `vsgrpo serve`.
Its contract: a request of temperature 0 carries `extra_args["keyed"]`, a mapping of

    seed         int    run seed
    step         int    optimizer steps done when the rollout starts, 0 in evaluation
    row          str    row id
    index        int    number of the completion in its group
    temperature  float  0: no noise, the likeliest token
    suppress     [int]  token ids that are never drawn

For the token at position t (of the completion, from 0) the processor sets suppressed logits to -inf, divides by the
temperature and adds Gumbel noise of the key `noise_key(seed, step, row, index, t)`; the argmax that vLLM then takes
is the token that our own rollout draws. It refuses a request of another temperature, or that lacks one of the six. A
request without "keyed" is left alone.

Log-probs: a keyed or greedy request wants a server with `--logprobs-mode raw_logprobs` (of the logits before all this,
at temperature 1), a seeded one `processed_logprobs`.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from vsgrpo.errors import RunError
from vsgrpo.terminal import counted

VLLM_VERSIONS = ("0.32.0",)
"""Versions whose wire format and answers were compared with ours."""
LOGPROBS_MODES = {"keyed": "raw_logprobs", "seeded": "processed_logprobs"}
"""What a server must return by a value of rollout.vllm.sampling."""
LOWEST_LOGIT_BIAS = -100.0
"""The lowest that vLLM takes."""
_TENSOR = 3
"""Extension type of raw bytes in vLLM's messages."""
_FINAL_ONLY = 2
"""vLLM's RequestOutputKind: one answer, when it is complete."""
_FINISHED = ("stop", "length")


@dataclass(frozen=True)
class Array:
    """Features as they lie in memory.

    Attributes:
        dtype: torch's name without "torch.".
        shape: (N, D).
        data: their bytes, row by row.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Item:
    """One video or image of a prompt.

    Attributes:
        kind: "video" or "image".
        hash: of `content_hash`.
        offset: place of its first placeholder.
        length: number of its placeholders.
        payload: makes the message of `encode_features`; called only where a server does not have the features.
    """

    kind: str
    hash: str
    offset: int
    length: int
    payload: Callable[[], str]


@dataclass(frozen=True)
class Request:
    """One completion that is wanted.

    Attributes:
        token_ids: of the prompt, placeholders expanded.
        items: videos and images, in order.
        params: of `greedy`, `keyed` or `seeded`.
    """

    token_ids: tuple[int, ...]
    items: tuple[Item, ...]
    params: Mapping[str, Any]

    def body(self, model: str, with_data: bool) -> dict[str, Any]:
        """Return the JSON of the request, with the features or with their hashes alone."""
        found: dict[str, Any] = {"model": model, "token_ids": list(self.token_ids), "sampling_params": {**self.params}}
        kinds = dict.fromkeys(item.kind for item in self.items)
        if kinds:
            of_kind = {kind: [item for item in self.items if item.kind == kind] for kind in kinds}
            found["features"] = {
                "mm_hashes": {kind: [item.hash for item in own] for kind, own in of_kind.items()},
                "mm_placeholders": {
                    kind: [{"offset": item.offset, "length": item.length} for item in own]
                    for kind, own in of_kind.items()
                },
                "kwargs_data": {
                    kind: [item.payload() if with_data else None for item in own] for kind, own in of_kind.items()
                },
            }
        return found


@dataclass(frozen=True)
class Completion:
    """What a server drew.

    Attributes:
        token_ids: the end token included where one was drawn.
        logprobs: one for each token.
        weight_versions: names of the weights that drew it, empty where the server says none.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    weight_versions: tuple[str, ...] = ()


def content_hash(array: Array, grid_thw: Sequence[int], seconds: float | None) -> str:
    """Return the name of features on servers: a hash of all that an answer depends on.

    Deviation: not of the video and the tower's weights, which the features would have to be those of. Features of a
    trained tower get another name whenever they change, with no step or run in it.

    Args:
        array: (N, D).
        grid_thw: patches in time, height and width.
        seconds: of one temporal patch, None where the family does not count them; it moves positions.
    """
    digest = blake2b(array.data, digest_size=16)
    digest.update(repr((array.dtype, tuple(array.shape), tuple(grid_thw), seconds)).encode())
    return digest.hexdigest()


def encode_features(kind: str, array: Array, grid_thw: Sequence[int], seconds: float | None = None) -> str:
    """Return features as vLLM's `encode_mm_kwargs_item` writes them: msgpack in base64.

    Args:
        kind: "video" or "image".
        array: (N, D).
        grid_thw: patches in time, height and width.
        seconds: of one temporal patch of a video, for families that count them.
    """
    from msgspec.msgpack import Ext, encode

    def tensor(dtype: str, shape: Sequence[int], data: bytes) -> list[Any]:
        return [dtype, list(shape), Ext(_TENSOR, data)]

    batched = ["batched", {"keep_on_cpu": True}]
    flat = ["flat", {"keep_on_cpu": False, "slices": [[[0, array.shape[0], None]]], "dim": 0}]
    grid = b"".join(int(size).to_bytes(8, "little", signed=True) for size in grid_thw)
    message: dict[str, Any] = {
        f"{kind}_embeds": {"data": tensor(array.dtype, array.shape, array.data), "field": flat},
        f"{kind}_grid_thw": {"data": tensor("int64", [3], grid), "field": batched},
    }
    if seconds is not None:
        value = struct.pack("<f", seconds)
        message["second_per_grid_ts"] = {"data": tensor("float32", [], value), "field": batched}
    return base64.b64encode(encode(message)).decode("ascii")


def greedy(max_tokens: int, eos_ids: Sequence[int], suppress: Sequence[int] = ()) -> dict[str, Any]:
    """Return sampling parameters of the likeliest tokens."""
    bias = {"logit_bias": {str(token): LOWEST_LOGIT_BIAS for token in suppress}} if suppress else {}
    return {**_common(max_tokens, eos_ids), "temperature": 0, **bias}


def keyed(
    max_tokens: int,
    eos_ids: Sequence[int],
    *,
    seed: int,
    step: int,
    row: str,
    index: int,
    temperature: float,
    suppress: Sequence[int],
) -> dict[str, Any]:
    """Return sampling parameters by which the server's processor draws what our own rollout draws, see above."""
    key = {"seed": seed, "step": step, "row": row, "index": index}
    key |= {"temperature": temperature, "suppress": list(suppress)}
    return {**_common(max_tokens, eos_ids), "temperature": 0, "extra_args": {"keyed": key}}


def seeded(
    max_tokens: int, eos_ids: Sequence[int], *, key: int, temperature: float, suppress: Sequence[int]
) -> dict[str, Any]:
    """Return sampling parameters of the server's own sampler.

    Args:
        key: `modeling.sampling.noise_key` at position 0, 64 bits; a seed has one bit less.
    """
    bias = {"logit_bias": {str(token): LOWEST_LOGIT_BIAS for token in suppress}} if suppress else {}
    return {**_common(max_tokens, eos_ids), "temperature": temperature, "seed": key >> 1, **bias}


def _common(max_tokens: int, eos_ids: Sequence[int]) -> dict[str, Any]:
    # ignore_eos would keep the ids of generation_config from ending a request: they are among ours.
    return {"max_tokens": max_tokens, "stop_token_ids": list(eos_ids), "logprobs": 0, "output_kind": _FINAL_ONLY}


def read_completion(answer: Any) -> Completion:
    """Return what a server's answer says.

    Raises:
        RunError: it is no answer, the completion was not finished, is empty, or has no log-prob for a token.
    """
    try:
        choice = answer["choices"][0]
        reason, ids = choice.get("finish_reason"), tuple(int(token) for token in choice["token_ids"] or ())
        content = (choice.get("logprobs") or {}).get("content") or ()
        logprobs = tuple(float("nan" if each["logprob"] is None else each["logprob"]) for each in content)
        versions = tuple(str(span["version"]) for span in choice.get("weight_versions") or ())
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise RunError(f"the server's answer is no completion: {str(answer)[:200]}", _OTHER_VERSION) from None
    if reason not in _FINISHED or not ids:
        what = f"the server ended a completion of {counted(len(ids), 'token')} with finish_reason={reason}"
        raise RunError(what, "look at the server's log; a server that slept or was reset has forgotten its videos")
    if len(logprobs) != len(ids):
        raise RunError(
            f"the server returned {counted(len(logprobs), 'log-prob')} for {counted(len(ids), 'token')}", _OTHER_VERSION
        )
    return Completion(ids, logprobs, versions)


_OTHER_VERSION = f"run one of the versions of vLLM that were compared: {', '.join(VLLM_VERSIONS)}"
