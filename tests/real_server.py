"""A real vLLM server for tests marked `vllm`: started, killed and started again at one address by `vsgrpo serve`."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

START_LIMIT_S = 240


class RealServer:
    """A server of a model folder, in a process group of its own.

    Args:
        folder: of the model.
        log: file that its output is appended to.
        words: further KEY=VALUE of `vsgrpo serve`.
    """

    def __init__(self, folder: Path, log: Path, *words: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.log, self.words = folder, log, words
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> None:
        """Start it, and wait until it answers."""
        words = [f"model={self.folder}", "model.dtype=float32", f"serve.port={self.port}", "serve.max_model_len=2048"]
        own = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        command = ["nice", "-n", "5", sys.executable, "-m", "vsgrpo.cli", "serve", *words, *self.words]
        with self.log.open("ab") as stream:
            self._process = subprocess.Popen(
                command, stdout=stream, stderr=stream, start_new_session=True, env={**os.environ, **own}
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until it answers."""
        end = time.monotonic() + START_LIMIT_S
        while not self.answers():
            assert self._process is not None
            assert self._process.poll() is None, f"the server ended:\n{self.tail()}"
            assert time.monotonic() < end, f"the server did not start:\n{self.tail()}"
            time.sleep(0.5)

    def answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
            return answer.status == 200
        return False

    def kill(self) -> None:
        """Kill all its processes at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
