"""Bring the weights of a step to servers by a folder that they see: a new name and a new folder each time.

New names because a server keeps what it has computed by the name of an adapter: under the same one it would go on with
the keys and values of older weights, without a word.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from vsgrpo.engine.client import Server
from vsgrpo.engine.connections import EngineError


class WeightSync:
    """The way of weights to servers.

    One process of a run, the leader, writes and loads (`bring`); all of them then ask for these weights (`follow`), and
    any of them gives them back to a server that was started anew.

    Args:
        servers: of this process.
        folder: that the servers see under the same name.
        run: part of all names, of this start of the run alone.
        kind: "lora" or "disk".
    """

    def __init__(self, servers: Sequence[Server], folder: Path, run: str, kind: str) -> None:
        self._servers, self._folder, self._run, self._kind = list(servers), folder, run, kind
        self.name: str | None = None
        """Of the weights that the servers have, None before the first."""

    def clear(self, owner: str) -> None:
        """Remove what earlier starts of the same run have left; `owner` is how all their names begin."""
        for left in self._folder.glob(f"{owner}-*"):
            if re.fullmatch(rf"{re.escape(owner)}-[0-9a-f]+-\d+", left.name):
                shutil.rmtree(left, ignore_errors=True)

    def bring(self, step: int, write: Callable[[Path], None]) -> str:
        """Write weights, load them into all servers, and drop those before; return their name.

        Args:
            step: that the weights are of.
            write: writes a model folder, or an adapter's, of that name.

        Raises:
            EngineError: a server cannot load them.
            OSError: they cannot be written.
        """
        name, before = f"{self._run}-{step}", self.name
        write(self._folder / name)
        for server in self._servers:
            server.patiently(partial(self._load, server, name))
        if before is not None and before != name:
            self._drop(before)
        return name

    def follow(self, name: str) -> None:
        """Ask for these weights from now on."""
        self.name = name
        for server in self._servers:
            if self._kind == "lora":
                server.weights = name
            else:
                server.version = name
            server.restore = partial(self._load, server, name)

    def close(self) -> None:
        """Take the weights away from servers and disk, at the end; servers that are gone are left alone."""
        if self.name is not None:
            self._drop(self.name)

    def _load(self, server: Server, name: str) -> None:
        folder = str((self._folder / name).resolve())
        if self._kind == "lora":
            server.add_adapter(name, folder)
        elif server.weight_version() != name:  # else another process has brought them back already
            server.reload_weights(folder, name)

    def _drop(self, name: str) -> None:
        for server in self._servers if self._kind == "lora" else ():
            try:
                server.drop_adapter(name)
            except EngineError as error:
                if error.kind not in ("down", "slow"):
                    raise
        shutil.rmtree(self._folder / name, ignore_errors=True)
