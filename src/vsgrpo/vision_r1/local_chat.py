"""A transformers model in this process, asked by build-cot like an endpoint (`pseudo.base_url=local`).

One answer at a time: right for a laptop, a few hundred rows, or a machine without a server; vLLM or SGLang answers many
at once. Sampling is keyed by seed and request, so an answer does not depend on the order of the rows.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import sys
from typing import Any

import torch

from vsgrpo.config.evaluate import StepSection
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.modeling.load import device_line, load, own_device
from vsgrpo.terminal import show
from vsgrpo.vision_r1.answers import Account, Reply


class LocalChat:
    """One loaded model; steps that name the same one share it.

    Args:
        name: of the step, for messages.
        step: its `model` is a folder (an adapter's too) or a hub id.

    Raises:
        DataError: it cannot be loaded, or has no chat template.
    """

    def __init__(self, name: str, step: StepSection) -> None:
        self.name, self.model_name = name, str(step.model)
        self._lock = asyncio.Lock()
        device = own_device()
        show(f"{name}.model={step.model}: {device_line(device)}", sys.stderr)
        dtype = "float32" if device.type == "cpu" else "bfloat16"
        bundle = load(self.model_name, dtype=dtype, device=device, any_family=True, key=f"{name}.model")
        self._model, self._processor, self._tokenizer = bundle.model, bundle.processor, bundle.tokenizer
        self.sees = self._processor is not self._tokenizer
        if not self._processor.chat_template:
            raise DataError(f"{name}.model={self.model_name}: has no chat template", "choose an instruct model")

    async def close(self) -> None:
        """Nothing to close."""

    async def ask(self, step: StepSection, messages: list[dict[str, Any]], seed: int, account: Account) -> Reply:
        """Return the model's answer; time-out, retries and rate limits of the step mean nothing here.

        Raises:
            ConfigError: pictures are shown to a model that sees none.
        """
        async with self._lock:
            reply = await asyncio.to_thread(self._answer, step, messages, seed)
        account.add(reply)
        return reply

    def _answer(self, step: StepSection, messages: list[dict[str, Any]], seed: int) -> Reply:
        content = messages[-1]["content"]
        parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        images = [_picture(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        if images and not self.sees:
            hint = f"give {self.name}.model a multimodal model, or cot.bridge=annotation"
            raise ConfigError(f"{self.name}.model={self.model_name}: sees no pictures, the step shows some", hint)
        inputs = self._inputs(text, images).to(self._model.device)
        prompt_tokens = inputs["input_ids"].shape[1]
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if step.temperature > 0:
            sampling = {"do_sample": True, "temperature": step.temperature, "top_p": step.top_p, "top_k": 0}
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(_key(messages, seed))
            ids = self._model.generate(**inputs, max_new_tokens=step.max_tokens, **sampling)[0, prompt_tokens:]
        ends = self._model.generation_config.eos_token_id
        ended = int(ids[-1]) in (ends if isinstance(ends, list) else [ends])
        return Reply(
            text=self._tokenizer.decode(ids, skip_special_tokens=True),
            reasoning=None,
            finish_reason="stop" if ended else "length",
            prompt_tokens=prompt_tokens,
            completion_tokens=len(ids),
        )

    def _inputs(self, text: str, images: list[Any]) -> Any:
        parts = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
        turn = [{"role": "user", "content": parts if self.sees else text}]
        rendered = self._processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        if not self.sees:
            return self._processor([rendered], return_tensors="pt", add_special_tokens=False)
        return self._processor(text=[rendered], images=images or None, return_tensors="pt")


def _picture(url: str) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")


def _key(messages: list[dict[str, Any]], seed: int) -> int:
    """Return the seed of one answer: of the run's seed and the whole request."""
    text = json.dumps([seed, messages], sort_keys=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
