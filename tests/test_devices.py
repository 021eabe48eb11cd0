"""GPUs are counted as CUDA would show them, from what nvidia-smi, NVML or the driver's folder say."""

import json
import shutil
import subprocess
import sys

import pytest

from vsgrpo import devices
from vsgrpo.devices import Gpu, bfloat16_speedup, chosen, visible_gpus
from vsgrpo.errors import SetupError

EIGHT = [Gpu("H100", f"GPU-{i}{i}aa-0000", 80 << 30) for i in range(8)]


def tool(folder, *lines, code=0):
    """Write an nvidia-smi that prints `lines`; return its folder."""
    folder.mkdir(exist_ok=True)
    text = "\n".join(lines)
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
    (folder / "nvidia-smi").chmod(0o755)
    return folder


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine without any trace of a GPU."""
    monkeypatch.setenv("PATH", "/bin:/usr/bin" if shutil.which("nvidia-smi") is None else str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.setattr(devices, "DRIVER_FOLDER", tmp_path / "gpus")
    monkeypatch.setattr(devices, "NVML", "libno-such-library.so")
    devices._ask_nvml.cache_clear()
    yield monkeypatch
    devices._ask_nvml.cache_clear()


@pytest.mark.parametrize(
    ("value", "places"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("", []),
        (" ", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("none", []),
        ("0", [0]),
        ("3,1", [3, 1]),
        (" 2 , 5", [2, 5]),
        ("0,1,8,2", [0, 1]),  # the first entry that names no GPU ends the list
        ("0,-1,1", [0]),
        ("1,1", []),  # a repeated one hides all
        ("2gpu,3", [2, 3]),  # numbers are read as far as they go
        ("GPU-33aa-0000", [3]),
        ("GPU-33", [3]),  # a beginning that is the only one
        ("GPU-", []),
        ("GPU-55aa,GPU-00aa,GPU-99", [5, 0]),
        ("GPU-55aa,GPU-55", []),
        ("7,GPU-00aa", [7, 0]),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(value, places):
    environment = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    assert chosen(EIGHT, environment) == [EIGHT[place] for place in places]


def test_parts_of_a_gpu_are_one_device_of_a_process():
    assert len(chosen(EIGHT, {"CUDA_VISIBLE_DEVICES": "MIG-1,MIG-2"})) == 1
    assert chosen([], {"CUDA_VISIBLE_DEVICES": "MIG-1"}) == []


def test_nvidia_smi_names_them(bare, tmp_path):
    folder = tool(tmp_path / "bin", *(f"NVIDIA H100 80GB HBM3, GPU-{i}bcd-ef, 81559" for i in range(2)))
    bare.setenv("PATH", f"{folder}:/bin:/usr/bin")
    seen = visible_gpus()
    assert len(seen) == 2 and seen.describe() == "2 GPUs (NVIDIA H100 80GB HBM3)"
    assert seen.smallest_memory() == 81559 * 2**20
    bare.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus().describe() == "no GPU: CUDA_VISIBLE_DEVICES= hides 2"


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."], 9),
        (["No devices were found"], 6),
        (["No devices were found"], 0),
        ([], 0),
    ],
)
def test_a_driver_that_fails_is_no_gpu(bare, tmp_path, lines, code):
    bare.setenv("PATH", f"{tool(tmp_path / 'bin', *lines, code=code)}:/bin:/usr/bin")
    assert visible_gpus().describe().startswith("no GPU is seen (nvidia-smi lists none")


def test_the_drivers_folder_where_there_is_no_tool(bare, tmp_path):
    for i, bus in enumerate(("0000:01:00.0", "0000:02:00.0")):
        (tmp_path / "gpus" / bus).mkdir(parents=True)
        text = f"Model: \t\t NVIDIA A100-SXM4-40GB\nIRQ:   \t\t 35\nGPU UUID: \t GPU-{i}\nBus Location: \t {bus}\n"
        (tmp_path / "gpus" / bus / "information").write_text(text)
    assert visible_gpus().describe() == "2 GPUs (NVIDIA A100-SXM4-40GB)"
    assert visible_gpus().smallest_memory() is None
    bare.setenv("CUDA_VISIBLE_DEVICES", "GPU-1")
    assert [gpu.uuid for gpu in visible_gpus().gpus] == ["GPU-1"]


def test_sizes_of_unlike_gpus_are_not_guessed_from_numbers(bare, tmp_path):
    """CUDA counts the fastest first: its 0 may be the other one here."""
    folder = tool(tmp_path / "bin", "GeForce GT 710, GPU-aa, 2048", "GeForce RTX 4090, GPU-bb, 24564")
    bare.setenv("PATH", f"{folder}:/bin:/usr/bin")
    assert visible_gpus().smallest_memory() == 2048 * 2**20
    bare.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert len(visible_gpus()) == 1 and visible_gpus().smallest_memory() is None
    bare.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert visible_gpus().smallest_memory() == 2048 * 2**20
    bare.setenv("CUDA_VISIBLE_DEVICES", "GPU-bb")
    assert visible_gpus().smallest_memory() == 24564 * 2**20


LIBRARY = """
#include <string.h>
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) { *d = (void *)(long)(i + 1); return i == 1 ? 4 : 0; }
int nvmlDeviceGetName(void *d, char *s, unsigned n) { strncpy(s, "NVIDIA L4", n); return 0; }
int nvmlDeviceGetUUID(void *d, char *s, unsigned n) { strncpy(s, "GPU-x", n); s[4] = '0' + (long)d; return 0; }
int nvmlDeviceGetMemoryInfo(void *d, unsigned long long *m) { m[0] = 1024ull * (long)d; return 0; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to build a library with NVML's calls")
def test_nvml_where_there_is_no_tool(bare, tmp_path):
    """A library with the calls of nvidia-ml: the second GPU cannot be opened and is left out."""
    (tmp_path / "nvml.c").write_text(LIBRARY)
    library = tmp_path / "libnvml.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "nvml.c")], check=True)
    bare.setattr(devices, "NVML", str(library))
    seen = visible_gpus()
    assert seen.source == "NVML"
    assert seen.gpus == (Gpu("NVIDIA L4", "GPU-1", 1024), Gpu("NVIDIA L4", "GPU-3", 3072))


def test_counting_imports_no_torch():
    code = "import sys, json; from vsgrpo.devices import visible_gpus; visible_gpus(); "
    code += "print(json.dumps('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False


@pytest.mark.integration
def test_the_speed_in_bfloat16_is_measured_once_per_processor_and_torch(monkeypatch, tmp_path):
    monkeypatch.setenv("VSGRPO_CACHE_DIR", str(tmp_path))
    measured = bfloat16_speedup()
    assert 0 < measured < 100
    file = tmp_path / devices.SPEEDUP_NAME
    (key,) = json.loads(file.read_text())
    monkeypatch.setattr(sys, "executable", "/no/such/python")  # whoever measures again fails
    assert bfloat16_speedup() == measured
    for text in (json.dumps({f"{key}.1": measured}), "nonsense", "[1]"):  # another torch; a broken file
        file.write_text(text)
        with pytest.raises(SetupError, match="cannot be measured") as error:
            bfloat16_speedup()
        assert "model.dtype=float32" in (error.value.hint or "")
