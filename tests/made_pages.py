"""One of every page that the commands write, from small made results."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from made_runs import completion, record, write_run
from vsgrpo.cli import run
from vsgrpo.evaluation.accuracy import AccuracyReport, Published
from vsgrpo.evaluation.benchmarks.folder import Folder
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench
from vsgrpo.evaluation.leak import Leak
from vsgrpo.evaluation.results import Answers
from vsgrpo.evaluation.suite import SUITE_PAGE, SuiteReport
from vsgrpo.report.run_page import write_report
from vsgrpo.report.sweep_page import SWEEP_NAME, write_sweep_report

sys.path.append(str(Path(__file__).parent / "scans"))
from scannetpp_room import write_room

SETTINGS = {
    "model": {"path": "runs/x/final", "adapter": None, "size": "2b"},
    "vision": {"num_frames": 16, "min_pixels": 3136, "max_pixels": 100352},
    "video": "own",
    "prompt": {"mode": "vanilla", "wording": "eval", "show_options": True},
    "decoding": {"temperature": 0.0, "num_samples": 1},
    "benchmark": {"format": "vsibench"},
}
TYPES = "object_counting,object_abs_distance,object_size_estimation,object_rel_direction_easy,room_size_estimation"


def write_pages(folder):
    """Write the pages below a folder; return name -> path."""
    data = _dataset(folder)
    rows = VsiBench.read(data / "all.jsonl").rows
    vision = {row.id: row.ground_truth if number % 3 else _wrong(row) for number, row in enumerate(rows)}
    blind = {row.id: row.ground_truth if number % 4 == 0 else _wrong(row) for number, row in enumerate(rows)}
    pages = {"dataset": data / "report.html", "evaluation": _evaluation(folder, data, vision, blind)}
    pages |= {"trust": _trust(folder, data, vision, blind), "accuracy": _accuracy(folder, rows, vision, data)}
    pages["suite"] = _suite(folder)
    return {**pages, **_runs(folder, data), "inspect": _inspect(folder, data)}


def _dataset(folder):
    """Build three rooms of two sources, with edited videos, questions about the camera and maps."""
    data, scans = folder / "data", folder / "scannetpp"
    write_room(scans, "0a1b2c3d4e", 0.1)
    words = [f"sources=[{{name: demo, num_scenes: 2, preset: furnished}}, {{name: scannetpp, root: {scans}}}]"]
    words += [f"data.types=[{TYPES},camera,map]", "data.min_count=0", "data.dev_fraction=0", "video.source=mesh"]
    words += ["video.walk_frames=41", "video.walk_width=112", "video.walk_height=84", "balance.mode=paper"]
    words += ["counterfactual.removals=1", "counterfactual.query_drops=1", "build.num_workers=1"]
    assert run(["build-data", *words, f"output={data}"]) == 0
    lines = [line for name in ("train", "train_pairs") for line in (data / f"{name}.jsonl").read_text().splitlines()]
    by_id = {json.loads(line)["id"]: line for line in lines}
    (data / "all.jsonl").write_text("".join(line + "\n" for line in by_id.values()))
    return data


def _wrong(row):
    return {"number": "2", "letter": "A"}.get(row.answer_kind, '<map>{"bed": [[1, 1]]}</map>')


def _evaluation(folder, data, vision, blind):
    benchmark = VsiBench.read(data / "all.jsonl")
    out, leak = folder / "eval", Leak("clean", (), 0, 2)
    out.mkdir()
    last = benchmark.rows[-1].id
    texts = {
        name: {key: [None if key == last else text] for key, text in said.items()}
        for name, said in (("", vision), ("blind", blind))
    }
    config = SimpleNamespace(run=SimpleNamespace(dir=out), scorer="official")
    given = Answers(config, SETTINGS, leak, texts, {last: f"{data / 'no.mp4'}: no frames"}, 0, benchmark.media)
    benchmark.write_beside_results(benchmark.report(given), given)
    return out / "report.html"


def _trust(folder, data, vision, blind):
    for name, said in (("vision", vision), ("blind", blind)):
        lines = [json.dumps({"id": key, "prediction": text}) for key, text in said.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    words = [str(folder / "vision.jsonl"), f"blind={folder / 'blind.jsonl'}", f"benchmark.path={data / 'all.jsonl'}"]
    assert run(["score", *words, "video.num_frames=16", f"trust={folder / 'trust'}"]) == 0
    return folder / "trust" / "trust.html"


def _accuracy(folder, rows, vision, data):
    benchmark = Folder.read(data / "all.jsonl")
    out, last = folder / "accuracy", benchmark.rows[-1].id
    out.mkdir()
    texts = {name: {row.id: [vision[row.id] if row.id != last else None] for row in rows} for name in ("", "blank")}
    config = SimpleNamespace(run=SimpleNamespace(dir=out))
    errors = {last: f"{data / 'no.mp4'}: no frames"}
    given = Answers(config, SETTINGS, Leak("clean", (), 0, 2), texts, errors, 0, benchmark.media)
    report = benchmark.report(given)
    assert isinstance(report, AccuracyReport)
    published = (Published("another model", 0.5, "a table", {rows[0].question_type: 0.25}),)
    benchmark.write_beside_results(replace(report, main=replace(report.main, published=published)), given)
    return out / "report.html"


def _suite(folder):
    """One evaluation, and a benchmark that is missing."""
    parts, missing = {"revsi": _SUITE_RESULTS}, {"blink": "no such file"}
    report = SuiteReport("runs/a/model/with/a/long/path/final", parts, missing, folder)
    report.write()
    return folder / SUITE_PAGE


_SUITE_RESULTS = {
    "title": "5 of 5 questions in test.jsonl of ReVSI's form",
    "scorer": "theirs",
    "scores": {"overall": 0.5},
    "headline": "macro",
    "micro": 0.4,
    "macro": 0.5,
    "intervals": {"overall": [0.25, 0.75]},
    "n": 5,
    "num_rows": 5,
    "published": [{"name": "another model", "overall": 0.6, "tasks": {}, "source": "a table"}],
    "notes": ["the answers are true for 32 frames, 16 were shown"],
    "unanswered": [],
    "leak": {"verdict": "unknown"},
}


def _runs(folder, data):
    """One run, two compared and a sweep; one of them is nearly flat."""
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]

    def made(path, **values):
        said = [completion(s, i, id=f"{r['dataset']}/{r['id']}") for s in (1, 30) for r in rows[:3] for i in range(4)]
        return write_run(path, [record(step, **values) for step in range(1, 40)], said, data=data)

    flat = {"entropy": 6.41, "kl": 0.0}
    runs = [made(folder / "runs" / name, **values) for name, values in (("flat", flat), ("sampled", {}))]
    sweep = folder / "sweep"
    for rate in ("1e-5", "1e-4"):
        made(sweep / f"learning_rate-{rate}")
    (sweep / "learning_rate-1e-3").mkdir()
    (sweep / "learning_rate-1e-3" / "run.json").write_text(
        json.dumps({"schema_version": 1, "status": "failed", "error": f"{data}: no rows"})
    )
    names = [{"name": f"learning_rate-{v}", "values": {"trainer.learning_rate": v}} for v in ("1e-5", "1e-4", "1e-3")]
    (sweep / SWEEP_NAME).write_text(json.dumps({"schema_version": 1, "fixed": [], "runs": names}))
    return {
        "run": write_report(runs[:1]).path,
        "runs": write_report(runs).path,
        "sweep": write_sweep_report(sweep).path,
    }


def _inspect(folder, data):
    page = folder / "rows.html"
    assert run(["inspect", str(data), "--limit", "20", f"output={page}"]) == 0
    return page
