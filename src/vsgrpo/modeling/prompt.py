"""Token ids of a prompt: chat template on [media.., text], then placeholders expanded. No frame is needed for it."""

from collections.abc import Collection, Sequence
from typing import Any

from vsgrpo.errors import DataError
from vsgrpo.video.budget import Medium

NO_SYSTEM = "none"
"""For `system`: no system turn at all, not even the one that the template adds by itself."""
_SYSTEM_TURN = ("<|im_start|>system\n", "<|im_end|>\n")


def encode_prompt(
    processor: Any,
    text: str,
    media: Sequence[Medium],
    system: str | None = None,
) -> list[int]:
    """Tokenise one user turn of videos and images followed by text, up to and with the assistant's header.

    Args:
        processor: of the model, with a chat template.
        text: the question with all its wording.
        media: the videos and images, in order.
        system: system turn; None leaves it to the template's default, `NO_SYSTEM` leaves it out.

    Raises:
        DataError: `text` or `system` contains one of the model's special tokens, which would be read as structure.
    """
    tokenizer = processor.tokenizer
    for part in (text, system or ""):
        if special := next((token for token in tokenizer.all_special_tokens if token in part), None) or next(
            (str(token) for token in tokenizer.added_tokens_decoder.values() if str(token) in part), None
        ):
            raise DataError(
                f"prompt text contains the special token {special}: {part[:60]!r}", hint="remove it from the row"
            )
    # Messages are built here from plain text: dictionaries that went through Arrow carry null-filled keys of other
    # part types, which Qwen2-VL's own template would render as one more placeholder.
    content = [{"type": item.kind, item.kind: ""} for item in media] + [{"type": "text", "text": text}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if system not in (None, NO_SYSTEM):
        messages.insert(0, {"role": "system", "content": system})
    rendered = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    if system == NO_SYSTEM:
        rendered = without_system(rendered)
    ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    placeholders = (processor.image_token_id, processor.video_token_id)
    return expand_placeholders(ids, placeholders, [item.num_tokens for item in media])


def without_system(rendered: str) -> str:
    """Cut a rendered prompt's leading system turn, which Qwen2-VL's template adds where a conversation has none."""
    begin, end = _SYSTEM_TURN
    return rendered.partition(end)[2] if rendered.startswith(begin) else rendered


def expand_placeholders(ids: Sequence[int], placeholders: Collection[int], counts: Sequence[int]) -> list[int]:
    """Replace the k-th placeholder (of any kind) by counts[k] copies of itself.

    Raises:
        DataError: the number of placeholders is not len(counts).
    """
    if (found := sum(token in placeholders for token in ids)) != len(counts):
        raise DataError(
            f"chat template: {found} placeholders rendered for {len(counts)} videos and images",
            hint="use the chat template that belongs to the model",
        )
    remaining = iter(counts)
    expanded: list[int] = []
    for token in ids:
        expanded += [token] * next(remaining) if token in placeholders else [token]
    return expanded
