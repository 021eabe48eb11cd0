"""Draw completions by servers: `ServerRollout` takes what `modeling.rollout` takes, and returns log-probs too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

import torch
from torch import Tensor, nn

from vsgrpo.engine.client import Server
from vsgrpo.engine.connections import EngineError
from vsgrpo.engine.wire import Array, Completion, Item, Request, content_hash, encode_features, greedy, keyed, seeded
from vsgrpo.errors import RunError
from vsgrpo.families import FAMILIES, check_served
from vsgrpo.families.family import Family
from vsgrpo.modeling.bundle import MediaFeatures, base_model
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.tree import Prompt
from vsgrpo.server_plugin.vsgrpo_noise import noise_key


class ServerRollout:
    """Servers that draw the completions of one model.

    Args:
        servers: that have its weights.
        model: possibly wrapped; its config and family are read.
        sampling: a value of rollout.vllm.sampling.

    Raises:
        ConfigError: its family cannot be served so.
    """

    def __init__(self, servers: Sequence[Server], model: nn.Module, sampling: str = "keyed") -> None:
        config = base_model(model).config
        self.servers, self._sampling = list(servers), sampling
        self._family: Family = FAMILIES[config.model_type]
        check_served(self._family)
        self._placeholders = {"image": config.image_token_id, "video": config.video_token_id}

    def rollout(
        self,
        prompts: Sequence[Prompt],
        features: Mapping[str, MediaFeatures],
        keys: Sequence[tuple[str, int]],
        sampling: Sampling,
    ) -> list[Completion]:
        """Draw one completion per key; the rows of one video go to one server.

        Args:
            prompts: one per key, or one per group of len(keys) / len(prompts) consecutive keys.
            features: of every video and image that the prompts name.
            keys: (row id, completion index) per wanted completion.

        Raises:
            ValueError: the number of keys is no multiple of the number of prompts, or a server cannot sample so.
            RunError: placeholders and features differ, or a server failed.
        """
        if sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0:
            raise ValueError("servers draw from the whole distribution: no top_p, top_k, min_p")
        if not keys:
            return []
        if not prompts or len(keys) % len(prompts):
            raise ValueError(f"{len(keys)} keys are no multiple of {len(prompts)} prompts")
        group = len(keys) // len(prompts)
        arrays: dict[str, tuple[Array, str]] = {}
        items = {prompt: self._items(prompt, features, arrays) for prompt in dict.fromkeys(prompts)}
        of_server: dict[int, list[int]] = {}
        requests = []
        for place, key in enumerate(keys):
            prompt = prompts[place // group]
            requests.append(Request(tuple(prompt.token_ids), items[prompt], self._params(key, sampling)))
            of_server.setdefault(self._server_of(prompt, key[0]), []).append(place)
        found: dict[int, Completion] = {}
        with ThreadPoolExecutor(len(of_server)) as pool:
            asked = {
                pool.submit(self.servers[number].generate, [requests[place] for place in places]): places
                for number, places in of_server.items()
            }
            try:
                for future, places in asked.items():
                    found |= zip(places, future.result(), strict=True)
            except BaseException:
                for server in self.servers:
                    server.stop()
                raise
        return [self._checked(found[place], sampling) for place in range(len(keys))]

    def _server_of(self, prompt: Prompt, row: str) -> int:
        name = prompt.videos[0] if prompt.videos else row
        return int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big") % len(self.servers)

    def _params(self, key: tuple[str, int], sampling: Sampling) -> dict:
        common = (sampling.max_new_tokens, sampling.eos_ids)
        if sampling.greedy:
            return greedy(*common, sampling.suppress)
        options = {"temperature": sampling.temperature, "suppress": sampling.suppress}
        row, index = key
        if self._sampling == "keyed":
            return keyed(*common, seed=sampling.seed, step=sampling.step, row=row, index=index, **options)
        return seeded(*common, key=noise_key(sampling.seed, sampling.step, row, index, 0), **options)

    def _items(
        self, prompt: Prompt, features: Mapping[str, MediaFeatures], arrays: dict[str, tuple[Array, str]]
    ) -> tuple[Item, ...]:
        """Return the videos and images of a prompt, each with the place of its placeholders."""
        found, start, ids = [], 0, prompt.token_ids
        for key in prompt.videos:
            if key not in features:
                raise RunError(f"{key}: no features were computed for this video or image")
            given = features[key]
            kind, length = given.medium.kind, len(given.tensor)
            pad = self._placeholders[kind]
            start = next((place for place in range(start, len(ids)) if ids[place] == pad), len(ids))
            if list(ids[start : start + length]) != [pad] * length:
                raise RunError(f"prompt of {prompt.videos}: no {length} placeholders in a row for {key}")
            seconds = given.medium.seconds_per_patch if kind == "video" and self._family.seconds_argument else None
            if key not in arrays:
                array = as_array(given.tensor)
                arrays[key] = array, content_hash(array, given.medium.grid_thw, seconds)
            array, name = arrays[key]
            grid = given.medium.grid_thw
            found.append(
                Item(kind, name, start, length, lambda k=kind, a=array, g=grid, s=seconds: encode_features(k, a, g, s))
            )
            start += length
        return tuple(found)

    def _checked(self, completion: Completion, sampling: Sampling) -> Completion:
        if banned := set(completion.token_ids) & set(sampling.suppress):
            what = f"a server drew the tokens {sorted(banned)}, which must not be drawn"
            raise EngineError(
                "refused", what, "start the server as `vsgrpo serve` writes it, with its logits processor"
            )
        return completion


def as_array(tensor: Tensor) -> Array:
    """Return features (N, D) as they lie in memory."""
    kept = tensor.detach().to("cpu").contiguous()
    return Array(str(kept.dtype).removeprefix("torch."), tuple(kept.shape), kept.view(torch.uint8).numpy().tobytes())
