"""The model hub: whether it can be asked, and models and data sets that are fetched from it.

A machine without a network is told so within seconds: the hub's library tries each file six times first. HF_ENDPOINT
names another hub, HF_TOKEN or `hf auth login` says who asks, HF_HUB_OFFLINE=1 forbids to ask.
"""

from __future__ import annotations

import os
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vsgrpo.errors import DataError, SetupError, VsgrpoError, first_line
from vsgrpo.terminal import can_draw

REACH_S = 5.0
"""Seconds in which the hub must answer a connection."""
OTHER_FORMATS = ["*.gguf", "*.onnx", "*.msgpack", "*.h5", "*.ot", "original/*"]
"""Weights of a model repository that are not read here."""


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE forbids to ask the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "0").upper() not in ("0", "", "FALSE", "NO", "OFF")


def endpoint() -> str:
    """Return the address of the hub."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def why_unreachable() -> str | None:
    """Return why the hub cannot be asked from here, None where it, or the proxy to it, answers a connection."""
    if is_offline():
        return "HF_HUB_OFFLINE=1 forbids to ask the hub"
    place = urlsplit(endpoint())
    proxy = urllib.request.getproxies().get(place.scheme)
    if proxy and not urllib.request.proxy_bypass(place.hostname or ""):
        place = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = place.port or (80 if place.scheme == "http" else 443)
    try:
        socket.create_connection((place.hostname or "", port), timeout=REACH_S).close()
    except (OSError, ValueError) as error:
        return f"{place.hostname}:{port} cannot be reached ({first_line(error)})"
    return None


@contextmanager
def asking(what: str, kind: str) -> Iterator[None]:
    """Turn what the hub refuses into one error.

    Args:
        what: stands first in messages, such as "model.path=ORG/NAME".
        kind: "model" or "data set".

    Raises:
        DataError: the hub has no such repository, or not for this token.
        SetupError: no token, no right, or no answer.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    if not can_draw(sys.stderr):
        disable_progress_bars()
    errors: Any = (HfHubHTTPError, HfHubHTTPError.__mro__[1], OSError)  # the second: of the HTTP library
    log_in = "`hf auth login`, or set HF_TOKEN"
    try:
        yield
    except VsgrpoError:
        raise
    except GatedRepoError as error:
        hint = "accept its terms on the hub's page, then log in: " + log_in
        raise DataError(f"{what}: the hub shows this {kind} to those who accepted its terms only", hint) from error
    except RepositoryNotFoundError as error:
        hint = f"check the name; a private one needs a token: {log_in}"
        raise DataError(f"{what}: nothing of this name here, and no such {kind} on the hub", hint) from error
    except LocalTokenNotFoundError as error:
        raise SetupError(f"{what}: the hub asks who you are, and there is no token", log_in) from error
    except errors as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401:
            raise SetupError(f"{what}: the hub does not know this token, or got none", log_in) from error
        if status == 403:
            hint = "log in as somebody who may, with a token that can write"
            raise SetupError(f"{what}: this token has no right to do that", hint) from error
        raise SetupError(f"{what}: the hub cannot be asked ({first_line(error)})", "try again later") from error


def fetch(
    name: str,
    kind: str,
    what: str,
    hint: str,
    *,
    folder: Path | None = None,
    offline: bool = False,
    only: list[str] | None = None,
) -> Path:
    """Return a folder with the files of a repository; what was fetched before serves where the hub cannot be asked.

    Args:
        name: OWNER/NAME.
        kind: "model" or "data set".
        what: stands first in messages.
        hint: what to do without a network.
        folder: where the files go; None: the hub's cache.
        offline: do not ask the hub.
        only: patterns of the files that are needed; None: all.

    Raises:
        DataError, SetupError: as `asking`; not here, and the hub cannot be asked.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    reason = "model.offline=true" if offline else why_unreachable()
    if reason is not None and folder is not None:
        if folder.is_dir():
            return folder
        raise SetupError(f"{what}: not here, and {reason}", hint)
    options: dict[str, Any] = {"repo_type": "dataset"} if kind == "data set" else {"ignore_patterns": OTHER_FORMATS}
    options |= {"allow_patterns": only} if only is not None else {}
    with asking(what, kind):
        try:
            found = snapshot_download(
                name, local_dir=folder, max_workers=4, local_files_only=reason is not None, **options
            )
        except LocalEntryNotFoundError as error:
            if reason is None:
                raise
            raise SetupError(f"{what}: not here, and {reason}", hint) from error
    return Path(str(found))


def is_cached(name: str) -> bool:
    """Return whether config.json of a model is in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)
