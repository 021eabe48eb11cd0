"""README.md of a model folder: what it was trained on and how, what it may be used for, what it scored.

The hub shows it; its front matter is YAML as the hub reads it. Everything comes from files that lie there already:
training_manifest.json and vision.json of the folder, config.yaml of the run, results.json of evaluations inside the
run folder. The scores are between two marks: an evaluation renews them and leaves the rest, which may be edited.
The text is in `templates/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import ChainableUndefined, Environment, PackageLoader

from vsgrpo.data.manifest import TRAINING_MANIFEST_NAME, TrainingManifest, read_training_manifest
from vsgrpo.families import ADAPTER_CONFIG, FAMILIES, family_of
from vsgrpo.families.vision_record import read_vision
from vsgrpo.files import write_atomic
from vsgrpo.records import read_record
from vsgrpo.terminal import counted

CARD_NAME = "README.md"
SCORES_BEGIN, SCORES_END = "<!-- vsgrpo scores -->", "<!-- end of vsgrpo scores -->"
_BEGIN_FRONT = "---\n"
Evaluations = Sequence[tuple[str, Mapping[str, Any]]]
"""Folder name and results.json of each."""
_SCANNET_TERMS = "https://kaldir.vc.in.tum.de/scannet/ScanNet_TOS.pdf"
_VERDICTS = {
    "clean": "clean: no room of VSI-Bench in the data of this model or of any model it was started from",
    "unknown": "unknown: some rows, or a model it was started from, do not tell their rooms",
    "leak": "leak: rooms of VSI-Bench are in its data, so its score on VSI-Bench means nothing",
}
_TEMPLATES = Environment(
    loader=PackageLoader("vsgrpo.modeling"), undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True
)
_TEMPLATES.globals["counted"] = counted
_TEMPLATES.filters["cell"] = lambda value: str(value).replace("|", "\\|").replace("\n", " ")
_TEMPLATES.filters["thousands"] = "{:,}".format
_TEMPLATES.filters["percent"] = lambda share: f"{100 * share:.1f}"


def write_model_card(
    folder: Path, run_dir: Path | None = None, of: Path | None = None, name: str | None = None
) -> Path:
    """Write README.md into a model folder.

    Args:
        folder: with training_manifest.json (without it the lineage is called unknown).
        run_dir: the run it came from, with config.yaml, run.json and evaluations.
        of: the folder that evaluations know this model by, where it is another (a merged adapter, a renamed folder).
        name: of the folder, where it will get another one; the title of a model without a lineage.
    """
    known = (folder / TRAINING_MANIFEST_NAME).is_file()
    manifest = read_training_manifest(folder) if known else TrainingManifest(base="unknown", name=name or folder.name)
    config = run_dir / "config.yaml" if run_dir is not None else None
    evaluations = find_evaluations(run_dir, of or folder) if run_dir is not None else []
    facts = {
        "title": manifest.name or name or folder.name,
        "manifest": manifest,
        "verdict": _VERDICTS[manifest.verdict()],
        "leaked": manifest.leaked_rooms(),
        "published": [item.name for item in manifest.lineage() if item.base == "published"],
        "is_fresh": any(item.base == "fresh" for item in manifest.lineage()),
        "is_of_scans": any(room.startswith("scene") for rooms in manifest.all_rooms().values() for room in rooms),
        "is_known": set(manifest.all_rooms()) <= {"demo"} and manifest.verdict() == "clean",
        "is_adapter": (folder / ADAPTER_CONFIG).is_file(),
        "family": _family(folder),
        "vision": read_vision(folder),
        "config": yaml.safe_load(config.read_text(encoding="utf-8")) if config and config.is_file() else {},
        "scores": _scores(evaluations),
        "scannet_terms": _SCANNET_TERMS,
    }
    path = folder / CARD_NAME
    body = _TEMPLATES.get_template("model_card.md").render(facts)
    write_atomic(path, _front_matter(facts, evaluations) + body + "\n")
    return path


def renew_scores(folder: Path) -> bool:
    """Put the evaluations inside the run folder (the parent) into the card of a model; return whether it has one.

    The rest of the card stays as it is. A folder that may not be written is left as it is too.
    """
    path = folder / CARD_NAME
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, begin, rest = text.partition(SCORES_BEGIN)
    _, end, after = rest.partition(SCORES_END)
    if not (begin and end):
        return False
    evaluations = find_evaluations(folder.parent, folder)
    head, text = _split_front(before + _scores(evaluations) + after)
    head.pop("model-index", None)
    head |= _model_index(str(head.get("model_name", folder.name)), evaluations)
    try:
        write_atomic(path, _dump_front(head) + text)
    except OSError:
        return False
    return True


def find_evaluations(run_dir: Path, model: Path) -> Evaluations:
    """Return (folder name, results.json) of the evaluations of a model inside a run folder."""
    found = []
    for path in sorted(run_dir.glob("*/results.json")):
        result = read_record(path, {}, "run `vsgrpo eval` into this folder again")
        told = result.get("model", {})
        name = told.get("adapter") or told.get("path")
        if name and Path(name).resolve() == model.resolve() and "scores" in result:
            found.append((path.parent.name, result))
    return found


def _front_matter(facts: Mapping[str, Any], evaluations: Evaluations) -> str:
    is_adapter = facts["is_adapter"]
    head: dict[str, Any] = {
        "model_name": facts["title"],
        "language": ["en"],
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": "video-text-to-text",
        "tags": ["vsgrpo", "spatial-reasoning", "video", "vsi-bench", *(["lora"] if is_adapter else [])],
    }
    if facts["published"]:
        head["base_model"] = facts["published"][0]
    if facts["is_of_scans"]:
        head |= {"license": "other", "license_name": "see-section-licence", "license_link": _SCANNET_TERMS}
    elif not facts["is_known"]:
        head |= {"license": "other", "license_name": "see-section-licence"}
    else:
        head["license"] = "apache-2.0"
    return _dump_front(head | _model_index(facts["title"], evaluations))


def _model_index(title: str, evaluations: Evaluations) -> dict[str, Any]:
    """Return the hub's table of results; controls (videos of other rooms) stay out of it."""
    results = []
    for name, result in evaluations:
        if result.get("video") == "shuffled":
            continue
        kind = "vsi-bench" if result["benchmark"].get("format") == "vsibench" else "vsgrpo-rows"
        metrics = [
            {"type": f"score_{task}", "name": f"{task}, {result['scorer']} scorer", "value": round(100 * value, 1)}
            for task, value in result["scores"].items()
        ]
        dataset = {"type": kind, "name": f"{result['title']} ({name})"}
        results.append({"task": {"type": "video-text-to-text"}, "dataset": dataset, "metrics": metrics})
    return {"model-index": [{"name": title, "results": results}]} if results else {}


def _family(folder: Path) -> str:
    """Name the family by the model, or an adapter's base; where that is not here by the processor in the folder."""
    if family := family_of(str(folder)):
        return family.label
    processor = _read_json(folder / "processor_config.json").get("processor_class")
    return next((f.label for f in FAMILIES.values() if f.processor.__name__ == processor), "vision-language")


def _scores(evaluations: Evaluations) -> str:
    """Return a table of scores times 100, and what each line was scored on, between the two marks."""
    tasks = list(dict.fromkeys(task for _, result in evaluations for task in result["scores"]))
    marks = {"begin": SCORES_BEGIN, "end": SCORES_END}
    return _TEMPLATES.get_template("scores.md").render(marks, evaluations=evaluations, tasks=tasks)


def _dump_front(head: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(head), sort_keys=False, allow_unicode=True, width=1000)
    return f"{_BEGIN_FRONT}{text}---\n\n"


def _split_front(text: str) -> tuple[dict[str, Any], str]:
    """Return the front matter and what follows it."""
    if not text.startswith(_BEGIN_FRONT):
        return {}, text
    head, _, body = text.removeprefix(_BEGIN_FRONT).partition("\n---\n")
    return yaml.safe_load(head) or {}, body.lstrip("\n")


def _read_json(path: Path) -> dict[str, Any]:
    return read_record(path, {}, "copy the model again") if path.is_file() else {}
