"""Tab completion: the scripts for the shells, and what a line can go on with.

The scripts call `vsgrpo` with VSGRPO_COMPLETE set; it prints one candidate a line. Keys and values come from the text
of the YAML files; the configuration itself is imported only for the values of a key that is typed in full.
"""

from __future__ import annotations

import os
import re
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import typer

from vsgrpo.commands.app import app
from vsgrpo.config.yaml_files import command_of, config_dir, config_groups, entries, group_file

VARIABLE = "VSGRPO_COMPLETE"
METHODS = ("grpo", "sft", "dpo")
_ROOTS = {
    **dict.fromkeys(("train", "doctor", "check-data", "cache-videos"), "train"),
    "eval": "eval",
    "ask": "eval",
    "serve": "serve",
    "build-data": "build_data",
    "build-cot": "build_cot",
}
"""Command -> file of its keys."""
_SHORT = {
    "train": ("data=", "output=", "model="),
    "doctor": ("data=", "output=", "model="),
    "check-data": ("model=",),
    "cache-videos": ("data=", "model="),
    "eval": ("model=", "output=", "suite="),
    "ask": ("model=", "video=", "image=", "prompt="),
    "serve": ("model=",),
    "build-data": ("output=",),
    "build-cot": ("data=", "output="),
    "import-data": (
        "output=",
        "videos=",
        "images=",
        "maps=",
        "dataset=",
        "format=",
        "data.dev_fraction=",
        "data.allow_val_safe=",
        "data.keep_out=",
    ),
    "export-data": (
        *("output=", "method=", "prompt=", "prompt.show_options=", "frames=", "media="),
        *("data.split=", "data.allow_val_safe=", "data.keep_out=", "run.seed="),
    ),
    "merge": ("output=",),
    "report": ("output=",),
    "score": (
        *(
            "benchmark=",
            "benchmark.path=",
            "benchmark.split=",
            "benchmark.subset=",
            "benchmark.harness=",
            "benchmark.tasks=",
            "field=",
            "model.path=",
        ),
        *("prompt.mode=", "prompt.wording=", "prompt.show_options="),
    ),
    "inspect": ("type=", "scene=", "id=", "split=", "score=", "step=", "rows=", "output="),
    "verify-geometry": ("meta=", "questions="),
}
"""Command -> words that are no keys of a YAML file."""
_WORDS = {
    "import-data": {"format": ("vsibench", "images")},
    "export-data": {"media": ("link", "none"), "data.split": ("train", "dev")},
    "inspect": {"split": ("train", "dev", "test"), "score": ("worst", "best")},
}

_BASH = f"""# vsgrpo completion for bash: eval "$(vsgrpo completion bash)" in ~/.bashrc
_vsgrpo() {{
    local IFS=$'\\n'
    local line="${{COMP_LINE:0:COMP_POINT}}"
    COMPREPLY=($({VARIABLE}="$line" COMP_WORDBREAKS="$COMP_WORDBREAKS" "${{COMP_WORDS[0]}}" 2>/dev/null))
}}
complete -o nospace -o default -F _vsgrpo vsgrpo
"""
_ZSH = f"""#compdef vsgrpo
# vsgrpo completion for zsh: eval "$(vsgrpo completion zsh)" in ~/.zshrc, below compinit
_vsgrpo() {{
    local -a found open
    found=("${{(@f)$({VARIABLE}="${{(j: :)words[1,CURRENT-1]}} $PREFIX" COMP_WORDBREAKS= ${{words[1]}} 2>/dev/null)}}")
    open=(${{(M)found:#*=}})
    found=(${{(M)found:#* }})
    found=(${{found% }})
    (( $#open )) && compadd -S '' -- $open
    (( $#found )) && compadd -- $found
    if (( ! $#open && ! $#found )); then
        compset -P '*='
        _files
    fi
}}
(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit; }}
compdef _vsgrpo vsgrpo
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH}


def complete_line() -> str:
    """Return the candidates for the line in the environment, one a line: what the shell puts for the last word.

    A candidate ends with a space where the word is whole. Bash breaks words at `=` and `:` (COMP_WORDBREAKS) and gets
    what follows the last of them.
    """
    line = os.environ[VARIABLE]
    before, current = re.split(r"\s+", line.lstrip())[1:-1], re.split(r"\s", line)[-1]
    breaks = [sign for sign in "=:" if sign in os.environ.get("COMP_WORDBREAKS", "")]
    cut = max((current.rfind(sign) + 1 for sign in breaks), default=0)
    found = [word for word in candidates(before, current) if word.startswith(current)]
    return "".join(f"{word[cut:]}{'' if word.endswith('=') else ' '}\n" for word in found)


def candidates(before: list[str], current: str) -> list[str]:
    """Return the words that may stand where `current` is begun; `before` are those between it and `vsgrpo`."""
    group: Any = typer.main.get_command(app)
    name = next((word for word in before if not word.startswith("-")), None)
    if current.startswith("-"):
        command = group if name is None else group.commands.get(name)
        return [] if command is None else [o for p in command.params for o in p.opts if o.startswith("-")]
    if name is None:
        return [name for name, command in group.commands.items() if not command.hidden]
    if before[-1] in ("--config-dir", "--limit", "--keep-gib", "--dtype"):
        return []  # the shell completes files
    words = [word for word in before[before.index(name) + 1 :] if not word.startswith("-")]
    key, equals, _ = current.partition("=")
    extra = _extra_dir(before)
    if equals:
        return [f"{key}={value}" for value in _values(name, words, key, extra)]
    return _words(name, words, extra)


def _extra_dir(before: list[str]) -> Path | None:
    """Return the folder of --config-dir on the line, None where there is none."""
    flag = "--config-dir"
    given = [before[i + 1] for i, word in enumerate(before[:-1]) if word == flag]
    given += [word.partition("=")[2] for word in before if word.startswith(f"{flag}=")]
    return Path(given[-1]).expanduser() if given else None


def _words(name: str, words: list[str], extra: Path | None) -> list[str]:
    """Return methods, shells, groups, keys and shorthands that a command takes next."""
    if name == "completion":
        return list(SCRIPTS)
    if name == "configs":
        return list(config_groups(extra))
    if name == "train" and not words:
        return list(METHODS)
    found = list(_SHORT.get(name, ()))
    if (root := _ROOTS.get(name)) is not None:
        found += _keys(root, _chosen(name, words), extra)
    if name == "doctor" and not words:
        found = [*METHODS, *found]
    return list(dict.fromkeys(found))


def _chosen(name: str, words: list[str]) -> dict[str, str]:
    """Return the options of groups that a line chooses, the method as `trainer`."""
    chosen = dict(word.split("=", 1) for word in words if "=" in word)
    if name in ("train", "doctor") and words and words[0] in METHODS:
        chosen["trainer"] = words[0]
    return chosen


def _keys(root: str, chosen: dict[str, str], extra: Path | None) -> list[str]:
    """Return the keys of a command as `SECTION.NAME=`, and its groups as `GROUP=`."""
    file, groups = config_dir() / f"{root}.yaml", config_groups(extra)
    keys = [entry.key for entry in entries(file)]
    defaults = re.findall(r"^  - (?:optional )?(\w+): (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    for group, default in defaults:
        if group != "trainer":
            keys.append(group)
        option = chosen.get(group, default)
        named = group_file(group, option if option in groups.get(group, []) else default, extra)
        keys += [f"{group}.{entry.key}" for entry in entries(named)] if named is not None else []
    return [f"{key}=" for key in dict.fromkeys(keys)]


def _values(name: str, words: list[str], key: str, extra: Path | None) -> list[str]:
    """Return the values of a key: options of a group, choices and switches; [] where the shell completes files."""
    if (listed := _WORDS.get(name, {}).get(key)) is not None:
        return list(listed)
    root, groups = _ROOTS.get(name), config_groups(extra)
    if root is None:
        return groups["benchmark"] if (name, key) == ("score", "benchmark") else []
    if key == "experiment":
        return [option for option in groups[key] if _is_for(name, words, option, extra)]
    if key in groups and not (key == "model" and root in ("eval", "serve")):
        return groups[key]
    return _choices(root, _chosen(name, words), key) if "." in key else []


def _is_for(name: str, words: list[str], option: str, extra: Path | None) -> bool:
    """Return whether an experiment is made for this command and method; one that does not say is."""
    file = group_file("experiment", option, extra)
    made_for = (None if file is None else command_of(file)) or ""
    if not made_for:
        return True
    command, method = made_for.split()[1], made_for.split()[2]
    wanted = _chosen(name, words).get("trainer")
    return command.replace("-", "_") == _ROOTS[name] and (command != "train" or wanted in (None, method))


def _choices(root: str, chosen: dict[str, str], key: str) -> list[str]:
    """Return the words that the type of a key allows."""
    from vsgrpo.config.keys import field_types
    from vsgrpo.config.reference import group_class
    from vsgrpo.config.roots import ROOTS
    from vsgrpo.rules import Choice, rules_of

    section, _, rest = key.partition(".")
    owner = field_types(ROOTS[root]).get(section)
    if section == "trainer":
        owner = group_class("trainer", chosen.get("trainer", "grpo"))
    *inner, name = rest.split(".")
    for part in inner:
        owner = field_types(owner).get(part) if isinstance(owner, type) and is_dataclass(owner) else None
    if not isinstance(owner, type) or not is_dataclass(owner):
        return []
    rule = rules_of(owner).get(name)
    if isinstance(rule, Choice):
        return list(rule.choices)
    return ["true", "false"] if field_types(owner).get(name) is bool else []
