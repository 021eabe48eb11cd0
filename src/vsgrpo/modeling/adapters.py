"""The folder of a saved adapter: its files, the adapters before it, and the base it was trained on. Reads no adapter.

An adapter is a difference. On other weights of the same shapes it loads and answers, and its scores are of a model that
nobody trained; its lineage (`training_manifest.json`) then names the wrong base too. So base.json beside it records the
identity of its base, which is compared at every load.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import is_zipfile

import torch
from transformers.utils.hub import cached_file

from vsgrpo.errors import DataError
from vsgrpo.families import ADAPTER_CONFIG, FAMILIES
from vsgrpo.files import file_sha256
from vsgrpo.records import read_record
from vsgrpo.terminal import counted

logger = logging.getLogger(__name__)

ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""Files of an adapter's tensors, in the order in which they are looked for."""
EARLIER_ADAPTERS = "earlier_adapters"
"""Sub-folder of a saved adapter: adapters merged into its base before it was trained, named 0, 1, ..."""
_PREFIX = "base_model.model."
"""Prefix of the names in an adapter's file."""
BASE_FILE = "base.json"
SCHEMA_VERSION = 1
_RECORD = {"base": str, "weights": str, "config": str, "earlier_adapters": list}
WHOLE_BYTES = 1 << 20
"""Tensors up to this size are hashed whole."""
NUM_BLOCKS, BLOCK_BYTES = 16, 1 << 12
"""Hashed blocks of a larger tensor and bytes of each; evenly spaced, the first and last bytes are among them."""
COVERS = (
    f"weights: sha256 over name, type and shape of every tensor, all bytes of those up to {WHOLE_BYTES} bytes and "
    f"{NUM_BLOCKS} evenly spaced blocks of {BLOCK_BYTES} bytes of larger ones, whatever files they are in; config: "
    "sha256 over the values of config.json that decide what these weights compute"
)
"""Written into base.json: a change of a large tensor between the blocks is not seen."""
_SINGLE = ("model.safetensors", "pytorch_model.bin")
_SAFE_HEADER_LENGTH = 8


def adapter_file(folder: Path) -> Path:
    """Return the file that holds an adapter's tensors.

    Raises:
        DataError: there is none.
    """
    for name in ADAPTER_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: no {ADAPTER_WEIGHTS[0]} in this folder", hint="copy the adapter again, with all files")


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Return adapter_config.json as it stands.

    Raises:
        DataError: missing, or not a JSON object.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise DataError(f"{folder}: no {ADAPTER_CONFIG} in this folder", hint="give the folder of an adapter")
    return read_record(path, {}, "copy the adapter again")


def adapter_hash(folder: Path) -> str:
    """Return the sha256 of an adapter's tensors and of its adapter_config.json, the name of the base aside."""
    config = read_adapter_config(folder)
    config.pop("base_model_name_or_path", None)
    text = f"{file_sha256(adapter_file(folder))} {json.dumps(config, sort_keys=True)}"
    return sha256(text.encode()).hexdigest()


def adapter_chain(path: str | Path, adapter: str | Path | None = None) -> list[Path]:
    """Return the adapters of a model in the order in which they apply: those of `path`, then `adapter` with its own.

    Raises:
        DataError: `earlier_adapters` of a folder has gaps; no adapter there; `adapter` was trained after others than
            those of `path`.
    """
    is_adapter = (Path(path) / ADAPTER_CONFIG).is_file() and not (Path(path) / "config.json").is_file()
    chain = _with_earlier(Path(path)) if is_adapter else []
    if adapter is None:
        return chain
    read_adapter_config(Path(adapter))
    own = _with_earlier(Path(adapter))
    if not chain:
        return own
    if [adapter_hash(folder) for folder in own[:-1]] != [adapter_hash(folder) for folder in chain]:
        raise DataError(
            f"model.adapter={adapter}: was not trained on model.path={path}, which is an adapter itself",
            hint="leave model.adapter out, or give the plain model that it was trained on as model.path",
        )
    return [*chain, own[-1]]


def _with_earlier(folder: Path) -> list[Path]:
    """List the adapters of a saved adapter folder in the order they apply, itself last."""
    found = {path.name: path for path in (folder / EARLIER_ADAPTERS).glob("*/")}
    names = [str(number) for number in range(len(found))]
    if found.keys() != set(names):
        raise DataError(
            f"{folder / EARLIER_ADAPTERS}: holds {', '.join(sorted(found))}, needed are 0, 1, ... without gaps",
            hint="copy the adapter's whole folder again",
        )
    return [*(found[name] for name in names), folder]


@dataclass(frozen=True)
class BaseIdentity:
    """Hashes of a full model; `COVERS` says of what."""

    weights: str
    config: str


def base_identity(base: str, config: Any) -> BaseIdentity:
    """Hash the weights of a full model and what its config makes of them.

    Args:
        base: folder, or hub id that is in the cache.
        config: of the loaded model.
    """
    digest = sha256()
    for name, kind, shape, content in sorted(_tensors(base), key=lambda entry: entry[0]):
        digest.update(f"{name} {kind} {list(shape)} {content}\n".encode())
    return BaseIdentity(digest.hexdigest(), config_hash(config))


def config_hash(config: Any) -> str:
    """Return the sha256 of the `Family.computing_values`, as the library reads them off config.json."""
    values, names = config.to_dict(), FAMILIES[config.model_type].computing_values
    chosen = {part: {key: (values[part] if part else values).get(key) for key in keys} for part, keys in names.items()}
    return sha256(json.dumps(chosen, sort_keys=True, default=str).encode()).hexdigest()


def write_base_record(folder: Path, base: str, identity: BaseIdentity, earlier: Sequence[str]) -> None:
    """Write base.json into an adapter folder.

    Args:
        folder: of the adapter.
        base: folder or hub id, for messages.
        identity: of the base.
        earlier: `adapter_hash` of the adapters merged into the base before this one was trained, in order.
    """
    record = {
        "schema_version": SCHEMA_VERSION,
        "base": base,
        "weights": identity.weights,
        "config": identity.config,
        "earlier_adapters": list(earlier),
        "covers": COVERS,
    }
    (folder / BASE_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def check_chain(chain: Sequence[Path], base: str, identity: BaseIdentity) -> list[str]:
    """Refuse adapters that were trained on another base or after other adapters; return their `adapter_hash`es.

    One line is logged where the last adapter records no base: it was saved by another program or an earlier version.

    Args:
        chain: adapter folders in the order in which they apply.
        base: folder or hub id of the base.
        identity: of that base.

    Raises:
        DataError: the base or an earlier adapter is another one, or a base.json is broken.
    """
    hashes = [adapter_hash(folder) for folder in chain]
    for number, folder in enumerate(chain):
        record = _read_record(folder)
        if record is not None:
            _compare(folder, record, hashes[:number], base, identity)
        elif number == len(chain) - 1:
            logger.warning(
                "%s: no %s in it: not checked whether %s is the model it was trained on", folder, BASE_FILE, base
            )
    return hashes


def _compare(
    folder: Path, record: Mapping[str, Any], earlier: Sequence[str], base: str, identity: BaseIdentity
) -> None:
    if (record["weights"], record["config"]) != (identity.weights, identity.config):
        what = "weights" if record["weights"] != identity.weights else "values in config.json"
        raise DataError(
            f"{folder}: trained on {record['base']}; {base} has other {what} than that had",
            hint=f"give a copy of the model it was trained on: model=COPY model.adapter={folder}; or delete "
            f"{BASE_FILE} in it to use it on these weights all the same",
        )
    if record["earlier_adapters"] != list(earlier):
        raise DataError(
            f"{folder}: trained on a base with "
            f"{counted(len(record['earlier_adapters']), 'earlier adapter')} in it; found here: "
            f"{len(earlier)}{' others' if len(earlier) == len(record['earlier_adapters']) else ''}",
            hint=f"copy the whole folder again, {EARLIER_ADAPTERS}/ included",
        )


def _read_record(adapter: Path) -> dict[str, Any] | None:
    path = adapter / BASE_FILE
    if not path.is_file():
        return None
    return read_record(path, _RECORD, "copy the adapter again, or update vsgrpo", schema_version=SCHEMA_VERSION)


def weight_files(base: str) -> list[Path]:
    """Return the files that `from_pretrained` reads the weights of a folder or cached hub id from.

    Raises:
        DataError: there are none.
    """
    for name in _SINGLE:
        if (found := _find(base, name)) is not None:
            return [found]
        if (index := _find(base, name + ".index.json")) is not None:
            parts = read_record(index, {"weight_map": {str: str}}, "copy or download the folder again")["weight_map"]
            files = [_find(base, part) for part in sorted(set(parts.values()))]
            return [file for file in files if file is not None]
    raise DataError(f"model.path={base}: no {_SINGLE[0]} in this folder", hint="copy or download the folder again")


def _find(base: str, name: str) -> Path | None:
    if Path(base).is_dir():
        return Path(base) / name if (Path(base) / name).is_file() else None
    found = cached_file(
        base,
        name,
        local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


def _tensors(base: str) -> Iterator[tuple[str, str, Sequence[int], str]]:
    """Yield name, type, shape and the sha256 of (blocks of) the bytes of every tensor."""
    for file in weight_files(base):
        if file.suffix == ".safetensors":
            with file.open("rb") as stream:
                yield from _safe_tensors(stream)
        else:
            mapped = is_zipfile(file)  # torch before 1.6 wrote another format, which cannot be mapped
            for name, tensor in torch.load(file, map_location="cpu", mmap=mapped, weights_only=True).items():
                content = memoryview(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
                blocks = b"".join(content[start:end] for start, end in _blocks(len(content)))
                yield name, str(tensor.dtype), tuple(tensor.shape), sha256(blocks).hexdigest()


def _safe_tensors(stream: BinaryIO) -> Iterator[tuple[str, str, Sequence[int], str]]:
    """Source of the format: 8 bytes with the length of the header, the header as JSON, the bytes of all tensors."""
    length = int.from_bytes(stream.read(_SAFE_HEADER_LENGTH), "little")
    header = json.loads(stream.read(length))
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        digest = sha256()
        for start, stop in _blocks(end - begin):
            stream.seek(_SAFE_HEADER_LENGTH + length + begin + start)
            digest.update(stream.read(stop - start))
        yield name, entry["dtype"], entry["shape"], digest.hexdigest()


def _blocks(size: int) -> list[tuple[int, int]]:
    """Return (start, end) of the bytes of a tensor that are hashed."""
    if size <= WHOLE_BYTES:
        return [(0, size)]
    starts = [(size - BLOCK_BYTES) * i // (NUM_BLOCKS - 1) for i in range(NUM_BLOCKS)]
    return [(start, start + BLOCK_BYTES) for start in starts]


def has_older_names(names: Iterable[str]) -> bool:
    """Return whether tensors of an adapter have names from before transformers 4.52."""
    return any(todays_name(name) != name for name in names)


def todays_name(name: str) -> str:
    """Return the name that a tensor of an adapter has since transformers 4.52."""
    return _PREFIX + todays_module(name.removeprefix(_PREFIX)) if name.startswith(_PREFIX) else name


def todays_module(name: str) -> str:
    """Return the name that a module has since transformers 4.52.

    Source: its renaming in both Qwen2 families: `model` -> `model.language_model`, `visual` -> `model.visual`.
    """
    if name.startswith("visual."):
        return "model." + name
    return re.sub(r"^model\.(?!language_model\.|visual\.)", "model.language_model.", name)


def refuse_older_pattern(path: Path, pattern: str) -> None:
    """Refuse a pattern over layer names of transformers before 4.52, unless it reads the same today."""
    sample = "model.layers.0.self_attn.q_proj"
    if re.fullmatch(pattern, sample) and not re.fullmatch(pattern, todays_module(sample)):
        raise DataError(
            f"{path}: target_modules={pattern}: written for the layer names of transformers before 4.52",
            hint="write model.language_model.layers where it says model.layers, and model.visual for visual",
        )
