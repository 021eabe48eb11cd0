"""Every published benchmark end to end with the tiny model, on rows of its own form made here: eval, score, page.

A benchmark adds one maker: it writes rows and what they show into a folder and returns benchmark.path.
"""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import test_mmsi_video_benchmark as of_mmsi
import test_osi_benchmark as of_osi
import test_site_benchmark as of_site
import test_spar_benchmark as of_spar
import test_spbench_benchmark as of_spbench
import test_sti_benchmark as of_sti
import test_video_mme_benchmark as of_mme
import test_vsi_super_benchmark as of_vsi_super
from PIL import Image
from test_revsi_benchmark import records, write

import image_benchmarks
from vsgrpo.cli import run
from vsgrpo.evaluation.benchmark import BENCHMARKS, find_benchmark
from vsgrpo.video.writer import write_video

ROOT = Path(__file__).parents[3]
OTHERS = {"vsibench", "mathvista", "folder"}
"""Run end to end by tests of their own."""
SMALL = ["video.num_frames=2", "video.max_pixels=3136", "image.max_pixels=3136", "decoding.max_new_tokens=2"]


def make_video(path, frames=4):
    """Write a short film of one grey tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, (np.full((56, 56, 3), 40 * k, dtype=np.uint8) for k in range(frames)), fps=2)


def revsi(folder):
    for scene in ("scene0000_00", "scene0001_00"):
        make_video(folder / f"2_frame/{scene}.mp4")
    return write(folder / "2_frame" / "test.jsonl", records(frames=2)).parent


def png(tone):
    """Return the bytes of a grey picture."""
    content = io.BytesIO()
    Image.new("L", (56, 56), tone).save(content, "PNG")
    return content.getvalue()


def site(folder):
    make_video(folder / "videos/a.mp4")
    for name in ("a", "b"):
        (folder / f"{name}.png").write_bytes(png(90))
    question = "Is <image> left of <image>?"
    rows = [
        of_site.site_row(visual=["a.png"]),
        of_site.site_row(question=question, options=["yes", "no"], visual=["a.png", "b.png"]),
    ]
    of_site.write(folder, rows)
    of_site.write(folder, [of_site.site_row(visual=["videos/a.mp4"])], "video_test.jsonl")
    return folder


def spar(folder):
    folder.mkdir()
    pictures = [{"bytes": png(40 * k), "path": f"{k}.png"} for k in range(3)]
    rows = [of_spar.spar_row("0", image=pictures[:1]), of_spar.spar_row("1", "position_matching", "B", image=pictures)]
    of_spar.write(folder, [*rows, of_spar.spar_row("2", "view_change_infer", "move_up:0.3", image=pictures[:2])])
    return folder


def osi(folder):
    make_video(folder / "0007.mp4")
    with zipfile.ZipFile(folder / "videos_part1.zip", "w") as archive:
        archive.write(folder / "0007.mp4", "0007.mp4")
    (folder / "0007.mp4").unlink()
    return of_osi.write(folder, [of_osi.osi_row(), of_osi.osi_row("absolute_speed", "0"), of_osi.CHOICE])


def sti(folder):
    make_video(folder / "video/scene0001_00.mp4")
    make_video(folder / "video/000123.mp4")
    rows = [of_sti.sti_row(), of_sti.sti_row(Task="Pose Estimation", Video="000123.mp4", Source="Omni6DPose")]
    return of_sti.write(folder, rows)


def spbench(folder):
    for name in ("1", "2", "200"):
        picture = folder / "SPBench-SI-images/scene0025_00" / f"{name}.jpg"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (56, 56), 90).save(picture)
    return of_spbench.write(folder, [of_spbench.spbench_row(), of_spbench.CHOICE])


def into_zip(file, *paths):
    """Move files into a zip, under their names below its folder."""
    with zipfile.ZipFile(file, "w") as archive:
        for path in paths:
            archive.write(path, str(path.relative_to(file.parent)))
            path.unlink()


def vsi_super(maker, *rows):
    def make(folder):
        make_video(folder / "10mins/0.mp4")
        into_zip(folder / "10mins.zip", folder / "10mins/0.mp4")
        return of_vsi_super.write(folder, [*rows, maker()])

    return make


def mmsi_video(folder):
    rows = [of_mmsi.mmsi_row(), of_mmsi.mmsi_row("question_0002", "Prediction", clips=(2, 1), images=["a.png"])]
    videos = [folder / "videos" / item["path"] for row in rows for item in row["video_list"]]
    frames = [folder / "frames" / name for row in rows for clip in row["frames_list"] for name in clip]
    for path in videos:
        make_video(path)
    for tone, path in enumerate(frames):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (56, 56), 20 * tone).save(path)
    into_zip(folder / "videos.zip", *videos)
    into_zip(folder / "frames.zip", *frames)
    (folder / "ref_images").mkdir()
    (folder / "ref_images/a.png").write_bytes(png(90))
    return of_mmsi.write(folder, rows)


def video_mme(folder):
    make_video(folder / "data/v0.mp4")
    make_video(folder / "data/v1.mp4")
    into_zip(folder / "videos_chunked_01.zip", folder / "data/v0.mp4", folder / "data/v1.mp4")
    return of_mme.write(folder / "videomme", [of_mme.mme_row(0), of_mme.mme_row(1)])  # zips are above the row file


MAKERS = {
    "revsi": revsi,
    "site": site,
    "spar": spar,
    "osi": osi,
    "sti": sti,
    "spbench": spbench,
    **image_benchmarks.WRITERS,
    "vsi_super_recall": vsi_super(of_vsi_super.recall_row),
    "vsi_super_count": vsi_super(of_vsi_super.count_row, of_vsi_super.streaming_row()),
    "vsi_super_streaming": vsi_super(of_vsi_super.streaming_row, of_vsi_super.count_row()),
    "mmsi_video": mmsi_video,
    "video_mme": video_mme,
}


def test_every_benchmark_has_a_maker():
    assert MAKERS.keys() == BENCHMARKS.keys() - OTHERS


@pytest.mark.parametrize("name", sorted(MAKERS.keys() - {"revsi"}))  # revsi is a mode of build-data too
def test_a_benchmark_is_one_module_one_yaml_and_a_line_of_the_registry(name):
    src, module = ROOT / "src/vsgrpo", BENCHMARKS[name].partition(":")[0].rpartition(".")[2]
    own = {src / f"evaluation/benchmarks/{module}.py", src / "evaluation/benchmark.py"}
    others = (path for path in src.rglob("*.py") if path not in own)
    named = {path for path in others if f'"{name}"' in path.read_text(encoding="utf-8")}
    assert not named, f"{name} is named in {named}: the class says what differs between benchmarks"
    assert (ROOT / f"configs/benchmark/{name}.yaml").is_file() and own <= set(src.rglob("*.py"))
    assert (ROOT / f"tests/evaluation/benchmarks/test_{module}_benchmark.py").is_file()
    assert f"`{name}`" in (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8"), f"docs/benchmarks.md: no {name}"


@pytest.mark.integration
@pytest.mark.parametrize("name", MAKERS)
def test_eval_and_score_agree(name, tmp_path, tiny_folder, capsys):
    path, out = MAKERS[name](tmp_path / "data"), tmp_path / "out"
    small = SMALL[find_benchmark(name).own_frames != {} :]  # video.num_frames is refused where the harness has its own
    words = [f"benchmark={name}", f"benchmark.path={path}", f"output={out}", *small]
    assert run(["eval", f"model={tiny_folder}", *words]) == 0
    results = json.loads((out / "results.json").read_text())
    table = capsys.readouterr().out
    assert results["n"] == results["num_rows"] and not results["unanswered"]
    assert f"overall ({results['headline']}" in table and "by question type:" in table
    page = (out / "report.html").read_text()
    assert all(row["name"] in page for row in results["published"])
    scored = [str(out / "predictions.jsonl"), f"benchmark={name}", f"benchmark.path={path}"]
    assert run(["score", *scored, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["correct"] == results["correct"] and again["overall"] == results["overall"]
    assert again["intervals"] == results["intervals"]
