"""`vsgrpo eval`: any benchmark's rows in; predictions, timing, prompts, results.json and reports out.

What can be refused without the model (its path, its lineage, rows, missing media, the leak verdict) is refused before
torch is imported. What decides an answer is in settings.json, and weights and media in inputs.json; an evaluation goes
on only under the same.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsgrpo.data.frame_true import true_rows
from vsgrpo.data.inputs import InputFile, look_at, model_files
from vsgrpo.data.prompts import check_map_room
from vsgrpo.data.row import Row
from vsgrpo.engine.serve import check_servable
from vsgrpo.errors import ConfigError
from vsgrpo.evaluation import arms, predictions, results
from vsgrpo.evaluation.benchmark import Benchmark, PromptSettings, ReadOptions, Report, find_benchmark
from vsgrpo.evaluation.budget import check_own_frames, vision_budget
from vsgrpo.evaluation.decoding import Decoding
from vsgrpo.evaluation.leak import Leak, check_lineage, compare_rows
from vsgrpo.evaluation.predictions import MediaOf
from vsgrpo.evaluation.results import Answers
from vsgrpo.evaluation.tracking import report_evaluation
from vsgrpo.evaluation.trust.of_run import rows_for_trust, write_trust_of_run
from vsgrpo.evaluation.unsure import check_unsure
from vsgrpo.families import family_files, find_model
from vsgrpo.families.hub_models import with_hub_models
from vsgrpo.families.vision_record import LIBRARY, other_rule, with_rules
from vsgrpo.packages import check_command
from vsgrpo.report.evaluation_page import model_size
from vsgrpo.terminal import counted, note, show
from vsgrpo.trackers import check_installed
from vsgrpo.video.place import files_of

if TYPE_CHECKING:
    from vsgrpo.config.evaluate import EvalConfig
    from vsgrpo.video.budget import VisionBudget


OWN_PROMPT = ("system", "template", "suffix")
"""Keys of `prompt` that settings.json has where they are given."""
_OF_LOADED = {"size", "timed"}
"""Keys of `model` in results.json that are known once the model is loaded."""


def run_eval(
    config: EvalConfig,
    *,
    skip_missing: bool = False,
    allow_leak: bool = False,
    overwrite: bool = False,
    allow_changed: bool = False,
    kept: dict[Any, Any] | None = None,
    benchmark: Benchmark | None = None,
) -> Report | None:
    """Evaluate a model on a benchmark and write the results into `run.dir`; goes on where an earlier call stopped.

    Under a launcher every process answers its share; all but the first return None.

    Args:
        overwrite: replace an earlier evaluation, once the model is loaded.
        allow_changed: go on although media or weights are not those of the answers that are there.
        kept: of the evaluation before, see `generate.open_generator`.
        benchmark: what `read_rows` returned for `config`; None: it is read now.

    Raises:
        ConfigError, DataError: anything wrong with keys, rows, media or the model; a benchmark room in the model's
            lineage without `allow_leak`; an output folder with predictions made under other settings.
        RunError: an endpoint that should extract answers can serve nothing; predictions are kept.
    """
    kind = find_benchmark(config.benchmark.name)
    _check_asked(config, kind, is_there=not overwrite and (Path(config.run.dir) / results.RESULTS_NAME).is_file())
    with results.evaluation_folder(config, overwrite):
        config = with_hub_models(config)
        model = config.model
        find_model(model.path, model.adapter)
        arms.check_controls(config)
        config = arms.with_trust_arms(with_rules(config))
        check_unsure(config, kind)
        if config.decoding.engine == "vllm":
            check_servable(model.path, model.adapter, str(config.model.text_after_video))
        manifests = check_lineage(model.path, model.adapter, allow_leak=allow_leak)
        benchmark = (benchmark or read_rows(config, kind)).with_media(skip_missing)
        benchmark.check_turns()
        shows = benchmark.rows, benchmark.media, benchmark.official, benchmark.drawn_from
        leak = compare_rows(manifests, *shows, allow_leak=allow_leak, name=model.path)
        benchmark, budget, left_out = rows_for_frames(config, benchmark)
        shown = arms.media_of_arms(config, benchmark)
        train = rows_for_trust(config)
        began = time.monotonic()
        going_on = {"overwrite": overwrite, "allow_changed": allow_changed}
        settings, earlier = _answered(config, benchmark, shown, budget, kept, **going_on)
        if settings is None:
            return None
        settings |= left_out | _thoughts(config)
        answers = _read_answers(config, settings, leak, shown)
        report = benchmark.report(answers)
        benchmark.write_beside_results(report, answers)
        if train is not None:
            write_trust_of_run(config, benchmark, report, answers, budget.sampled_frames, train)
        content = results.write_results(config, report.to_json(), time.monotonic() - began, earlier)  # last of all
        report_evaluation(config, benchmark, answers, content)
        return report


def _answered(
    config: EvalConfig,
    benchmark: Benchmark,
    shown: Mapping[str, MediaOf],
    budget: VisionBudget,
    kept: dict[Any, Any] | None,
    *,
    overwrite: bool,
    allow_changed: bool,
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the settings of the answers, and results.json where all were there; answers what is not."""
    earlier = None if overwrite else _finished(config, benchmark, shown)
    if earlier is None:
        going_on = {"overwrite": overwrite, "allow_changed": allow_changed}
        return answer_rows(config, benchmark, shown, budget, kept=kept, **going_on), None
    settings = _settings(config, benchmark, budget, Decoding.of(config))
    results.check_earlier(Path(config.run.dir), settings, _looked_at(config, benchmark, shown), allow_changed)
    settings["model"] |= {key: earlier["model"][key] for key in _OF_LOADED}
    return settings, earlier


def _check_asked(config: EvalConfig, kind: type[Benchmark], *, is_there: bool) -> None:
    """Refuse what is missing here for this evaluation; one that `is_there` may need no model to be shown again."""
    if not is_there:
        _check_packages(config)
    check_installed(config.report_to, "report_to")
    if config.trust.report and not kind.has_task_tables:
        problem = f"trust=true: benchmark={config.benchmark.name}: the trust report is of VSI-Bench and our datasets"
        raise ConfigError(problem, hint="leave trust out")


def _check_packages(config: EvalConfig) -> None:
    """Raise SetupError where a package that answers are made with is missing."""
    check_command("eval", *["msgspec"] * (config.decoding.engine == "vllm"))


def read_rows(config: EvalConfig, kind: type[Benchmark]) -> Benchmark:
    """Read the rows that `benchmark.*` names.

    Raises:
        ConfigError: several samples of a benchmark that scores one answer, a number of frames where the harness has its
            own; as `Benchmark.read`.
        DataError: as `Benchmark.read`.
    """
    asked, samples = config.benchmark, config.decoding.num_samples
    if samples > 1 and not kind.takes_samples():
        problem = f"decoding.num_samples={samples}: benchmark={asked.name} scores one answer"
        raise ConfigError(problem, hint="set decoding.num_samples=1")
    given = config.prompt
    prompt = PromptSettings(given.mode, given.wording, given.show_options, given.template, given.suffix)
    read = ReadOptions(asked.split, asked.tasks, asked.limit, asked.subset, asked.harness, asked.name)
    check_own_frames(config, kind)
    return kind.read(asked.path, replace(read, prompt=prompt, run_dir=Path(config.run.dir)))


def rows_for_frames(config: EvalConfig, benchmark: Benchmark) -> tuple[Benchmark, VisionBudget, dict[str, Any]]:
    """Return the benchmark without rows that the frames shown do not make true, the budget of these frames, and how
    many rows were left out or have another answer, for results.json."""
    own = benchmark.own_frames.get(benchmark.harness)
    given = config.vision() | ({} if own is None else {"num_frames": own})
    budget = vision_budget([config.model.adapter, config.model.path], given)
    found = true_rows(benchmark.rows, budget.sampled_frames, config.data.frame_true, str(benchmark.file))
    if os.environ.get("RANK", "0") == "0":
        for sentence in found.sentences():
            show(f"{benchmark.file.name}: {sentence}", sys.stderr)
    check_map_room(found.rows, "decoding.max_new_tokens", config.decoding.max_new_tokens)
    counts: dict[str, Any] = {"frame_true": found.to_json()} if found.dropped or found.answered else {}
    if number := sum(not benchmark.media(row) for row in found.rows):
        counts["without_media"] = number
        if os.environ.get("RANK", "0") == "0":
            what = counted(number, "question has", "questions have")
            show(f"{benchmark.file.name}: {what} no image and no video: asked as text", sys.stderr)
    return replace(benchmark, rows=tuple(found.rows)), budget, counts


def answer_rows(
    config: EvalConfig,
    benchmark: Benchmark,
    shown: Mapping[str, MediaOf],
    budget: VisionBudget,
    *,
    overwrite: bool,
    allow_changed: bool,
    kept: dict[Any, Any] | None = None,
) -> dict[str, Any] | None:
    """Answer every question into predictions.jsonl (and those of controls) and return the settings that decided it.

    None is returned in all processes but the first. `shown` is control ("" for the evaluation) -> what a row shows.
    """
    _check_packages(config)
    from vsgrpo.evaluation import generate

    folder = Path(config.run.dir)
    folder.mkdir(parents=True, exist_ok=True)
    settings = _settings(config, benchmark, budget, Decoding.of(config))
    processes, inputs = generate.Processes.join(), {}
    if processes.is_first:
        if (warning := other_rule(config)) is not None:
            show(f"warning: {warning}", sys.stderr)
        inputs = _looked_at(config, benchmark, shown)
        if not overwrite:
            results.check_earlier(folder, settings, inputs, allow_changed)
    processes.barrier()  # the others load once the first has found nothing to refuse
    generator = generate.open_generator(
        config, budget, processes.device, folder / "tiny", benchmark.prompt, benchmark.turn, kept
    )
    if processes.is_first:
        results.begin(folder, settings, inputs, overwrite)
    width = generate.hidden_size(generator.bundle)
    settings["model"]["size"] = model_size(generator.bundle.family.model_type, width)
    settings["model"]["timed"] = generator.bundle.family.needs_timing
    asked = [
        generate.Asked(groups, folder / predictions.predictions_name(name), arms.VIEWS[name])
        for name, media_of in shown.items()
        for groups in (predictions.group_by_media(benchmark.rows, media_of),)
    ]
    if processes.is_first:
        generator.write_prompts(asked[0].groups, folder / results.PROMPTS_NAME, asked[0].view)
    if config.decoding.engine == "vllm":
        from vsgrpo.evaluation.served import ServedGenerator

        generator = ServedGenerator(config, generator)
    timing = folder / (results.TIMING_NAME if processes.is_first else f"timing.{processes.rank}.jsonl")
    generator.run(asked, timing, processes)
    return settings if processes.is_first else None


def _finished(config: EvalConfig, benchmark: Benchmark, shown: Mapping[str, MediaOf]) -> dict[str, Any] | None:
    """Return results.json of an evaluation all of whose questions are answered, None where the model is needed."""
    folder = Path(config.run.dir)
    names = [folder / predictions.predictions_name(control) for control in shown]
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if not (alone and (folder / results.RESULTS_NAME).is_file() and all(path.is_file() for path in names)):
        return None
    for path in names:
        if not path.read_bytes().endswith(b"\n"):  # the last line was cut off
            return None
        answers = predictions.read_answers(path)
        if any(len(answers.get(row.id, ())) != config.decoding.num_samples for row in benchmark.rows):
            return None
    earlier = results.read_results(folder)
    if not (earlier.get("model", {}).keys() >= _OF_LOADED):
        return None
    note(f"{folder}: every question is answered already")
    return earlier


def _looked_at(config: EvalConfig, benchmark: Benchmark, shown: Mapping[str, MediaOf]) -> dict[str, InputFile]:
    """Return the files that decide answers as they are now."""
    return look_at(_inputs(config, benchmark.rows, shown))


def _settings(config: EvalConfig, benchmark: Benchmark, budget: VisionBudget, decoding: Decoding) -> dict[str, Any]:
    """Return all that decides the answers, and how videos were read, as settings.json keeps it."""
    model, rows = config.model, benchmark.rows
    identity, prompt = benchmark.identity(), asdict(config.prompt)
    if prompt["vision_marks"] != LIBRARY:  # as before the key
        del prompt["vision_marks"]
    if ":" in benchmark.name:  # the user's module may change what is asked
        identity["texts"] = _hash(
            ["\0".join((text,) if isinstance(text, str) else text) for text in map(benchmark.turn, rows)]
        )
    vision = {"num_frames": budget.num_frames, "min_pixels": budget.min_pixels, "max_pixels": budget.max_pixels}
    if any(item["kind"] == "image" for row in rows for item in row.media):
        vision |= {"image_min_pixels": budget.image_min_pixels, "image_max_pixels": budget.image_max_pixels}
    return {
        "schema_version": results.SCHEMA_VERSION,
        "benchmark": {**identity, "rows": _hash([row.key for row in rows])},
        "model": {"path": model.path, "adapter": model.adapter, "dtype": model.dtype},
        "vision": vision,
        "text_after_video": model.text_after_video,
        "video": "shuffled" if config.video.shuffle else "own",
        "reader": {"backend": config.video.backend, "timeout_s": config.video.timeout_s},
        "prompt": {name: value for name, value in prompt.items() if value or name not in OWN_PROMPT},
        "decoding": {
            **{k: v for k, v in asdict(decoding).items() if k != "layout" and (k, v) != ("think_below", None)},
            "seed": decoding.seed if decoding.temperature > 0 else None,
        },
        "layout": decoding.layout,
        "engine": _engine(config),
    }


def _engine(config: EvalConfig) -> str:
    """Return what drew the answers, as far as it decides them."""
    decoding = config.decoding
    seeded = decoding.engine == "vllm" and decoding.temperature > 0 and decoding.vllm.sampling == "seeded"
    return "vllm, seeded" if seeded else decoding.engine


def _inputs(config: EvalConfig, rows: Sequence[Row], shown: Mapping[str, MediaOf]) -> list[tuple[str, Path]]:
    """Return (kind, path) of the files that decide answers beside the row file: models, and what is shown of rows."""
    models = [*model_files("model", config.model.path), *model_files("adapter", config.model.adapter)]
    models += family_files(config.model.path)
    places = dict.fromkeys(item for media_of in shown.values() for row in rows for item in media_of(row))
    media = dict.fromkeys(files_of(places))
    return [*models, *media]


def _thoughts(config: EvalConfig) -> dict[str, Any]:
    """Return how many answers were thought over, for results.json; nothing unless that is asked for."""
    if config.decoding.think_below is None:
        return {}
    modes = [
        line["prompt_mode"] for line in predictions.read_lines(Path(config.run.dir) / predictions.PREDICTIONS_NAME)
    ]
    return {"thought": {"n": modes.count("think"), "of": len(modes)}}


def _read_answers(config: EvalConfig, settings: dict[str, Any], leak: Leak, shown: Mapping[str, MediaOf]) -> Answers:
    folder, limit = Path(config.run.dir), config.decoding.max_new_tokens
    file = folder / predictions.PREDICTIONS_NAME
    return Answers(
        config=config,
        settings=settings,
        leak=leak,
        by_control={name: predictions.read_answers(folder / predictions.predictions_name(name)) for name in shown},
        errors=predictions.read_errors(file),
        num_cut_off=sum(line.get("num_tokens", 0) >= limit for line in predictions.read_lines(file)),
        media_of=shown[""],
    )


def _hash(texts: list[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
