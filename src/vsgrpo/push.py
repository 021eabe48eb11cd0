"""`vsgrpo push RUN_DIR repo=ORG/NAME`: a trained model on the hub, with its card, lineage, settings and scores.

What is sent: the files of RUN_DIR/final, the run's config.yaml as training/config.yaml, and results.json of evaluations
inside the run folder. All in one commit: nobody sees half a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsgrpo import hub
from vsgrpo.data.manifest import TRAINING_MANIFEST_NAME
from vsgrpo.errors import ConfigError, DataError, SetupError
from vsgrpo.families import ADAPTER_CONFIG, HUB_ID, adapter_base, find_model
from vsgrpo.families.vision_record import VISION_FILE
from vsgrpo.records import read_record
from vsgrpo.terminal import counted

NEEDED = ("README.md", TRAINING_MANIFEST_NAME, VISION_FILE)
"""Files of a model folder, beside weights and processor, without which others would not know how to ask it."""
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
"""One of them is needed."""
LEFT_OUT = (".cache", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "training_args.bin")
"""Of a checkpoint: what a resume needs, and nobody else."""
_EXAMPLE = "for example: vsgrpo push runs/x repo=my-name/my-model"


@dataclass(frozen=True)
class PushReport:
    """What is or would be on the hub.

    Attributes:
        url: page of the model; None for a dry run.
        files: (place in the repository, file here, bytes).
    """

    repo: str
    private: bool
    url: str | None
    files: Sequence[tuple[str, Path, int]]

    def table(self) -> str:
        """Return the files with sizes, then where they are."""
        lines = [f"{size:>14,}  {name}" for name, _, size in self.files]
        total = sum(size for _, _, size in self.files)
        kind = "private" if self.private else "public"
        end = self.url or f"{self.repo} ({kind}): nothing was sent"
        return "\n".join(
            [*lines, f"{total:>14,}  bytes in {counted(len(lines), 'file')}", f"pushed: {end}" if self.url else end]
        )

    def to_json(self) -> dict[str, Any]:
        """Return repo, whether it is private, url and files."""
        files = [{"name": name, "path": str(path), "bytes": size} for name, path, size in self.files]
        return {"repo": self.repo, "private": self.private, "url": self.url, "files": files}


def push(
    folder: Path, repo: str, *, public: bool = False, overwrite: bool = False, dry_run: bool = False
) -> PushReport:
    """Send a run's final model, or a model folder, to the hub.

    Args:
        folder: of a run or a model.
        repo: OWNER/NAME; made where it is not there, private unless `public`.
        overwrite: send to a repository that holds a model; what is not sent again goes; its history stays.
        dry_run: list the files, ask nobody.

    Raises:
        ConfigError: `repo` is no name.
        DataError: no model, or a file of it is missing, or the repository holds a model.
        SetupError: no token, no right, or the hub cannot be reached.
    """
    if not HUB_ID.fullmatch(repo):
        raise ConfigError(f"repo={repo}: not OWNER/NAME", _EXAMPLE)
    files = list_files(folder)
    if dry_run:
        return PushReport(repo, not public, None, files)
    if (reason := hub.why_unreachable()) is not None:
        raise SetupError(f"repo={repo}: {reason}", "push from a machine with a network; --dry-run lists the files")
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    with hub.asking(f"repo={repo}", "model"):
        api.create_repo(repo, private=not public, exist_ok=True)
        there = {name for name in api.list_repo_files(repo) if name != ".gitattributes"}
        if there and not overwrite:
            hint = "choose another repo=OWNER/NAME, or --overwrite (its history keeps what was there)"
            raise DataError(f"repo={repo}: holds {counted(len(there), 'file')} already", hint)
        changes: list[Any] = [CommitOperationAdd(name, str(path)) for name, path, _ in files]
        changes += [CommitOperationDelete(name) for name in sorted(there - {name for name, _, _ in files})]
        commit = api.create_commit(repo, changes, commit_message="Model trained with vsgrpo")
    return PushReport(repo, not public, str(commit.repo_url), files)


def list_files(folder: Path) -> list[tuple[str, Path, int]]:
    """Return (place in the repository, file, bytes) of all that is sent of a run or a model folder.

    Raises:
        DataError: no model there, a file is missing, or an adapter whose base nobody else has.
    """
    model = folder / "final" if (folder / "final").is_dir() else folder
    if (folder / "config.yaml").is_file() and model == folder:
        raise DataError(f"{folder}: no final/ in this run", "finish the run (--resume), or give its RUN/checkpoint-N")
    find_model(str(model), key="push")
    missing = [name for name in NEEDED if not (model / name).is_file()]
    if not any(model.glob("*.safetensors")):
        missing.append("*.safetensors")
    if not any((model / name).is_file() for name in PROCESSORS):
        missing.append(PROCESSORS[0])
    if missing:
        hint = "push what vsgrpo wrote: RUN_DIR (its final/), RUN_DIR/checkpoint-N or the output of `vsgrpo merge`"
        raise DataError(f"{model}: missing: {', '.join(missing)}", hint)
    base = adapter_base(model)
    if (model / ADAPTER_CONFIG).is_file() and (base is None or not HUB_ID.fullmatch(base) or Path(base).exists()):
        hint = f"merge it: vsgrpo merge {model} output=DIR, then push DIR"
        raise DataError(f"{model}: an adapter on {base}, which is of this machine: nobody else could load it", hint)
    found = [(path.relative_to(model).as_posix(), path) for path in sorted(model.rglob("*")) if path.is_file()]
    found = [(name, path) for name, path in found if name.split("/")[0] not in LEFT_OUT]
    run = model.resolve().parent
    if (run / "config.yaml").is_file() and (run / "run.json").is_file():
        found.append(("training/config.yaml", run / "config.yaml"))
        for path in sorted(run.glob("*/results.json")):
            if _is_of(path, model):
                found.append((f"evaluations/{path.parent.name}/results.json", path))
    return [(name, path, path.stat().st_size) for name, path in found]


def _is_of(results: Path, model: Path) -> bool:
    """Return whether an evaluation is of this model."""
    told = read_record(results, {}, "run `vsgrpo eval` into this folder again").get("model") or {}
    name = told.get("adapter") or told.get("path")
    return bool(name) and Path(str(name)).resolve() == model.resolve()
