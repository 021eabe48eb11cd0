"""What a model was trained on, by its own record and by the records of all models that it was made of."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from vsgrpo.data.manifest import TRAINING_MANIFEST_NAME, TrainingManifest, read_training_manifest
from vsgrpo.families import BUILT, FAMILIES, adapter_base

_WEIGHTS = (".safetensors", ".bin")


def lineage_of(model: str, below: tuple[str, ...] = ()) -> TrainingManifest:
    """Return the manifest of a model to start from or to score.

    A folder's own training_manifest.json; "fresh" for tiny models (random weights); "published" for a Qwen hub id (its
    pre-training is the publisher's matter); otherwise "unknown". Ancestors, too: the base that an adapter names, and
    models whose weights are here by links.

    Raises:
        DataError: a training_manifest.json is broken.
    """
    folder = Path(model)
    if model in BUILT:
        return TrainingManifest(base="fresh", name=model)
    if not folder.exists() and any(re.fullmatch(family.published, model) for family in FAMILIES.values()):
        return TrainingManifest(base="published", name=model)
    manifest = TrainingManifest(base="unknown", name=folder.name)
    if (folder / TRAINING_MANIFEST_NAME).is_file():
        manifest = read_training_manifest(model)
    below = (*below, model)
    base = adapter_base(folder)
    for place in ([base] if base is not None and Path(base).is_dir() else []) + _linked(folder):
        if place in below:  # adapters may name each other in a circle
            continue
        ancestor = lineage_of(place, below)
        is_known = ancestor.base == "trained" or bool(ancestor.parents)
        # An unknown base adds nothing to a model that has a record of its own, unknown weights to none.
        if is_known or (place == base and (ancestor.base, manifest.base) == ("unknown", "unknown")):
            manifest = _with_parent(manifest, ancestor)
    return manifest


def continued(now: TrainingManifest, before: TrainingManifest) -> TrainingManifest:
    """Return the manifest of a run that goes on: with what its checkpoint was trained on, if that was something else.

    Args:
        now: of the rows and the models that the run reads now.
        before: of the checkpoint.
    """
    if (now.rooms, now.hashes, now.videos) != (before.rooms, before.hashes, before.videos):
        return _with_parent(now, before)
    for parent in before.parents:
        now = _with_parent(now, parent)
    return now


def _with_parent(manifest: TrainingManifest, parent: TrainingManifest) -> TrainingManifest:
    return manifest if parent in manifest.lineage() else replace(manifest, parents=[*manifest.parents, parent])


def _linked(folder: Path) -> list[str]:
    """Return the folders that links of the weights in a model folder lead to."""
    own, links = folder.resolve(), [path for path in sorted(folder.glob("*")) if path.is_symlink()]
    places = dict.fromkeys(path.resolve().parent for path in links if path.suffix in _WEIGHTS)
    return [str(place) for place in places if place != own and place.is_dir()]
