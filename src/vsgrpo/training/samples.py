"""Samples on their way through a step: prompt tokens, media, features and completion, then a line of completions.jsonl.

Text and media stay apart: token ids come from the row's text and the media's numbers of tokens, frames become features
by the vision tower. Samples travel in batches as plain Python lists of shared references, because TRL permutes and
slices lists row by row, while flat pixel arrays would be cut as if they were rows.
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from vsgrpo.modeling.bundle import ModelBundle
from vsgrpo.modeling.inputs import encode_prompt
from vsgrpo.modeling.tree import Prompt, Tree, build_trees
from vsgrpo.modeling.vision import FeatureStore, MediaFeatures
from vsgrpo.terminal import show
from vsgrpo.training.timing import PhaseTimer
from vsgrpo.video.loader import BadVideo, VideoInputs, VideoLoader

END_OF_TURN = "<|im_end|>"
MAX_CACHED_PROMPTS = 8192
COMPLETIONS_SCHEMA_VERSION = 1


@dataclass
class Sample:
    """One completion (or the place of one) of one row.

    Attributes:
        row_key: dataset/id, with `#k` where a row occurs again.
        index: number of the completion in its group.
        media: decoded frames, shared by all samples that show them; None where a file turned out bad (on_bad=skip).
            Such a sample goes through every pass with its text alone, so that all processes make the same calls, and
            counts nowhere.
        features: of the frozen tower, one per medium, filled before the rollout; None where the tower is trained (they
            change with every update and are computed in each pass).
        completion: token ids, EOS included where produced.
        reward: weighted sum of the reward functions; None where there is none.
    """

    row_key: str
    index: int
    prompt: Prompt
    media: tuple[VideoInputs, ...] | None
    features: tuple[MediaFeatures, ...] | None = None
    completion: tuple[int, ...] = ()
    reward: float | None = None


class SampleMaker:
    """Turns table rows into samples: decodes each video and image of a batch once, tokenises each prompt once.

    Args:
        loader: decodes and resizes; keeps frames where its cache says so.
    """

    def __init__(self, bundle: ModelBundle, loader: VideoLoader, timer: PhaseTimer) -> None:
        self._processor = bundle.processor
        self._loader = loader
        self._timer = timer
        self._prompts: OrderedDict[tuple[Any, ...], tuple[int, ...]] = OrderedDict()
        self._bad: set[str] = set()
        self.store: FeatureStore | None = None
        """Videos and images whose features it has are not decoded."""

    def make(self, rows: Sequence[Mapping[str, Any]], indices: Sequence[int]) -> list[Sample]:
        """Return one sample per row; `indices` are their numbers in the group."""
        with self._timer.phase("decode"):
            wanted = dict.fromkeys((item["kind"], item["path"]) for row in rows for item in row["media"])
            loaded = {place: self._load(*place) for place in wanted}
            known: dict[str, tuple[Prompt, tuple[VideoInputs, ...] | None]] = {}
            for row in rows:
                if row["row_key"] not in known:
                    media = _whole([loaded[item["kind"], item["path"]] for item in row["media"]])
                    known[row["row_key"]] = (self._prompt(row["prompt"], row["system"], media or ()), media)
        return [Sample(row["row_key"], index, *known[row["row_key"]]) for row, index in zip(rows, indices, strict=True)]

    def make_answered(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[Sample]:
        """Return a sample for each answer in `columns` of each row, neighbours; it ends with `<|im_end|>`."""
        samples = self.make([row for row in rows for _ in columns], [*range(len(columns))] * len(rows))
        tokenizer = self._processor.tokenizer
        texts = [row[name] for row in rows for name in columns]
        end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
        for sample, answer in zip(samples, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True):
            sample.completion = (*answer, end)
        return samples

    def _load(self, kind: str, path: str) -> VideoInputs | None:
        try:
            if self.store is not None and self._loader.key(path, kind) in self.store:
                return self._loader.undecoded(path, kind)
            return self._loader.load(path, kind)
        except BadVideo as error:
            if path not in self._bad:
                self._bad.add(path)
                show(f"skipped {kind}: {error.message}", sys.stderr)
                self._loader.check_quarantine()
            return None

    def _prompt(self, text: str, system: str | None, media: Sequence[VideoInputs]) -> Prompt:
        shown = [item.medium for item in media]
        key = (text, system, *((item.kind, item.num_tokens) for item in shown))
        ids = self._prompts.pop(key, None)
        if ids is None:
            ids = tuple(encode_prompt(self._processor, text, shown, system))
            if len(self._prompts) >= MAX_CACHED_PROMPTS:
                self._prompts.popitem(last=False)
        self._prompts[key] = ids
        return Prompt(ids, tuple(item.key for item in media))


def _whole(media: Sequence[VideoInputs | None]) -> tuple[VideoInputs, ...] | None:
    """Return the media of a row, None where one of them is bad: a question is asked with all it shows, or not."""
    found = tuple(item for item in media if item is not None)
    return found if len(found) == len(media) else None


def compute_features(
    samples: Sequence[Sample], store: FeatureStore, timer: PhaseTimer, *, grad: bool = False
) -> dict[str, MediaFeatures]:
    """Return the features of the samples' media by key, the tower run once per video or image that has none yet.

    Args:
        grad: keep the graph through the tower (a tower that is trained, in the update pass).
    """
    features: dict[str, MediaFeatures] = {}
    missing: dict[str, VideoInputs] = {}
    shown = 0
    for sample in samples:
        shown += len(sample.media or ())
        if sample.features is not None:
            features |= zip((item.key for item in sample.media or ()), sample.features, strict=True)
        else:
            missing |= {item.key: item for item in sample.media or ()}
    timer.count("videos/plain", shown)
    if missing:
        before = store.num_videos
        with timer.phase("vision"):
            features |= store.features(list(missing.values()), grad=grad)
        timer.count("videos/computed", store.num_videos - before)
    return features


def sample_trees(samples: Sequence[Sample], layout: str) -> list[Tree]:
    """Return trees whose leaves, in order, are the samples' completions; neighbours of one prompt form a group.

    A group torn by microbatching becomes two groups: still exact, only less is shared.
    """
    groups = [list(group) for _, group in groupby(samples, key=lambda sample: sample.row_key)]
    return build_trees(
        [group[0].prompt for group in groups], [[s.completion for s in group] for group in groups], layout == "tree"
    )


def completion_records(
    step: int,
    rows: Sequence[Mapping[str, Any]],
    samples: Sequence[Sample],
    texts: Sequence[str],
    advantages: Sequence[float],
) -> list[dict[str, Any]]:
    """Return one record per text; the other sequences may be longer."""
    return [
        {
            "schema_version": COMPLETIONS_SCHEMA_VERSION,
            "step": step,
            "id": sample.row_key,
            "question_type": row["question_type"],
            "index": sample.index,
            "completion": text,
            "num_tokens": len(sample.completion),
            "answer": row["answer"],
            "reward": sample.reward,
            "advantage": round(advantage, 4),
        }
        for row, sample, text, advantage in zip(rows, samples, texts, advantages, strict=False)
    ]


def append_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Append records as lines of JSON."""
    with path.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
