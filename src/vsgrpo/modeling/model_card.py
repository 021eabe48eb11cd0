"""README.md of a model folder: what it was trained on and how, what it may be used for, what it scored.

The hub shows it; its front matter is YAML as the hub reads it. Everything comes from files that lie there already:
training_manifest.json and vision.json of the folder, config.yaml of the run, results.json of evaluations inside the
run folder. Between two marks stand the scores: an evaluation renews them and leaves the rest, which may be edited.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vsgrpo.data.manifest import TRAINING_MANIFEST_NAME, TrainingManifest, read_training_manifest
from vsgrpo.families import FAMILIES, read_vision
from vsgrpo.files import write_atomic
from vsgrpo.modeling.adapters import ADAPTER_CONFIG
from vsgrpo.records import read_record

CARD_NAME = "README.md"
SCORES_BEGIN, SCORES_END = "<!-- vsgrpo scores -->", "<!-- end of vsgrpo scores -->"
_BEGIN_FRONT = "---\n"
_PAPERS = "https://arxiv.org/abs/2504.00883"
_SCANNET_TERMS = "https://kaldir.vc.in.tum.de/scannet/ScanNet_TOS.pdf"
_VERDICTS = {
    "clean": "clean: no room of VSI-Bench in the data of this model or of any model it was started from",
    "unknown": "unknown: some rows, or a model it was started from, do not tell their rooms",
    "leak": "leak: rooms of VSI-Bench are in its data, so its score on VSI-Bench means nothing",
}
_SETTINGS = (
    ("trainer.name", "method"),
    ("model.tune", "tuned"),
    ("model.lora.r", "LoRA rank"),
    ("model.freeze_vision", "vision tower frozen"),
    ("prompt.mode", "prompt"),
    ("reward.names", "rewards"),
    ("trainer.num_generations", "completions per question"),
    ("trainer.beta", "weight of the KL term"),
    ("trainer.learning_rate", "learning rate"),
    ("trainer.max_steps", "optimizer steps of a stage"),
    ("trainer.num_train_epochs", "epochs"),
    ("run.seed", "seed"),
)


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
    config = _read_yaml(run_dir / "config.yaml") if run_dir is not None else {}
    evaluations = find_evaluations(run_dir, of or folder) if run_dir is not None else []
    title = manifest.name or name or folder.name
    body = "\n\n".join(
        [
            f"# {title}",
            _intro(folder, manifest),
            "## Use\n\n" + _use(folder),
            "## Training data and lineage\n\n" + _lineage(manifest),
            "## Training\n\n" + _training(folder, config),
            "## Scores\n\n" + _marked(evaluations),
            "## Licence\n\n" + _licence(manifest),
        ]
    )
    path = folder / CARD_NAME
    write_atomic(path, _front_matter(folder, manifest, title, evaluations) + body + "\n")
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
    head, text = _split_front(before + _marked(evaluations) + after)
    head.pop("model-index", None)
    head |= _model_index(str(head.get("model_name", folder.name)), evaluations)
    try:
        write_atomic(path, _dump_front(head) + text)
    except OSError:
        return False
    return True


def find_evaluations(run_dir: Path, model: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return (folder name, results.json) of the evaluations of a model inside a run folder."""
    found = []
    for path in sorted(run_dir.glob("*/results.json")):
        result = read_record(path, {}, "run `vsgrpo eval` into this folder again")
        told = result.get("model", {})
        name = told.get("adapter") or told.get("path")
        if name and Path(name).resolve() == model.resolve() and "scores" in result:
            found.append((path.parent.name, result))
    return found


def _front_matter(
    folder: Path, manifest: TrainingManifest, title: str, evaluations: Sequence[tuple[str, dict[str, Any]]]
) -> str:
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    head: dict[str, Any] = {
        "model_name": title,
        "language": ["en"],
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": "video-text-to-text",
        "tags": ["vsgrpo", "spatial-reasoning", "video", "vsi-bench", *(["lora"] if is_adapter else [])],
    }
    bases = _published(manifest)
    if bases:
        head["base_model"] = bases[0]
    if _is_of_scans(manifest) or not _is_known(manifest):
        head |= {"license": "other", "license_name": "see-section-licence", "license_link": _SCANNET_TERMS}
        if not _is_of_scans(manifest):
            del head["license_link"]
    else:
        head["license"] = "apache-2.0"
    return _dump_front(head | _model_index(title, evaluations))


def _model_index(title: str, evaluations: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
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


def _intro(folder: Path, manifest: TrainingManifest) -> str:
    bases = _published(manifest)
    if bases:
        start = f"`{bases[0]}`"
    elif any(item.base == "fresh" for item in manifest.lineage()):
        start = "random weights: a tiny model for tests and the demo, of no use beyond them"
    else:
        start = "a model whose origin was not told"
    what = "An adapter (LoRA) of a" if (folder / ADAPTER_CONFIG).is_file() else "A"
    task = f"{what} {_family(folder)} model for questions about space in video"
    return f"{task}, trained with vsgrpo {manifest.version} from {start}."


def _family(folder: Path) -> str:
    """Name the family by the model's config, or by the processor, which lies in the folder of an adapter too."""
    kind = _read_json(folder / "config.json").get("model_type")
    processor = _read_json(folder / "processor_config.json").get("processor_class")
    for family in FAMILIES.values():
        if family.model_type == kind or (not kind and family.processor.__name__ == processor):
            return family.label
    return "vision-language"


def _use(folder: Path) -> str:
    vision = read_vision(folder)
    lines = ["```bash", 'vsgrpo ask model=THIS_FOLDER video=room.mp4 "How many chair(s) are in this room?"', "```", ""]
    if vision is None:
        return "\n".join([*lines, "The vision budget it was trained with is not recorded."])
    lines.append(
        f"Trained on {vision['num_frames']} frames a video, uniform in time, each of {vision['min_pixels']:,} to "
        f"{vision['max_pixels']:,} pixels (`vision.json`); give it the same."
    )
    return "\n".join(lines)


def _lineage(manifest: TrainingManifest) -> str:
    lines = ["| model | rows | rooms | row files (sha256) | rows' verdict |", "|---|---|---|---|---|"]
    for item in manifest.lineage():
        if item.base == "trained":
            rooms = ", ".join(f"{len(names):,} of {dataset}" for dataset, names in sorted(item.rooms.items()))
            files = ", ".join(f"{name} `{digest[:12]}`" for name, digest in sorted(item.hashes.items()))
            lines.append(f"| {_cell(item.name)} | {item.num_rows:,} | {rooms} | {files} | {item.verdict_rows} |")
        else:
            lines.append(f"| {_cell(item.name)} | - | - | {item.base} | - |")
    lines += ["", f"Leak verdict: **{_VERDICTS[manifest.verdict()]}**."]
    if leaked := manifest.leaked_rooms():
        lines.append(f"Benchmark rooms: {', '.join(leaked[:10])}{' ...' if len(leaked) > 10 else ''}.")
    lines.append("Every room id is in `training_manifest.json`.")
    return "\n".join(lines)


def _training(folder: Path, config: Mapping[str, Any]) -> str:
    if not config:
        return "The configuration of the run is not beside this folder."
    lines = ["| setting | value |", "|---|---|"]
    for key, title in _SETTINGS:
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        by_epochs = int(config["trainer"].get("max_steps") or -1) < 0
        if key == ("trainer.max_steps" if by_epochs else "trainer.num_train_epochs"):
            continue
        if value is not None and not (key.startswith("model.lora") and config["model"].get("tune") != "lora"):
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            lines.append(f"| {title} | {_cell(text)} |")
    stages = config.get("trainer", {}).get("stages")
    if stages:
        lines.append(f"| stages | {len(stages)} |")
    return "\n".join([*lines, "", f"Method: {_PAPERS}. The whole configuration: `config.yaml` of the run."])


def _marked(evaluations: Sequence[tuple[str, dict[str, Any]]]) -> str:
    return f"{SCORES_BEGIN}\n{_scores(evaluations)}\n{SCORES_END}"


def _scores(evaluations: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Return a table of scores times 100, and what each line was scored on."""
    if not evaluations:
        return "None yet: no evaluation of this model lies in its run folder."
    tasks = list(dict.fromkeys(task for _, result in evaluations for task in result["scores"]))
    lines = [f"| evaluation | {' | '.join(task.replace('_', ' ') for task in tasks)} |", "|---|" + "---|" * len(tasks)]
    notes = []
    for name, result in evaluations:
        cells = [_score(result, task) for task in tasks]
        lines.append(f"| {_cell(name)} | {' | '.join(cells)} |")
        decoding, control = result.get("decoding", {}), result.get("video") == "shuffled"
        samples = f"{decoding.get('num_samples')} samples at T={decoding.get('temperature')}"
        how = "greedy" if not decoding.get("temperature") else samples
        shown = "; a control: every question was shown the video of another room" if control else ""
        told = f"{result['title']}, {result['scorer']} scorer, {how}, leak: {result['leak']['verdict']}{shown}"
        notes.append(f"- {_cell(name)}: {told}")
    return "\n".join([*lines, "", "Times 100; in brackets 95 % intervals by scene.", "", *notes])


def _score(result: Mapping[str, Any], task: str) -> str:
    if task not in result["scores"]:
        return "-"
    text = f"{100 * result['scores'][task]:.1f}"
    if interval := result.get("intervals", {}).get(task):
        text += f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
    return text


def _licence(manifest: TrainingManifest) -> str:
    parts = []
    bases = _published(manifest)
    if bases:
        parts.append(f"The weights come from `{bases[0]}`: its licence applies to them, see its model card.")
    if _is_of_scans(manifest):
        parts.append(
            "It was trained on questions and videos made from ScanNet. "
            f"[ScanNet's terms of use]({_SCANNET_TERMS}) allow non-commercial research and education only, and forbid "
            "to pass scans or anything made from them on; ask its authors before you publish these weights or use them "
            "otherwise. No scan, frame or annotation is in this folder."
        )
    elif not _is_known(manifest):
        parts.append("Where its data came from is not told: find out before you publish it.")
    else:
        parts.append("It was trained on rooms that vsgrpo drew: no data of others is in it (Apache-2.0, as vsgrpo).")
    parts.append("VSI-Bench (Apache-2.0) is for evaluation; its rooms are never trained on.")
    return "\n\n".join(parts)


def _published(manifest: TrainingManifest) -> list[str]:
    return [item.name for item in manifest.lineage() if item.base == "published"]


def _is_of_scans(manifest: TrainingManifest) -> bool:
    return any(room.startswith("scene") for rooms in manifest.all_rooms().values() for room in rooms)


def _is_known(manifest: TrainingManifest) -> bool:
    """Tell whether all data is of demo rooms and all models of the lineage are known."""
    return set(manifest.all_rooms()) <= {"demo"} and manifest.verdict() == "clean"


def _dump_front(head: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(head), sort_keys=False, allow_unicode=True, width=1000)
    return f"{_BEGIN_FRONT}{text}---\n\n"


def _split_front(text: str) -> tuple[dict[str, Any], str]:
    """Return the front matter and what follows it."""
    if not text.startswith(_BEGIN_FRONT):
        return {}, text
    head, _, body = text.removeprefix(_BEGIN_FRONT).partition("\n---\n")
    return yaml.safe_load(head) or {}, body.lstrip("\n")


def _read_yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _read_json(path: Path) -> dict[str, Any]:
    return read_record(path, {}, "copy the model again") if path.is_file() else {}


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
