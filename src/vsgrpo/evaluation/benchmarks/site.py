"""SITE-Bench: 8,068 multiple-choice questions about images and videos, out of 31 data sets.

Two row files, image_test* and video_test* (parquet, json or jsonl; no ids: a row is named by its file and its number,
"image_test_12"); media at the paths of `visual`, below the folder that the zips unpack to. The score is
chance-adjusted over both files together, sum(right - 1/n) / sum(1 - 1/n) of questions with n options. `<image>` in a
question or option is where a picture is; without it pictures come first.

Harnesses: `official` (the authors' code, which is lmms-eval's too), `easi` (VLMEvalKit: the same prompt, but for spaces
around a question, and its own reader of letters). Deviation: where no letter is found the authors' code picks one at
random, here the answer is wrong, as in VLMEvalKit. Their own interleaving of pictures was broken, numbers of EASI are
higher (its docs/Benchmark_Verification.md).

Source: arXiv 2505.05456; Hugging Face franky-veteran/SITE-Bench; wenqi-wang20/SITE-Bench commit
36295bb, eval_scripts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from vsgrpo.data.row import CHOICE_LETTERS, Row
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.accuracy import Published
from vsgrpo.evaluation.benchmark import Benchmark, ReadOptions
from vsgrpo.evaluation.export_names import ExportNames
from vsgrpo.evaluation.row_files import Version, question_row, records
from vsgrpo.evaluation.unpacking import shards
from vsgrpo.spatial.vlmevalkit_answers import easi_letter

PLACE = "<image>"
VIDEO_SENTENCE = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter of the correct option."
)
LAST_SENTENCE = "Give me the answer letter directly. The best answer is:"
CATEGORIES = (
    "counting & existence",
    "object localization & positioning",
    "3d information understanding",
    "multi-view & cross-image reasoning",
    "spatial relationship reasoning",
    "movement prediction & navigation",
)
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_EASI = "EASI docs/Benchmark_Verification.md, commit 0c1a41e"


def official_letter(text: str, letters: str) -> str:
    """Return the letter that the authors' code reads in an answer, "" where it would pick one at random.

    In this order, the first kind of mark that is there counts: "(A)", " A ", "A.", "A:" or ":A" or ": A". Of several
    letters with the same mark the one whose last " A " is latest; the first one where none has spaces around it.

    Source: SITE-Bench eval_scripts/sitebench/utils.py, parse_multi_choice_response.
    """
    text = f" {text.strip()} "
    marks = (("({})",), (" {} ",), ("{}.",), ("{}:", ":{}", ": {}"))
    for forms in marks:
        if found := [letter for letter in letters if any(form.format(letter) in text for form in forms)]:
            return max(found, key=lambda letter: text.rfind(f" {letter} "))
    return ""


def placed(prompt: str, num_images: int) -> str:
    """Return a prompt in which every picture has its `PLACE`, and no space is left around one.

    Pictures that have none stand before the text behind the last place; places without a picture are dropped.

    Source: lmms-eval commit 75571cf, lmms_eval/tasks/sitebench/utils.py, spatial_doc_to_messages_image.
    """
    parts = [part.strip() for part in prompt.split(PLACE)]
    if len(parts) > num_images + 1:
        parts = [*parts[:num_images], "".join(parts[num_images:])]
    return PLACE.join([*parts[:-1], *[""] * (num_images + 1 - len(parts)), parts[-1]])


_METRICS = {
    f"{name.replace('-', '').replace('&', 'and').replace(' ', '_')}_caa": f"question_types/{name}"
    for name in CATEGORIES
}


@dataclass(frozen=True)
class SiteBench(Benchmark):
    """SITE-Bench's own prompt, reader of letters and chance-adjusted accuracy; see the module's docstring.

    Attributes:
        path: the folder, where several row files were read.
    """

    path: Path | None = None

    title = "SITE-Bench"
    media_in_text = True
    suffixes = (".parquet", ".jsonl", ".json")
    columns = ("question", "options", "answer", "visual", "category", "dataset")
    question_types = CATEGORIES
    harnesses = ("official", "lmms", "easi")
    headline = "chance_adjusted"
    scorer = "option letter; right above chance"
    official_frames = 32
    export_names = (
        ExportNames(
            "site_bench_image",
            "chance_adjusted_acc",
            metrics={**_METRICS, "accuracy": "micro"},
            scale=100.0,
            video_task="site_bench_video_multiimage",
            above_chance=True,
            easi="site",
            easi_scores={metric: metric for metric in _METRICS},
        ),
    )
    versions = (Version("image and video", 8068),)
    published = (
        Published("Qwen2.5-VL-7B, 32 frames, VLMEvalKit", 0.376, _EASI),
        Published("Qwen2.5-VL-7B, 32 frames, lmms-eval", 0.3798, _EASI),
        Published("Qwen2.5-VL-7B, as the paper has it", 0.314, "arXiv 2505.05456"),
        Published("Qwen2.5-VL-3B, 32 frames, VLMEvalKit", 0.331, _EASI),
        Published("Qwen2.5-VL-3B, 32 frames, lmms-eval", 0.3232, _EASI),
        Published("Qwen2.5-VL-3B, as the paper has it", 0.295, "arXiv 2505.05456"),
    )

    @classmethod
    def read(cls, path: Path | str, options: ReadOptions = ReadOptions()) -> Self:
        """Read a row file, or all of image_test* and video_test* in a folder or one level below it, as one benchmark.

        Raises:
            DataError, ConfigError: as `Benchmark.read`.
        """
        folder = Path(path)
        below = [
            file for pattern in ("*", "*/*") for file in sorted(folder.glob(pattern)) if file.suffix in cls.suffixes
        ]
        files = [file for file in below if _part(file) and file == shards(file)[0]]
        if len(files) < 2:
            return super().read(files[0] if files else path, options)
        whole = [super(SiteBench, cls).read(file, replace(options, tasks=None, limit=None)) for file in files]
        rows = [row for part in whole for row in part.rows]
        kept = [row for row in rows if options.tasks is None or row.question_type in options.tasks]
        if not kept:
            there = ", ".join(sorted({row.question_type for row in rows}))
            raise ConfigError(
                f"benchmark.tasks={list(options.tasks or [])}: no such question_type", f"there are: {there}"
            )
        num_rows, unknown = (
            sum(part.num_rows for part in whole),
            {name: t for part in whole for name, t in part.unknown.items()},
        )
        read = cls.of_rows(files[0], kept, num_rows, options, official=True, unknown=unknown)
        return replace(read, sha256=sha256("\n".join(part.sha256 for part in whole).encode()).hexdigest(), path=folder)

    @property
    def rows_name(self) -> str:
        """Name the row file, or the folder where all of them were read."""
        return super().rows_name if self.path is None else self.path.name

    def remarks(self, settings: Mapping[str, Any] | None = None) -> list[str]:
        """Return the base's, and whether images or videos alone are scored."""
        alone = "images" if all(item["kind"] == "image" for row in self.rows for item in row.media) else "videos"
        notes = [] if self.path is not None else [f"{alone} alone: published rows are of images and videos together"]
        return [*super().remarks(settings), *notes]

    def identity(self) -> dict[str, Any]:
        """Return the base's, with the folder for a file where all of its row files were read."""
        return {**super().identity(), **({} if self.path is None else {"file": str(self.path)})}

    @classmethod
    def read_rows(cls, file: Path) -> Iterator[Row]:
        """Yield the questions of a row file, named by the file and their number in it, from 0."""
        name = _part(file) or file.stem
        for number, (where, data) in enumerate(records(file, cls.columns, cls.title)):
            yield _row(data, where, f"{name}_{number}")

    def official_text(self, row: Row) -> str:
        """Return the question with its options; pictures are at their places, a video is before all of it."""
        options = "\n".join(f"{x}: {option}" for x, option in zip(CHOICE_LETTERS, row.options or (), strict=False))
        question = row.question if self.harness == "easi" else row.question.strip()
        asked = f"Question: {question}\nOptions:\n{options}\n{LAST_SENTENCE}"
        if row.media[0]["kind"] == "video":
            return f"{VIDEO_SENTENCE}\n{asked}"
        num_images = len(row.media)
        return placed(asked if PLACE in asked else f"{PLACE * num_images}\n{asked}", num_images)

    def read_answer(self, row: Row, answer: str) -> str | None:
        """Return the letter that the harness reads."""
        if self.harness == "easi":
            return easi_letter(answer) or None
        return official_letter(answer, CHOICE_LETTERS[: len(row.options or ())]) or None

    def groups(self, row: Row) -> Mapping[str, Sequence[str]]:
        """Return what is shown, and the data set that the question comes from."""
        kinds = {item["kind"] for item in row.media}
        shown = "video" if "video" in kinds else "image" if len(row.media) == 1 else "several images"
        return {"shown": (shown,), "dataset": (row.extra["dataset"],)}


def _part(file: Path) -> str:
    """Return which part of SITE-Bench a row file is, with its shard: "image_test", or "" for another file."""
    for name in (file.stem, f"{file.parent.name}_{file.stem}"):
        if name.startswith(("image_test", "video_test")):
            return name
    return ""


def _row(data: dict[str, Any], where: str, name: str) -> Row:
    options, answer, shown = data["options"], data["answer"], data["visual"]
    hint = "compare with a row of SITE-Bench"
    for key in ("question", "category", "dataset"):
        if not isinstance(data[key], str) or not data[key].strip():
            raise DataError(f"{where}: {key}={data[key]!r}: must be a text", hint)
    if not isinstance(options, list | tuple) or len(options) < 2:
        raise DataError(f"{where}: options={options!r}: must be a list of at least 2", hint)
    letters = CHOICE_LETTERS[: len(options)]
    if not isinstance(answer, str) or len(answer) != 1 or answer not in letters:
        raise DataError(f"{where}: answer={answer!r}: must be a letter of {letters}", hint)
    paths = [shown] if isinstance(shown, str) else shown
    if not isinstance(paths, list | tuple) or not paths or not all(isinstance(path, str) and path for path in paths):
        raise DataError(f"{where}: visual={shown!r}: must be a list of paths", hint)
    words = [str(option) for option in options]
    media = [("image" if Path(path).suffix.lower() in _IMAGES else "video", path) for path in paths]
    return question_row(
        name,
        data["question"],
        words[letters.index(answer)],
        media,
        dataset="site",
        question_type=data["category"],
        options=words,
        ground_truth=answer,
        extra={"dataset": data["dataset"]},
    )
