"""Measure what questions cost: CPU seconds from the files of full-size scans to rows in memory, one thread.

python scripts/bench_build_data.py                    # 50 generated scans, 150k vertices and 50 objects each
python scripts/bench_build_data.py --scans 5 --json   # one JSON object; the numbers are those of the slower mode
python scripts/bench_build_data.py --sens             # and the export of a recorded video
python scripts/bench_build_data.py --walk --scans 3   # scans filmed from their mesh, judged, balanced or not
python scripts/bench_build_data.py --camera --scans 3 # instead: the same with and without questions about the camera
python scripts/bench_build_data.py --recorded --scans 2  # recordings with masks: is the floor judged or not
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import sys
import tempfile
import time
import zipfile
from pathlib import Path

# Before numpy: spinning BLAS threads would be counted as work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from PIL import Image

from full_scan import write_full_scan
from vsgrpo.config.compose import load_config
from vsgrpo.data.build.scan import ScanJob, build_scan
from vsgrpo.data.rows import make_row
from vsgrpo.scans.annotation import read_labels
from vsgrpo.scans.drawn import PosedCamera
from vsgrpo.scans.scannet import read_scan
from vsgrpo.scans.sens import SensReader, SensWriter
from vsgrpo.scans.source import SceneSettings
from vsgrpo.scans.visibility import MASKS
from vsgrpo.scans.walk.mesh_video import majority
from vsgrpo.scans.walk.rasterizer import Surface
from vsgrpo.spatial.question_settings import QuestionSettings
from vsgrpo.spatial.question_types import QUESTION_TYPES, make_questions
from vsgrpo.video.writer import write_video

CATEGORIES = {"vsi100k": "raw", "vsibench": "benchmark"}
STATIC = tuple(name for name, kind in QUESTION_TYPES.items() if not kind.held_out)
SENS_SIZE = (1296, 968)
SENS_RATE = 30.0
"""Frames per second at which ScanNet was recorded."""


def time_scan(root: Path, scan_id: str, mode: str) -> tuple[dict[str, float], int]:
    """Build the rows of one scan; return CPU seconds per stage and the number of rows."""
    clock = [time.process_time()]
    labels = read_labels(root)
    scan = read_scan(root, scan_id, labels)
    clock.append(time.process_time())
    scene = scan.scene(SceneSettings(categories=CATEGORIES[mode]))
    clock.append(time.process_time())
    types = STATIC if mode == "vsibench" else None
    questions = make_questions(scene, QuestionSettings(mode=mode, types=types), seed=0)
    clock.append(time.process_time())
    rows = [
        make_row(
            question,
            dataset="scannet",
            split="train",
            scene_name=scene.scene_name,
            room=scene.room,
            video=f"videos/scannet/{scan_id}.mp4",
            generator={"mode": mode},
        )
        for question in questions
    ]
    clock.append(time.process_time())
    stages = ("read files", "boxes and area", "questions", "rows")
    return dict(zip(stages, np.diff(clock).tolist(), strict=True)), len(rows)


def measure(num_scans: int, num_vertices: int, num_objects: int) -> dict:
    """Time generated scans in both modes; the result is that of the slower one."""
    seconds: dict[str, list[dict[str, float]]] = {mode: [] for mode in CATEGORIES}
    wall: dict[str, list[float]] = {mode: [] for mode in CATEGORIES}
    rows = dict.fromkeys(CATEGORIES, 0)
    with tempfile.TemporaryDirectory() as folder:
        for index in range(num_scans + 1):
            truth = write_full_scan(Path(folder), index, num_vertices, num_objects)
            for mode in CATEGORIES:
                start = time.perf_counter()
                stages, count = time_scan(Path(folder), truth.scan_id, mode)
                if index:  # the first scan loads libraries
                    wall[mode].append(time.perf_counter() - start)
                    seconds[mode].append(stages)
                    rows[mode] += count
            for path in (Path(folder) / "scans" / truth.scan_id).iterdir():
                path.unlink()
    medians = {mode: statistics.median(sum(s.values()) for s in scans) for mode, scans in seconds.items()}
    slower = max(medians, key=medians.__getitem__)
    total = sum(sum(stages.values()) for stages in seconds[slower])
    return {
        "scans": num_scans,
        "mode": slower,
        "seconds_per_scan_median": round(medians[slower], 4),
        "wall_seconds_per_scan_median": round(statistics.median(wall[slower]), 4),
        "scans_per_s": round(num_scans / total, 2),
        "questions_per_s": round(rows[slower] / total, 1),
        "questions_per_scan": {mode: round(count / num_scans, 1) for mode, count in rows.items()},
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "stages": {name: round(statistics.median(s[name] for s in seconds[slower]), 4) for name in seconds[slower][0]},
        "seconds_per_scan_median_by_mode": {mode: round(value, 4) for mode, value in medians.items()},
    }


def write_recording(path: Path, num_frames: int) -> None:
    """Write a `.sens` of 1296x968 JPEGs: a textured wall past which the camera slides, with sensor noise."""
    import av

    rng = np.random.default_rng(0)
    width, height = SENS_SIZE
    coarse = rng.uniform(40, 210, (height // 44 + 1, 3 * width // 36 + 1, 3))
    wall = np.kron(coarse, np.ones((44, 36, 1)))[:height].astype(np.float32)
    noise = rng.normal(0, 4, (height, width, 3)).astype(np.float32)
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
    encoder.options = {"qmin": "3", "qmax": "3"}
    intrinsics = np.array([[1170, 0, 648, 0], [0, 1170, 484, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=np.float32)
    with SensWriter(path, SENS_SIZE, intrinsics) as writer:
        for number in range(num_frames):
            shift = 6 * number % (2 * width)
            picture = np.clip(wall[:, shift : shift + width] + np.roll(noise, 17 * number, axis=1), 0, 255)
            frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24").reformat(format="yuvj420p")
            frame.pts = number
            (packet,) = encoder.encode(frame) or encoder.encode(None)
            writer.add(bytes(packet), np.eye(4))


def measure_export(num_frames: int) -> dict:
    """Time the export of a recording to a 640x480 video on one core."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.sens"
        write_recording(path, num_frames)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, start_cpu = time.perf_counter(), time.process_time()
        with SensReader(path) as reader:
            video = Path(folder) / "scene.mp4"
            write_video(video, (frame.jpeg for frame in reader.frames()), 24, size=(640, 480))
        wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        return {
            "frames": num_frames,
            "mb_per_frame": round(path.stat().st_size / num_frames / 1e6, 3),
            "frames_per_cpu_s": round(num_frames / cpu, 1),
            "times_real_time": round(num_frames / SENS_RATE / cpu, 2),
            "times_real_time_wall": round(num_frames / SENS_RATE / wall, 2),
            "video_mb": round(video.stat().st_size / 1e6, 2),
            "grown_mb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1),
        }


_BUDGETS = "video.budgets=[8,16,32,64]"
JUDGED = {
    "before": ("video.budgets=[]", "balance.mode=paper"),
    "judged": (_BUDGETS, "balance.mode=paper"),
    "judged, larger pools": (_BUDGETS, "balance.mode=text"),
}
"""As before frames were judged and rows balanced by their text; with frames judged; the default."""
CAMERA = {"without": ("data.types=[vsibench]",), "with camera": ("data.types=[vsibench,camera,time]",)}


def measure_walk(num_scans: int, num_vertices: int, num_objects: int, ways: dict[str, tuple[str, ...]]) -> dict:
    """Time whole builds of scans with 31-frame walks in several ways, turn by turn; ratios to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        for index in range(num_scans + 1):
            truth = write_full_scan(root, index, num_vertices, num_objects)
            for name, way in ways.items():
                out = Path(folder) / f"out-{index}-{len(name)}"
                given = [f"source.root={root}", f"output={out}", "data.mode=vsibench", "video.source=mesh", *way]
                job = ScanJob(load_config("build_data", given), root, out, truth.scan_id, "train")
                start = time.process_time()
                outcome = build_scan(job)
                if outcome.status != "done":
                    raise SystemExit(outcome.reason)
                if index:  # the first scan loads libraries
                    seconds[name].append(time.process_time() - start)
    base = next(iter(ways))
    first = seconds.pop(base)
    ratios = {name: [a / b for a, b in zip(values, first, strict=True)] for name, values in seconds.items()}
    return {
        "scans": num_scans,
        "cpu_seconds_median": {n: round(statistics.median(v), 3) for n, v in {base: first, **seconds}.items()},
        "ratio_median": {name: round(statistics.median(values), 3) for name, values in ratios.items()},
    }


def write_masked_recording(folder: Path, num_frames: int) -> None:
    """Write masks and two recordings of a scan beside it, with depth images and without: a camera that turns round."""
    scan = read_scan(folder.parents[1], folder.name, read_labels(folder.parents[1]))
    mesh, owner = scan.mesh, scan.instance_of_vertex()
    surface, of_face = Surface(mesh.vertices, mesh.colors, mesh.faces), majority(owner[mesh.faces])
    scale = 640 / SENS_SIZE[0]
    matrix = np.diag([1170 * scale, 1170 * scale, 1.0, 1.0])
    matrix[:2, 2] = 319.5, 239.5
    eye = mesh.vertices.mean(axis=0, dtype=np.float64) * [1, 1, 0] + [0, 0, 1.5]
    write_recording(folder / "plain", num_frames)
    jpegs = [frame.jpeg for frame in SensReader(folder / "plain").frames()]
    (folder / "plain").unlink()
    with (
        SensWriter(folder / "bare.sens", SENS_SIZE, matrix) as bare,
        SensWriter(folder / "deep.sens", SENS_SIZE, matrix, (640, 480), matrix) as deep,
        zipfile.ZipFile(folder / f"{folder.name}{MASKS}", "w") as archive,
    ):
        for number, jpeg in enumerate(jpegs):
            turn = 2 * np.pi * number / num_frames
            pose = np.eye(4)
            pose[:3, :3] = [[np.sin(turn), 0, np.cos(turn)], [-np.cos(turn), 0, np.sin(turn)], [0, -1, 0]]
            pose[:3, 3] = eye
            raster = surface.draw(PosedCamera(pose, matrix, 640, 480))
            depth = np.where(raster.face < 0, 0, np.minimum(1000 * raster.depth, 65535)).astype(np.uint16)
            bare.add(jpeg, pose)
            deep.add(jpeg, pose, depth)
            mask = np.where(raster.face < 0, 0, of_face[raster.face] + 1).astype(np.uint8)
            png = io.BytesIO()
            Image.fromarray(mask).resize(SENS_SIZE, Image.Resampling.NEAREST).save(png, "PNG")
            archive.writestr(f"instance-filt/{number}.png", png.getvalue())


def measure_recorded(num_scans: int, num_vertices: int, num_objects: int, num_frames: int) -> dict:
    """Time builds of recordings with masks, turn by turn: with depth, by which the floor is judged, over without."""
    seconds: dict[str, list[float]] = {"bare": [], "deep": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        for index in range(num_scans + 1):
            truth = write_full_scan(root, index, num_vertices, num_objects)
            scan = root / "scans" / truth.scan_id
            write_masked_recording(scan, num_frames)
            for name, values in seconds.items():
                (scan / f"{name}.sens").rename(scan / f"{truth.scan_id}.sens")
                out = Path(folder) / f"out-{index}-{name}"
                given = [f"source.root={root}", f"output={out}", "data.mode=vsibench", _BUDGETS, "balance.mode=paper"]
                config = load_config("build_data", [*given, "video.source=recorded", f"data.types={list(STATIC)}"])
                start = time.process_time()
                outcome = build_scan(ScanJob(config, root, out, truth.scan_id, "train"))
                if outcome.status != "done":
                    raise SystemExit(outcome.reason)
                judged = [row for row in outcome.rows if row.question_type == "room_size_estimation"]
                if any((row.extra.get("true_at") is not None) != (name == "deep") for row in judged) or not judged:
                    raise SystemExit(f"{truth.scan_id}: the size of the room is not judged as it should be")
                if index:  # the first scan loads libraries
                    values.append(time.process_time() - start)
    ratios = [a / b for a, b in zip(seconds["deep"], seconds["bare"], strict=True)]
    return {
        "scans": num_scans,
        "frames": num_frames,
        "cpu_seconds_median": {name: round(statistics.median(values), 3) for name, values in seconds.items()},
        "ratio_median": round(statistics.median(ratios), 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=50)
    parser.add_argument("--vertices", type=int, default=150_000)
    parser.add_argument("--objects", type=int, default=50)
    parser.add_argument("--walk", action="store_true", help="measure scans filmed from their mesh instead")
    parser.add_argument("--camera", action="store_true", help="measure the questions about the camera of such scans")
    parser.add_argument("--sens", action="store_true", help="measure the export of a .sens too")
    parser.add_argument("--recorded", action="store_true", help="measure what judging the floor of a .sens adds")
    parser.add_argument("--frames", type=int, default=300, help="frames of that .sens")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args()
    if args.walk or args.camera:
        ways = CAMERA if args.camera else JUDGED
        print(json.dumps(measure_walk(args.scans, args.vertices, args.objects, ways)))
        return 0
    if args.recorded:
        print(json.dumps(measure_recorded(args.scans, args.vertices, args.objects, args.frames)))
        return 0
    result = measure(args.scans, args.vertices, args.objects)
    if args.sens:
        result["sens_export"] = measure_export(args.frames)
    if args.json:
        print(json.dumps(result))
        return 0
    for name, seconds in result["stages"].items():
        print(f"{name:24} {seconds:8.4f} CPU s")
    print(f"{'one scan, median':24} {result['seconds_per_scan_median']:8.4f} CPU s ({result['mode']}, the slower mode)")
    print(f"{result['scans_per_s']} scans/s, {result['questions_per_s']} questions/s, peak {result['peak_mb']} MB")
    if args.sens:
        export = result["sens_export"]
        print(
            f".sens to 640x480: {export['times_real_time']} times real time on one core "
            f"({export['frames_per_cpu_s']} frames a CPU second of {export['mb_per_frame']} MB each; "
            f"by the clock {export['times_real_time_wall']}), {export['grown_mb']} MB more memory"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
