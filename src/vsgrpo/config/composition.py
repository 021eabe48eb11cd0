"""Compose YAML files by Hydra's loader, without what Hydra adds for programs that it runs itself.

Its own section `hydra` and the search for plugins are most of the time that `hydra.compose` takes, which also knows
folders behind the packaged one alone (hydra.searchpath) and has global state.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.structured_config_source import StructuredConfigSource
from hydra._internal.defaults_list import create_defaults_list
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import OmegaConf

_PARSED: dict[tuple[str, str, str], ConfigResult] = {}


class YamlFolder(FileConfigSource):
    """A folder of YAML. A text is parsed once in a process: a sweep composes a config for each run."""

    @staticmethod
    def scheme() -> str:
        """Return what stands before `://` in the search path."""
        return "yaml"

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the parsed file."""
        name = self._normalize_file_name(config_path)
        key = (self.path, name, Path(self.path, name).read_text(encoding="utf-8"))
        if key not in _PARSED:
            _PARSED[key] = super().load_config(config_path)
        return copy.deepcopy(_PARSED[key])


def compose(root: str, overrides: Sequence[str], folders: Sequence[Path]) -> Any:
    """Return the composition of ROOT.yaml; a file of an earlier folder shadows one of the same name in a later.

    Raises:
        HydraException, OmegaConfBaseException, ValueError: of Hydra.
    """
    version.setbase("1.3")
    for source in (YamlFolder, StructuredConfigSource):
        SourcesRegistry.instance().register(source)
    search_path = ConfigSearchPathImpl()
    for folder in folders:
        search_path.append(folder.name, f"yaml://{folder.resolve()}")
    search_path.append("schema", "structured://")  # Hydra wants one behind the others; nothing is in it
    loader = ConfigLoaderImpl(search_path)
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    loader.validate_sweep_overrides_legal(parsed, RunMode.RUN, from_shell=False)
    files = CachingConfigRepository(loader.repository)
    chosen = create_defaults_list(files, root, parsed, prepend_hydra=False, skip_missing=False)
    composed = loader._compose_config_from_defaults_list(chosen.defaults, files)
    OmegaConf.set_struct(composed, True)
    loader._apply_overrides_to_config(chosen.config_overrides, composed)
    return composed
