"""The video of one scan, and what it shows: exported, filmed from the mesh, or one that is there already."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vsgrpo.config.build import BuildDataConfig
from vsgrpo.errors import DataError
from vsgrpo.files import link_or_copy
from vsgrpo.scans.source import Recording, Scan, VisibilitySettings
from vsgrpo.scans.visibility import numbered_frames, stacked_poses
from vsgrpo.scans.walk.mesh_video import Walk, WalkSettings, render_walk
from vsgrpo.spatial.scene import Footage, Scene
from vsgrpo.spatial.sight import floor_cells, share_in_sight
from vsgrpo.video.budget import frame_indices
from vsgrpo.video.reader import probe
from vsgrpo.video.writer import write_video

WALK_PIXELS = 448 * 336
"""Frame size that `video.seen_pixels` is meant for."""
WALK_FPS = 2


class Film(NamedTuple):
    """What became of a scan's video.

    Attributes:
        scene: with what the video shows, where that is known.
        num_frames: of the video.
        seen_pixels: pixels from which an object counts as seen.
        walk: where it was filmed from the mesh.
    """

    scene: Scene
    num_frames: int
    seen_pixels: int
    walk: Walk | None = None


def make_video(config: BuildDataConfig, scan: Scan, scene: Scene, path: Path) -> Film:
    """Write the scan's video; return the scene with what it shows."""
    video = config.video
    if video.source == "mesh":
        return _film_mesh(config, scan, scene, path)
    if video.source == "none":
        return Film(scene, 0, video.seen_pixels)
    if video.source == "folder":
        return Film(scene, _take_existing(config, scene, path), video.seen_pixels)
    size = (video.export_height * 4 // 3, video.export_height)
    with scan.recording() as recording:
        fps = recording.fps or video.fps
        num_frames = write_video(path, recording.frames(), fps, size=size, crf=video.crf)
        scene, seen_pixels = _watch(config, scan, scene, recording, fps)
        scene.warnings.update(recording.warnings())  # last: only who looks at frames meets broken ones
    return Film(scene, num_frames, seen_pixels)


def _watch(config: BuildDataConfig, scan: Scan, scene: Scene, recording: Recording, fps: float) -> tuple[Scene, int]:
    """Count what the recording shows; return the scene with it and the pixels that count as seen."""
    video, appearance = config.video, config.appearance
    if video.seen_frames == 0:
        return scene, video.seen_pixels
    settings = VisibilitySettings(
        num_frames=video.seen_frames,
        fps=fps,
        # Only what is asked about time needs to know what lies between the frames a loader shows.
        stride_s=appearance.stride_s if any("footage" in kind.needs for kind in config.asked_types()) else None,
        depth_tolerance=appearance.depth_tolerance,
        budgets=tuple(video.budgets),
    )
    footage = recording.watch([item.instance_id for item in scene.objects], settings)
    if isinstance(footage, str):
        scan.notes.append(footage)
        return scene, video.seen_pixels
    pixels = {i: tuple(row[k] for k in footage.shown) for i, row in footage.pixels.items()}
    least = max(1, round(video.seen_pixels * footage.frame_pixels / WALK_PIXELS))
    return replace(scene, pixels=pixels, footage=with_areas(scene, footage)), least


def _film_mesh(config: BuildDataConfig, scan: Scan, scene: Scene, path: Path) -> Film:
    video = config.video
    settings = WalkSettings(
        num_frames=video.walk_frames,
        width=video.walk_width,
        height=video.walk_height,
        min_pixels=video.seen_pixels,
    )
    mesh = scan.aligned_mesh()
    instances = scan.instance_of_vertex()
    kept = np.array([item.instance_id for item in scene.objects], dtype=np.int32)
    instances[~np.isin(instances, kept)] = -1
    try:
        walk = render_walk(mesh, instances, settings)
    except DataError as error:
        raise DataError(f"{scan.scan_id}: {error.message}", error.hint) from error
    alike = config.counterfactual.wanted
    write_video(path, iter(walk.frames), fps=WALK_FPS, keyframe_interval=1, crf=min(video.crf, 20), same_quality=alike)
    pixels = {item.instance_id: walk.pixels.get(item.instance_id, ()) for item in scene.objects}
    footage = None
    if video.seen_frames:
        shown = tuple(dict.fromkeys(frame_indices(len(walk.frames), video.seen_frames)))
        times = tuple(number / WALK_FPS for number in range(len(walk.frames)))
        budgets = {k: tuple(dict.fromkeys(frame_indices(len(times), k))) for k in video.budgets if k <= len(times)}
        frames_shown, numbers = numbered_frames(len(times), video.seen_frames, range(len(times)))
        footage = Footage(
            times,
            shown,
            video.walk_width * video.walk_height,
            pixels,
            budgets,
            walk.reach,
            poses=stacked_poses(camera.pose() for camera in walk.cameras),
            frames_shown=frames_shown,
            numbers=numbers,
        )
        footage = with_areas(scene, footage)
    scene = replace(scene, pixels=pixels, footage=footage, extra={**scene.extra, "notes": list(walk.notes)})
    return Film(scene, len(walk.frames), settings.scaled_min_pixels, walk)


def _take_existing(config: BuildDataConfig, scene: Scene, path: Path) -> int:
    """Link (or copy) the user's mp4 into the dataset folder; return its number of frames."""
    choices = own_videos(config, scene.dataset, scene.scene_name)
    existing = next((choice for choice in choices if choice.is_file()), None)
    if existing is None:
        raise DataError(f"{choices[0]}: no such video", hint="video.folder holds <scene>.mp4 or <dataset>/<scene>.mp4")
    num_frames = probe(existing).num_frames
    link_or_copy(existing, path)
    return num_frames


def own_videos(config: BuildDataConfig, dataset: str, scan_id: str) -> list[Path]:
    """Return where the user's own video of a scan may be, with video.source=folder; the first that is there counts."""
    if config.video.source != "folder":
        return []
    folder = Path(config.video.folder or "")
    return [folder / f"{scan_id}.mp4", folder / dataset / f"{scan_id}.mp4"]


def with_areas(scene: Scene, footage: Footage) -> Footage:
    """Return what a video shows with the share of the floor that each budget of frames shows, where that is known."""
    outlines = [np.array(loop) for loop in scene.extra.get("floor_outline", ())]
    if scene.room_size is None or not outlines or not footage.reach or footage.poses is None:
        return footage
    cells, areas = floor_cells(outlines), {}
    for budget, frames in footage.budgets.items():
        reach = [found for k in frames if (found := footage.reach[k]) is not None]
        if len(reach) == len(frames):
            areas[budget] = share_in_sight(cells, footage.poses[list(frames), :3, 3], reach)
    return replace(footage, areas=areas)
