"""Writes docs/options.md and the names in slurm/settings.sh: ``python -m tests.options_page``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from neurotrale.settings import COMMANDS
from neurotrale.settings.service import DATA, SERVICE
from neurotrale.settings.setting import Command, Setting

_TOP = Path(__file__).resolve().parent.parent
PAGE = _TOP / "docs" / "options.md"
SCRIPT = _TOP / "slurm" / "settings.sh"

_INTRODUCTION = """\
# Options

Every command with its options. `make options` generates this page from the same table as the
command line.

An option on the command line overrides its environment variable; an empty variable counts as
unset. Options that contradict each other on the command line are refused (exit code 2) before
anything is done.

`--jobs`, `--dry-run` and `--log-level` have the same name in every command that has them. Their
old names `--n-cores`, `--plan` and `--log`, from precomputed-tif and earlier versions, still work.
"""
_HEAD = "| option | variable | default | meaning | why, or when to change it |\n"


def page() -> str:
    """The whole page."""
    served = [COMMANDS["serve"], COMMANDS["demo"]]
    parts = [_INTRODUCTION, _service(served)]
    parts += [_section(one) for one in COMMANDS.values() if one not in served]
    return "\n".join(parts)


def _service(commands: list[Command]) -> str:
    examples = [line for one in commands for line in one.examples]
    summaries = "\n".join(f"- `neurotrale {one.name}`: {one.summary}" for one in commands)
    title = " and ".join(f"{one.name}" for one in commands)
    argument = _row(DATA, "`DATA` (of `serve`)")
    table = _table([argument, *map(_row, SERVICE)])
    return f"## {title}\n\n{summaries}\n\n{_examples(examples)}\n{table}"


def _section(command: Command) -> str:
    table = _table([_row(one) for one in command.settings])
    return f"## {command.name}\n\n{command.summary}\n\n{_examples(command.examples)}\n{table}"


def _examples(lines: list[str] | tuple[str, ...]) -> str:
    return "".join(["```sh\n", *(f"{line}\n" for line in lines), "```\n"])


def _table(rows: list[str]) -> str:
    return "".join([_HEAD, "| --- | --- | --- | --- | --- |\n", *rows])


def _row(setting: Setting[Any], name: str = "") -> str:
    letter = f"-{setting.letter}, " if setting.letter else ""
    cells = (
        name or f"`{letter}{setting.option}`",
        f"`{setting.variable}`" if setting.variable else "",
        default_of(setting),
        setting.text,
        setting.reason,
    )
    return f"| {' | '.join(cells)} |\n"


def default_of(setting: Setting[Any]) -> str:
    """Its default, for a cell."""
    if setting.required:
        return "required"
    if setting.default_text:
        return setting.default_text
    if isinstance(setting.default, bool):
        return "on" if setting.default else "off"
    return "none" if setting.default is None else f"`{setting.default}`"


def script() -> str:
    """The script with the names of all settings that have a variable, without the prefix."""
    variables = {one.variable for command in COMMANDS.values() for one in command.settings}
    variables |= {one.variable for one in SERVICE}
    prefix = "NEUROTRALE_"
    names = sorted(
        name.removeprefix(prefix) for name in variables if name and name.startswith(prefix)
    )
    return re.sub(r"^service='.*'$", f"service='{' '.join(names)}'", SCRIPT.read_text(), flags=re.M)


if __name__ == "__main__":
    PAGE.write_text(page())
    SCRIPT.write_text(script())
