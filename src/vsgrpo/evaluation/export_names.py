"""What benchmarks are called in lmms-eval's logs and on the EASI leaderboard.

Source: lmms-eval 75571cf (lmms_eval/tasks/*/*.yaml), EASI 0c1a41e (scripts/submissions/backends/lmmseval.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vsgrpo.evaluation.benchmarks.revsi import ReVsi
from vsgrpo.evaluation.score_tables import METRICS


@dataclass(frozen=True)
class ExportNames:
    """Names of one benchmark.

    Attributes:
        task: of lmms-eval; {NAME} in it is that of the rows' `extra`.
        overall: lmms-eval's metric of the overall score.
        mean: the cell of our table that it is: "overall" (the quoted mean), "micro", "macro" or one of `metrics`.
        metrics: further metric -> its cell: "tasks/NAME", "question_types/NAME", "GROUP/NAME"; or, where our table
            scores several rows as one, the mean over rows, "rows/overall" or "rows/QUESTION TYPE".
        scale: of lmms-eval's values: 1, or 100 where they are percentages.
        video_task: lmms-eval's task of questions about a video, where it is another one.
        above_chance: a line of the sample log has the parts of the chance-adjusted mean.
        easi: key on the leaderboard; "" where it does not list the benchmark.
        easi_task: the task that the leaderboard's script looks for, where it is another one.
        easi_scores: name of a partial score there -> metric.
    """

    task: str
    overall: str
    mean: str = "overall"
    metrics: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0
    video_task: str = ""
    above_chance: bool = False
    easi: str = ""
    easi_task: str = ""
    easi_scores: Mapping[str, str] = field(default_factory=dict)


def _suffixed(group: str, names: tuple[str, ...], suffix: str) -> dict[str, str]:
    return {f"{name}{suffix}": f"{group}/{name}" for name in names}


_VSIBENCH = {metric: f"tasks/{metric.rpartition('_')[0]}" for metric in METRICS[1:]}
_MMSI = (
    *("Attribute (Appr.)", "Attribute (Meas.)", "Motion (Cam.)", "Motion (Obj.)", "MSR"),
    *(f"Positional Relationship ({pair})" for pair in ("Cam.-Cam.", "Cam.-Obj.", "Cam.-Reg.")),
    *(f"Positional Relationship ({pair})" for pair in ("Obj.-Obj.", "Obj.-Reg.", "Reg.-Reg.")),
)
_MMSI_EASI = (
    *("attr_appr", "attr_meas", "motion_cam", "motion_obj", "msr", "pos_cam_cam", "pos_cam_obj", "pos_cam_reg"),
    *("pos_obj_obj", "pos_obj_reg", "pos_reg_reg"),
)
_THREEDSR = (
    *("height_higher", "location_above", "location_closer_to_camera", "location_next_to", "multi_object_closer_to"),
    *("multi_object_facing", "multi_object_parallel", "multi_object_same_direction"),
    *("multi_object_viewpoint_towards_object", "orientation_in_front_of", "orientation_on_the_left"),
    "orientation_viewpoint",
)
_SITE = {
    "3d_information_understanding": "3d information understanding",
    "counting_and_existence": "counting & existence",
    "movement_prediction_and_navigation": "movement prediction & navigation",
    "multiview_and_crossimage_reasoning": "multi-view & cross-image reasoning",
    "object_localization_and_positioning": "object localization & positioning",
    "spatial_relationship_reasoning": "spatial relationship reasoning",
}
_VIEWSPATIAL = {
    f"{kind.lower().replace(' - ', ' ').replace(' ', '_')}_accuracy": f"question_types/{kind}"
    for kind in (
        "Camera perspective - Object View Orientation",
        "Camera perspective - Relative Direction",
        "Person perspective - Object View Orientation",
        "Person perspective - Relative Direction",
        "Person perspective - Scene Simulation Relative Direction",
    )
}
_SETTINGS = _suffixed("question_types", ("among", "around", "rotation"), "_accuracy")
_SOURCES = _suffixed("data_source", ("ai2thor", "mp3d", "scannet"), "_accuracy")

EXPORT_NAMES = {
    "vsibench": ExportNames(
        "vsibench",
        "vsibench_overall",
        metrics=_VSIBENCH,
        easi="vsi_bench",
        easi_task="vsibench_multiimage",
        easi_scores={metric.removesuffix("_mra"): metric for metric in _VSIBENCH},
    ),
    "vsibench:debiased": ExportNames(
        "vsibench_debiased",
        "vsibench_overall",
        metrics=_VSIBENCH,
        easi="vsi_debiased",
        easi_task="vsibench_debiased_multiimage",
        easi_scores={metric.removesuffix("_mra"): metric for metric in _VSIBENCH},
    ),
    "vsibench:pruned": ExportNames("vsibench_pruned", "vsibench_overall", metrics=_VSIBENCH),
    "revsi": ExportNames(
        "revsi_{num_frames}_frame",
        "overall_acc",
        metrics=_suffixed("tasks", (*ReVsi.tasks, *ReVsi.question_types), "_acc"),
    ),
    "mmsi": ExportNames(
        "mmsi_bench",
        "average",
        metrics={name.replace(".-", ".\u2013"): f"question_types/{name}" for name in _MMSI},
        easi="mmsi_bench",
        easi_scores={
            f"{key}_accuracy": name.replace(".-", ".\u2013") for key, name in zip(_MMSI_EASI, _MMSI, strict=True)
        },
    ),
    "mindcube": ExportNames(
        "mindcube_tiny",
        "overall_accuracy",
        metrics=_SETTINGS,
        easi="mindcube_tiny",
        easi_scores={metric: metric for metric in _SETTINGS},
    ),
    "mindcube:full": ExportNames("mindcube_full", "overall_accuracy", metrics=_SETTINGS),
    "viewspatial": ExportNames(
        "viewspatial",
        "overall_accuracy",
        metrics=_VIEWSPATIAL,
        easi="viewspatial",
        easi_scores={metric: metric for metric in _VIEWSPATIAL},
    ),
    "blink": ExportNames("blink", "blink_acc", mean="micro", easi="blink"),
    "embspatial": ExportNames(
        "embspatial",
        "embspatial_acc",
        mean="micro",
        metrics=_SOURCES,
        easi="embspatial",
        easi_scores={metric: metric for metric in _SOURCES},
    ),
    "threedsr": ExportNames(
        "3dsrbench_circular",
        "vanilla_accuracy",
        mean="rows/overall",
        metrics={**_suffixed("rows", _THREEDSR, "_accuracy"), "circular_accuracy": "overall"},
        easi="3dsrbench",
        easi_scores={**{name: f"{name}_accuracy" for name in _THREEDSR}, "circ_eval_overall": "circular_accuracy"},
    ),
    "site": ExportNames(
        "site_bench_image",
        "chance_adjusted_acc",
        metrics={f"{key}_caa": f"question_types/{name}" for key, name in _SITE.items()} | {"accuracy": "micro"},
        scale=100.0,
        video_task="site_bench_video_multiimage",
        above_chance=True,
        easi="site",
        easi_scores={f"{key}_caa": f"{key}_caa" for key in _SITE},
    ),
    "spar": ExportNames("sparbench", "sparbench_score", scale=100.0, easi="spar_bench"),
    "osi": ExportNames("osi_bench", "overall", scale=100.0),
    "mmsi_video": ExportNames("mmsi_video_u50", "overall_accuracy", scale=100.0, easi="mmsi_video_bench"),
    "vsi_super_recall": ExportNames("vsr", "accuracy"),
    "vsi_super_count": ExportNames("vsc", "mra"),
    "vsi_super_streaming": ExportNames("vsc_streaming", "mra"),
    "video_mme": ExportNames("videomme", "videomme_perception_score", scale=100.0),
}
"""Benchmark, or BENCHMARK:PART (a subset, a version of its file) -> its names. Another one has its own name as task,
and no place on the leaderboard."""


def export_names(benchmark: str, *parts: str) -> ExportNames:
    """Return the names of the first of a benchmark's parts that has its own, else of the benchmark."""
    keys = [*(f"{benchmark}:{part}" for part in parts), benchmark]
    found = (EXPORT_NAMES[key] for key in keys if key in EXPORT_NAMES)
    return next(found, ExportNames(benchmark.replace(":", "."), "overall"))
