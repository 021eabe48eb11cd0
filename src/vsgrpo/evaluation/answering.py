"""Have a model answer rows: settings.json, predictions.jsonl (and those of controls), prompts.jsonl, timing.jsonl.

Shared by all benchmarks. What decides an answer is in settings.json, and weights and media in inputs.json; a run goes
on only under the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsgrpo.data.inputs import look_at, model_files
from vsgrpo.data.row import Row
from vsgrpo.evaluation.folder import PROMPTS_NAME, TIMING_NAME, begin, check_inputs, check_settings
from vsgrpo.evaluation.predictions import PREDICTIONS_NAME, Media
from vsgrpo.evaluation.published import model_size
from vsgrpo.evaluation.score import PromptSettings
from vsgrpo.families import TINY

if TYPE_CHECKING:
    from vsgrpo.config.evaluate import EvalConfig

SCHEMA_VERSION = 1


def predictions_name(control: str) -> str:
    """Return the name of a predictions file: of a control, or ("") of the evaluation itself."""
    return f"predictions_{control}.jsonl" if control else PREDICTIONS_NAME


def answer_rows(
    config: EvalConfig,
    rows: Sequence[Row],
    identity: Mapping[str, Any],
    shown: Mapping[str, tuple[str, Callable[[Row], Media]]],
    overwrite: bool,
    text_of: Callable[[Row], str] | None = None,
    *,
    allow_changed: bool = False,
) -> dict[str, Any] | None:
    """Answer every question into predictions.jsonl (and those of controls) and return the settings that decided it.

    Args:
        identity: of the rows: hash of their file and what else tells them apart.
        shown: control ("" for none) -> (view, which video or images a row is shown).
        overwrite: replace an earlier evaluation, once the model is loaded.
        text_of: the text of a row's user turn; None: `question_text`.
        allow_changed: go on although videos or weights are not those of the answers that are there.

    Returns:
        the settings; None in all processes but the first.
    """
    from vsgrpo.evaluation import generate

    folder, model, video = Path(config.run.dir), config.model, config.video
    folder.mkdir(parents=True, exist_ok=True)
    budget = generate.vision_budget([model.adapter, model.path], config.vision())
    options = {name: getattr(config.decoding, name) for name in ("temperature", "num_samples", "max_new_tokens")}
    decoding = generate.Decoding(
        **options, batch_size=config.decoding.batch_size, seed=config.run.seed, layout=config.decoding.layout
    )
    settings = _settings(config, rows, identity, budget, decoding)
    processes, inputs = generate.Processes(), {}
    if processes.rank == 0:
        inputs = look_at(_inputs(config, rows, shown))
        before = None if overwrite else check_settings(folder, settings)
        told = before.get("changed_inputs", []) if before else []
        told += check_inputs(folder, inputs, allow_changed) if before else []
        settings |= {"changed_inputs": told} if told else {}
    if processes.rank == 0 and model.path not in TINY:
        processes.barrier()
    if processes.rank > 0:  # a tiny model is built by the first process while the others wait
        processes.barrier()
    bundle = generate.load_evaluated(
        model.path,
        model.adapter,
        dtype=model.dtype,
        attn=model.attn_implementation,
        offline=model.offline,
        tiny_folder=folder / "tiny",
        device=processes.device,
    )
    if processes.rank == 0 and model.path in TINY:
        processes.barrier()
    if processes.rank == 0:
        begin(folder, settings, inputs, overwrite)
    cache_dir = video.cache_dir or (str(folder / "cache") if video.frame_cache == "disk" else None)
    loader = generate.VideoLoader(
        budget, video.backend, video.timeout_s, frame_cache=video.frame_cache, cache_dir=cache_dir
    )
    prompt = PromptSettings(config.prompt.mode, config.prompt.wording, config.prompt.show_options)
    generator = generate.Generator(bundle, loader, prompt, decoding, config.prompt.system, text_of)
    settings["model"] |= {"size": model_size(bundle.family.model_type, generate.hidden_size(bundle))}
    for name, (view, media_of) in shown.items():
        groups = generate.group_by_media(rows, media_of)
        if processes.rank == 0 and not name:
            generator.write_prompts(groups, folder / PROMPTS_NAME, view)
        timing = folder / (TIMING_NAME if processes.rank == 0 else f"timing.{processes.rank}.jsonl")
        generator.run(groups, folder / predictions_name(name), timing, view, processes)
    return settings if processes.rank == 0 else None


def _settings(
    config: EvalConfig, rows: Sequence[Row], identity: Mapping[str, Any], budget: Any, decoding: Any
) -> dict[str, Any]:
    """Return all that decides the answers, and how videos were read, as settings.json keeps it."""
    model = config.model
    vision = {"num_frames": budget.num_frames, "min_pixels": budget.min_pixels, "max_pixels": budget.max_pixels}
    if any(item["kind"] == "image" for row in rows for item in row.media):
        vision |= {"image_min_pixels": budget.image_min_pixels, "image_max_pixels": budget.image_max_pixels}
    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark": {**identity, "rows": _hash([row.key for row in rows])},
        "model": {"path": model.path, "adapter": model.adapter, "dtype": model.dtype},
        "vision": vision,
        "video": "shuffled" if config.video.shuffle else "own",
        "reader": {"backend": config.video.backend, "timeout_s": config.video.timeout_s},
        "prompt": {name: value for name, value in asdict(config.prompt).items() if name != "system" or value},
        "decoding": {
            **{name: value for name, value in asdict(decoding).items() if name != "layout"},
            "seed": decoding.seed if decoding.temperature > 0 else None,
        },
        "layout": decoding.layout,
    }


def _inputs(
    config: EvalConfig, rows: Sequence[Row], shown: Mapping[str, tuple[str, Callable[[Row], Media]]]
) -> list[tuple[str, Path]]:
    """Return (kind, path) of the files that decide answers beside the row file: models, and what is shown of rows."""
    models = [*model_files("model", config.model.path), *model_files("adapter", config.model.adapter)]
    media = dict.fromkeys(item for _, media_of in shown.values() for row in rows for item in media_of(row))
    return [*models, *media]


def _hash(texts: list[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
