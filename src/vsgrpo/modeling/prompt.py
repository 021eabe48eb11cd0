"""A prompt: one user turn of videos, images and text, as the token ids that a family's processor makes of it.

No frame is needed for them: the header of a video tells how many placeholders stand for it, and the times of frames.
"""

from collections.abc import Sequence
from typing import Any

from vsgrpo.errors import DataError
from vsgrpo.modeling.bundle import ModelBundle
from vsgrpo.terminal import counted
from vsgrpo.video.budget import Medium

NO_SYSTEM = "none"
"""For `system`: no system turn at all, not even the one that the template adds by itself."""
_SYSTEM_TURN = ("<|im_start|>system\n", "<|im_end|>\n")


Turn = str | tuple[str, ...]
"""Text of a user turn, before which its videos and images are shown; or the texts before, between and after them."""


def encode_prompt(bundle: ModelBundle, text: Turn, media: Sequence[Medium], system: str | None = None) -> list[int]:
    """Tokenise one user turn of videos, images and text, up to and with the assistant's header.

    Args:
        bundle: its processor has a chat template.
        text: the question with all its wording, see `Turn`; without media its parts are one text.
        media: the videos and images, in order.
        system: system turn; None leaves it to the template's default, `NO_SYSTEM` leaves it out.

    Raises:
        DataError: `text` or `system` contains one of the model's special tokens, which would be read as structure; a
            video of unknown timing, and the family writes times.
        ValueError: media, and not one part of text more than there are of them.
    """
    processor = bundle.processor
    tokenizer = processor.tokenizer
    texts = (text,) if isinstance(text, str) else tuple(text)
    for part in (*texts, system or ""):
        if special := next((token for token in _structure(tokenizer) if token in part), None):
            raise DataError(
                f"prompt text contains the special token {special}: {part[:60]!r}", hint="remove it from the row"
            )
    # Messages are built here from plain text: dictionaries that went through Arrow carry null-filled keys of other
    # part types, which Qwen2-VL's own template would render as one more placeholder.
    content = _content(text, media)
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if system not in (None, NO_SYSTEM):
        messages.insert(0, {"role": "system", "content": system})
    rendered = bundle.render(messages)
    if system == NO_SYSTEM:
        rendered = without_system(rendered)
    counts = [item.num_tokens for item in media]
    if bundle.family.video_text is not None:
        rendered = _write_videos(bundle, rendered, [item for item in media if item.kind == "video"])
        parts = [item.grid_thw[0] if item.kind == "video" else 1 for item in media]
        counts = [count // number for count, number in zip(counts, parts, strict=True) for _ in range(number)]
    ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    return expand_placeholders(ids, (processor.image_token_id, processor.video_token_id), counts)


def _content(text: Turn, media: Sequence[Medium]) -> list[dict[str, str]]:
    """Return the parts of a user turn in the order in which the template writes them."""
    shown = [{"type": item.kind, item.kind: ""} for item in media]
    if isinstance(text, str) or not media:
        return [*shown, {"type": "text", "text": "".join(text)}]
    first, *rest = text
    if len(rest) != len(media):
        raise ValueError(f"{len(text)} parts of text around {len(media)} videos and images")
    texts = [{"type": "text", "text": part} for part in rest]
    return [{"type": "text", "text": first}, *(part for pair in zip(shown, texts, strict=True) for part in pair)]


def _structure(tokenizer: Any) -> list[str]:
    """List the tokens that no text may contain. Added tokens that a text may: `<think>` of Qwen3, by its tokenizer."""
    added = [token for token in tokenizer.added_tokens_decoder.values() if token.special or str(token).startswith("<|")]
    return [*tokenizer.all_special_tokens, *map(str, added)]


def _write_videos(bundle: ModelBundle, rendered: str, videos: Sequence[Medium]) -> str:
    """Put the family's text of each video in the place of the template's placeholder, marks and all if `published`."""
    family, marks = bundle.family, ("<|vision_start|>", "<|vision_end|>")
    if any(not video.timestamps for video in videos):
        raise family.untimed()
    placeholder = bundle.processor.video_token
    if bundle.vision_marks == "published":
        placeholder = placeholder.join(marks)
    first, *rest = rendered.split(placeholder)
    if len(rest) != len(videos):
        raise _wrong_template(len(rest), len(videos))
    return first + "".join(family.video_text(video) + text for video, text in zip(videos, rest, strict=True))


def _wrong_template(found: int, shown: int) -> DataError:
    return DataError(
        f"chat template: {counted(found, 'placeholder')} rendered for "
        f"{counted(shown, 'video or image', 'videos and images')}",
        hint="use the chat template that belongs to the model",
    )


def without_system(rendered: str) -> str:
    """Cut a rendered prompt's leading system turn, which Qwen2-VL's template adds where a conversation has none."""
    begin, end = _SYSTEM_TURN
    return rendered.partition(end)[2] if rendered.startswith(begin) else rendered


def expand_placeholders(ids: Sequence[int], placeholders: Sequence[int], counts: Sequence[int]) -> list[int]:
    """Replace the k-th placeholder (of any kind) by counts[k] copies of itself.

    Raises:
        DataError: the number of placeholders is not len(counts).
    """
    if (found := sum(token in placeholders for token in ids)) != len(counts):
        raise _wrong_template(found, len(counts))
    remaining = iter(counts)
    expanded: list[int] = []
    for token in ids:
        expanded += [token] * next(remaining) if token in placeholders else [token]
    return expanded
