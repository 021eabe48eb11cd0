"""MMSI-Video-Bench: 1,106 questions about 1,278 clips, with pictures beside them, at their places in the text.

mmsivideo.json as downloaded, and videos/, frames/ and ref_images/ beside it, or still in videos.zip, frames.zip and
ref_images.zip. A file of videos/ is the clip itself: `start` and `end` of a row are its times in the original
recording, which the frames show in a corner, and nothing is cut by them. Options A to F stand in the question's text.

Harnesses:

- `official` and `official_sc`, the authors' settings Uniform-50 and Sufficient-Coverage: each `<video>` is a video of
  pictures of frames/, 50 or 300 of all clips of a question together (`spread`), and their reader. Pictures of
  ref_images/ do not count. Frames are `fps` a second (`_rate`) in the time stamps of Qwen3-VL, and 2 a second in the
  positions of Qwen2.5-VL, whose call in the authors' code leaves qwen-vl-utils' default.
  Deviation: for Qwen3-VL alone the authors take the frames from videos/, every int(rate of the file / `fps`)-th of a
  clip, which are about as many.
- `clips`: each `<video>` is a file of videos/ with video.num_frames frames, and the authors' reader.
- `lmms` and `lmms_sc` (lmms-eval: each `<video>` as pictures, at most 50 or 300 of all clips together, and its reader).
- `easi` (VLMEvalKit: pictures too, at most 50, and its reader).

A clip whose name tells no room is of one of 25 public data sets (`DATA_SETS`), or recorded by the authors.

Source: arXiv 2512.10863; Hugging Face rbler/MMSI-Video-Bench; github.com/InternRobotics/MMSI-Video-Bench commit
b8da92c (dataset.py, models/qwenvl.py); lmms-eval commit 75571cf, lmms_eval/tasks/mmsi_video; VLMEvalKit commit
e8e78f05, vlmeval/dataset/mmsibench.py.
"""

from __future__ import annotations

import ast
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from vsgrpo.data.prompts import PLACEHOLDER
from vsgrpo.data.row import Row, media_place
from vsgrpo.errors import DataError
from vsgrpo.evaluation.accuracy import Published
from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.evaluation.export_names import ExportNames
from vsgrpo.evaluation.predictions import Media
from vsgrpo.evaluation.row_files import Version, question_row
from vsgrpo.paths import path_fault
from vsgrpo.spatial.vlmevalkit_answers import easi_letter
from vsgrpo.terminal import counted
from vsgrpo.video.place import FrameList, Place

_CATEGORIES = {
    "Spatial Construction": (
        *("Instance/Scene Attribute", "Instance-Instance Spatial Relationship", "Camera-Scene Spatial Relationship"),
        *("Instance-Scene Spatial Relationship", "Scene-Scene Spatial Relationship"),
        "Camera-Instance Spatial Relationship",
    ),
    "Motion Understanding": ("Camera Motion", "Instance Motion", "Interactive Motion"),
    "Cross-Video": ("Memory Update", "Multi-View Integration"),
}
TYPES = (*(f"({name}) {kind}" for name, kinds in _CATEGORIES.items() for kind in kinds), "Planning", "Prediction")
SUB_BENCHES = ("Easy2hard", "Grounding", "Indoor_Scene_Perception", "Robot")
"""Columns that some copies of the file have: a part of the questions, and what it belongs to there."""
OFFICIAL = ("official", "official_sc")
"""Harnesses that show the frames of a clip as a video."""
POSITION_FPS = 2.0
"""Source: qwen-vl-utils 0.0.14 fetch_video, of a list without `sample_fps`."""
DATA_SETS = (
    *("roomtour3d", "scannet", "scannetpp", "3rscan", "arkitscenes", "realestate10k", "dl3dv", "waymo", "nuscenes"),
    *("ovis", "trackingnet", "lasot", "uav123", "ego4d", "epic-kitchens", "egoexolearn", "multisports", "charades"),
    *("lemma", "tf2023", "cvmht", "ava", "droid", "rh20t", "dtu"),
)
"""As the authors' README lists them (Acknowledgment); which clip is of which, and of which split, is not published."""
_SAYS = ('"answer":', "answer is", "answer:", '"Answer":', "Answer is", "Answer:")
_NOISE = str.maketrans("", "", " \"'\n:")
_PROMPTS = ("system_prompt", "task_prompt", "user_prompt", "format_prompt")
_README = "the authors' README, Uniform-50"
_README_SC = "the authors' README, Sufficient-Coverage"
_EASI = "EASI docs/Benchmark_Verification.md, commit 0c1a41e"
_LETTERS = tuple("ABCDEF")


def official_letter(text: str) -> str:
    """Return the letter that the authors' code reads in an answer, "" for none.

    Without `<answer>` tags: what stands in "boxed{...}", else behind the last of the first phrase there is ("answer
    is", "Answer:", ...) up to a comma or a full stop, else before the first full stop; each without spaces, quotes,
    line breaks and colons. An answer that says "no answer" has none.
    """
    text = text.replace("<answer>", "").replace("</answer>", "")
    if "no answer" in text:
        return ""
    said = text.split(".")[0]
    if "boxed{" in text:
        said = text.split("boxed{")[1].split("}")[0]
    elif phrase := next((phrase for phrase in _SAYS if phrase in text), None):
        said = _behind(text, phrase)
    said = said.translate(_NOISE)
    return said if said in _LETTERS else ""


def _behind(text: str, phrase: str) -> str:
    return text.split(phrase)[-1].split(",")[0].split(".")[0]


def lmms_letter(text: str) -> str:
    """Return the letter that lmms-eval reads: as the authors, but it goes on where a place holds none, and at last
    takes the first of "(A)", " A " and "A." in the text, by the order of letters."""
    if "no answer" in text.lower():
        return ""
    text = text.replace("<answer>", "").replace("</answer>", "")
    places = [text.split("boxed{")[1].split("}")[0]] if "boxed{" in text else []
    places += [_behind(text, phrase) for phrase in (*_SAYS, "The answer is", "the answer is") if phrase in text]
    for said in (*places, text.split(".")[0]):
        if (letter := said.translate(_NOISE)) in _LETTERS:
            return letter
    marks = ((letter, (f"({letter})", f" {letter} ", f"{letter}.")) for letter in _LETTERS)
    return next((letter for letter, forms in marks if any(form in f" {text} " for form in forms)), "")


def spread(lengths: Sequence[int], number: int, harness: str) -> list[list[int]]:
    """Return which frames of each clip are shown: `number` of all of them, evenly spaced over the clips in a row.

    Where there are not more, all are shown. The authors and lmms-eval show the first frame of a clip that would have
    none, beyond the number; VLMEvalKit shows none of it, and no frame twice.
    """
    total = sum(lengths)
    if total <= number:
        return [list(range(length)) for length in lengths]
    if harness == "easi":
        chosen = list(dict.fromkeys(np.linspace(0, total - 1, number, dtype=int).tolist()))
    else:
        chosen = [int(i * ((total - 1) / (number - 1))) for i in range(number)]
    starts = np.cumsum([0, *lengths]).tolist()
    found = [[k - start for k in chosen if start <= k < end] for start, end in pairwise(starts)]
    return found if harness == "easi" else [frames or [0] for frames in found]


class MmsiVideo(Benchmark):
    """MMSI-Video-Bench; see the module's docstring."""

    title = "MMSI-Video-Bench"
    suffixes = (".json", ".jsonl", ".parquet")
    columns = ("id", "type", "video_list", "frames_list", "ref_images", *_PROMPTS, "ground_truth")
    question_types = TYPES
    harnesses = (*OFFICIAL, "clips", "lmms", "lmms_sc", "easi")
    own_frames: ClassVar[Mapping[str, int]] = {
        "official": 50,
        "official_sc": 300,
        "lmms": 50,
        "lmms_sc": 300,
        "easi": 50,
    }
    media_in_text = True
    scorer = "option letter"
    export_names = (
        ExportNames("mmsi_video_u50", "overall_accuracy", scale=100.0, easi="mmsi_video_bench"),
        ExportNames("mmsi_video_sc", "overall_accuracy", scale=100.0, part="official_sc"),
        ExportNames("mmsi_video_sc", "overall_accuracy", scale=100.0, part="lmms_sc"),
        ExportNames("mmsi_video", "overall_accuracy", scale=100.0, part="clips"),
    )
    versions = (Version("mmsivideo.json", 1106),)
    published = (
        Published("human", 0.964, _README),
        Published("Gemini 3 Pro", 0.3797, _README),
        Published("GPT-5", 0.368, _README),
        Published("Qwen2.5-VL-72B", 0.3273, _README),
        Published("InternVL3-8B", 0.3038, _README),
        Published("Qwen2.5-VL-7B", 0.2966, _README),
        Published("Qwen3-VL-8B", 0.2758, _README),
        Published("random guessing", 0.241, _README),
        Published("Qwen3-VL-8B, 300 frames", 0.2909, _README_SC),
        Published("Qwen2.5-VL-7B, 300 frames", 0.2884, _README_SC),
        Published("Qwen2.5-VL-7B, VLMEvalKit", 0.269, _EASI),
        Published("Qwen2.5-VL-7B, lmms-eval", 0.283, _EASI),
        Published("Qwen3-VL-8B, VLMEvalKit", 0.283, _EASI),
        Published("Qwen3-VL-8B, lmms-eval", 0.3047, _EASI),
    )

    @classmethod
    def row(cls, data: dict[str, Any], where: str) -> Row:
        """Return the row of a record; its clips and pictures in the order of the places that its text has for them."""
        texts = {name: str(data[name] or "") for name in _PROMPTS}
        question = texts["task_prompt"] + texts["user_prompt"] + texts["format_prompt"]
        clips = _listed(data["video_list"], "video_list", where)
        videos = [f"videos/{_text(item, 'path', where)}" for item in clips]
        images = [f"ref_images/{item}" for item in _listed(data["ref_images"], "ref_images", where)]
        frames = [[f"frames/{each}" for each in clip] for clip in _listed(data["frames_list"], "frames_list", where)]
        kinds = PLACEHOLDER.findall(f"{texts['system_prompt']}\n{question}")
        if (kinds.count("video"), kinds.count("image")) != (len(videos), len(images)) or len(frames) != len(videos):
            problem = (
                f"its text has {counted(kinds.count('video'), 'place')} for videos and "
                f"{kinds.count('image')} for images, the row "
                f"{counted(len(videos), 'video')}, frames of {len(frames)} and {counted(len(images), 'image')}"
            )
            raise DataError(f"{where}: {problem}", "download the file again")
        truth = str(data["ground_truth"]).strip().upper()[:1]
        if truth not in _LETTERS:
            raise DataError(f"{where}: ground_truth={data['ground_truth']!r}: must be A to F", "download it again")
        left = {"video": iter(videos), "image": iter(images)}
        parts = {name: str(data[name]) for name in SUB_BENCHES if _is_given(data.get(name))}
        scene = PurePosixPath(videos[0]).stem if videos else str(data["id"])
        return question_row(
            str(data["id"]),
            question,
            truth,
            [(kind, next(left[kind])) for kind in kinds],
            dataset="mmsi_video",
            question_type=str(data["type"]).replace("Memoery", "Memory"),  # so in the file
            scene_name=scene,
            extra={"system_prompt": texts["system_prompt"], "clips": clips, "frames": frames, "parts": parts},
        )

    def drawn_from(self, row: Row) -> Mapping[str, str] | None:
        """Return the data sets that the authors list, all of each."""
        return dict.fromkeys(DATA_SETS, "")

    def media(self, row: Row) -> Media:
        """Return the clips and pictures of a row: a clip as its file, as a video of frames, or as pictures.

        Raises:
            DataError: a clip without frames, or times of clips that give no rate of frames.
        """
        if self.harness == "clips":
            return super().media(row)
        if row.id not in self._shown:
            self._shown[row.id] = tuple(self._placed(row))
        return self._shown[row.id]

    @cached_property
    def _shown(self) -> dict[str, Media]:
        """Media by row id: of a harness that shows 300 pictures a question they are found once."""
        return {}

    def _placed(self, row: Row) -> Iterator[Place]:
        clips, folders = iter(self._frames(row)), dict[str, Path]()
        for item in row.media:
            names = [item["path"]] if item["kind"] == "image" else next(clips)
            files = tuple(self._file(name, folders) for name in names)
            if item["kind"] == "video" and self.harness in OFFICIAL:
                yield "video", FrameList(files, self._rate(row), POSITION_FPS)
            else:
                yield from (("image", file) for file in files)

    def _file(self, name: str, folders: dict[str, Path]) -> Path:
        """Return the place of a picture; `folders` remembers those that were looked up."""
        above, _, file = name.rpartition("/")
        if above not in folders:
            folders[above] = media_place(self.folder, above)
        path = folders[above] / file
        is_plain = path_fault(name) is None and not os.path.islink(path)
        return self._place(path if is_plain else media_place(self.folder, name))

    def _frames(self, row: Row) -> list[list[str]]:
        """Return the frames of each clip that are shown."""
        clips: list[list[str]] = row.extra["frames"]
        if not all(clips):
            problem = f"frames_list: clip {clips.index([]) + 1} of {len(clips)} has no frames"
            raise DataError(f"{self.file}: id={row.id}: {problem}", "download the file again")
        chosen = spread([len(clip) for clip in clips], self.own_frames[self.harness], self.harness)
        return [[clip[place] for place in places] for clip, places in zip(clips, chosen, strict=True)]

    def _rate(self, row: Row) -> float:
        """Return frames per second of all clips of a row: as many as the harness shows over their seconds together, at
        most `base_fps` of the first.

        Source: dataset.py, `input_fps`.
        """
        clips, number = row.extra["clips"], self.own_frames[self.harness]
        try:
            rate = min(number / sum(clip["end"] - clip["start"] for clip in clips), float(clips[0]["base_fps"]))
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            rate = 0.0
        if not 0 < rate < math.inf:
            problem = "video_list: start, end and base_fps of its clips give no frames per second"
            raise DataError(f"{self.file}: id={row.id}: {problem}", "download the file again")
        return rate

    def text(self, row: Row) -> str:
        """Return the base's, with a place for each picture that is shown in the place of a clip."""
        text = super().text(row)
        if self.harness in (*OFFICIAL, "clips"):
            return text
        numbers = [len(clip) for clip in self._frames(row)]
        if text.count("<video>") != len(numbers):  # `turn` refuses it
            return text
        left = iter(numbers)
        return re.sub("<video>", lambda _: "<image>" * next(left), text)

    def official_text(self, row: Row) -> str:
        """Return the system prompt, and the prompts of task, question and form, with a place for each medium."""
        return f"{row.extra['system_prompt']}\n{row.question}"

    def read_answer(self, row: Row, answer: str) -> str | None:
        """Return the letter that the harness reads."""
        readers = {**dict.fromkeys((*OFFICIAL, "clips"), official_letter), "easi": easi_letter}
        return readers.get(self.harness, lmms_letter)(answer) or None

    def groups(self, row: Row) -> Mapping[str, Sequence[str]]:
        """Return the level, whether one video alone is shown, and the parts of the benchmark that the file names."""
        level = re.sub(r"^\((.*?)\).*", r"\1", row.question_type)
        single = not any(item["kind"] == "image" for item in row.media) and level != "Cross-Video"
        parts = {name: (value,) for name, value in row.extra["parts"].items()}
        return {"level": (level,), "input": ("one video" if single else "several, or pictures",), **parts}


def _listed(value: Any, name: str, where: str) -> list[Any]:
    """Return a column that is a list, or the text of one as some copies of the file have it."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass
    if value is not None and not isinstance(value, list):
        raise DataError(f"{where}: {name}={str(value)[:60]!r}: must be a list", "download the file again")
    return value or []


def _text(item: Any, name: str, where: str) -> str:
    if not isinstance(item, dict) or not isinstance(item.get(name), str):
        raise DataError(f"{where}: video_list: {str(item)[:60]!r} has no {name}", "download the file again")
    return item[name]


def _is_given(value: Any) -> bool:
    return value is not None and str(value).strip().lower() not in ("nan", "null", "none", "")
