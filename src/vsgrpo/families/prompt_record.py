"""Prompts of the user's own, as prompt.json beside vision.json has them: a model is asked as it was trained.

`prompt.template` is a Jinja template over the row, `prompt.suffix` the text behind the question in place of the mode's
sentence. A value that is given counts, else what the model records; `none` is neither.
"""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vsgrpo.errors import ConfigError, DataError
from vsgrpo.families import adapter_base
from vsgrpo.records import read_record

PROMPT_FILE = "prompt.json"
PROMPT_SCHEMA = 1
NONE = "none"
VARIABLES = ("question", "options", "option_lines", "closing", "mode", "show_options", "question_type", "answer_kind")
VARIABLES += ("unit", "dataset", "scene_name", "media", "objects", "extra", "map_request")
"""What a template may ask for; never the answer."""
_MOST_BYTES = 1 << 20


def write_prompt(folder: Path, template: str | None, suffix: str | None) -> None:
    """Record the prompts of its own that a model was trained with; nothing where it had none."""
    if template is not None or suffix is not None:
        content = {"schema_version": PROMPT_SCHEMA, "template": template, "suffix": suffix}
        (folder / PROMPT_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_prompt(folder: Path) -> tuple[str | None, str | None] | None:
    """Return template and suffix of a model folder; None where it has no prompt.json.

    Raises:
        DataError: a broken file.
    """
    path = folder / PROMPT_FILE
    if not path.is_file():
        return None
    shape = {"template?": str, "suffix?": str}
    content = read_record(path, shape, "delete it to ask as without", schema_version=PROMPT_SCHEMA)
    return content.get("template"), content.get("suffix")


def find_prompt(*models: str | None) -> tuple[str | None, str | None]:
    """Return what the first of some models records, the adapter before its base; (None, None): none does.

    Raises:
        DataError: a broken file.
    """
    names = [name for name in models if name is not None]
    names += [base for name in names if (base := adapter_base(Path(name))) is not None]
    return next((found for name in names if (found := read_prompt(Path(name))) is not None), (None, None))


def with_own_prompt(config: Any) -> Any:
    """Return a configuration of train or eval whose prompt.template is the text of the template, not its file.

    Raises:
        ConfigError: no such file, a template that Jinja cannot read, or a suffix that the template leaves out.
        DataError: a broken prompt.json.
    """
    prompt = config.prompt
    template, suffix = find_prompt(config.model.adapter, config.model.path)
    if prompt.template is not None:
        template, suffix = _template_text(prompt.template), None  # a template is a prompt of its own
    if prompt.suffix is not None:
        suffix = None if prompt.suffix == NONE else prompt.suffix
    if template is not None:
        compiled(template)
        if prompt.suffix not in (None, NONE) and "closing" not in template:
            what = f"prompt.suffix={prompt.suffix}: the template does not use it"
            raise ConfigError(what, "write {{ closing }} into the template, or leave prompt.suffix out")
    return dataclasses.replace(config, prompt=dataclasses.replace(prompt, template=template, suffix=suffix))


def _template_text(value: str) -> str | None:
    """Return the text of a template: of the file that a value names, or the value itself where it is a template."""
    if value == NONE:
        return None
    if "{{" in value or "{%" in value:  # of config.yaml of a run
        return value
    path = Path(value).expanduser()
    if not path.is_file():
        raise ConfigError(f"prompt.template={value}: no such file", "give a file with a Jinja template: {{ question }}")
    if path.stat().st_size > _MOST_BYTES:
        raise ConfigError(f"prompt.template={value}: larger than 1 MiB", "give a template, not rows")
    try:
        text = path.read_text(encoding="utf-8").strip("\n")
    except UnicodeDecodeError:
        raise ConfigError(f"prompt.template={value}: not UTF-8", "save it as UTF-8") from None
    if "{{" not in text:
        raise ConfigError(f"prompt.template={value}: asks nothing of the row", "write {{ question }} into it")
    return text


@cache
def compiled(template: str) -> Template:
    """Return a template ready for rows: in a sandbox, which reaches nothing but the row, and strict about names.

    Raises:
        ConfigError: not Jinja.
    """
    sandbox = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    try:
        return sandbox.from_string(template)
    except TemplateSyntaxError as error:
        what = f"prompt.template: line {error.lineno}: {error.message}"
        raise ConfigError(what, "correct the template; it is in Jinja's syntax") from None


def render(template: str, values: dict[str, Any], where: str) -> str:
    """Return the text of a template for a row.

    Args:
        values: by the names of `VARIABLES`.
        where: the row, for messages.

    Raises:
        DataError: a name that the row has not, something the sandbox forbids, or an empty text.
    """
    try:
        text = compiled(template).render(values).strip()
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        hint = f"names: {', '.join(VARIABLES)}; {{{{ extra.NAME | default('') }}}} for columns that some rows lack"
        raise DataError(f"{where}: prompt.template: {error}", hint) from None
    if not text:
        raise DataError(f"{where}: prompt.template: the text is empty", "write {{ question }} into it")
    return text
