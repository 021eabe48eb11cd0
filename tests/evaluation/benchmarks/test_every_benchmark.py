"""Every published benchmark end to end with the tiny model, on rows of its own form made here: eval, score, page.

A benchmark adds one maker: it writes rows and what they show into a folder and returns benchmark.path.
"""

import io
import json
import zipfile

import numpy as np
import pytest
import test_osi_benchmark as of_osi
import test_site_benchmark as of_site
import test_spar_benchmark as of_spar
import test_spbench_benchmark as of_spbench
import test_sti_benchmark as of_sti
from PIL import Image
from test_revsi_benchmark import records, write

import image_benchmarks
from vsgrpo.cli import run
from vsgrpo.evaluation.benchmark import BENCHMARKS
from vsgrpo.video.writer import write_video

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


MAKERS = {
    "revsi": revsi,
    "site": site,
    "spar": spar,
    "osi": osi,
    "sti": sti,
    "spbench": spbench,
    **image_benchmarks.WRITERS,
}


def test_every_benchmark_has_a_maker():
    assert MAKERS.keys() == BENCHMARKS.keys() - OTHERS


@pytest.mark.integration
@pytest.mark.parametrize("name", MAKERS)
def test_eval_and_score_agree(name, tmp_path, tiny_folder, capsys):
    path, out = MAKERS[name](tmp_path / "data"), tmp_path / "out"
    words = [f"benchmark={name}", f"benchmark.path={path}", f"output={out}", *SMALL]
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
