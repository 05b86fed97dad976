"""Every option of every command, declared once: the command line, docs and checks use it."""

from __future__ import annotations

from neurotrale.settings import history, records, stacks
from neurotrale.settings.service import SERVICE, SERVICE_RULES
from neurotrale.settings.setting import Command

_SERVING = (
    Command(
        "serve",
        "Serve the datasets below a directory.",
        SERVICE,
        (
            "neurotrale serve /data",
            "neurotrale serve /data --read-only --workers 4",
            "neurotrale serve /data --host 0.0.0.0 --token-file tokens",
        ),
        SERVICE_RULES,
        serves=True,
    ),
    Command(
        "demo",
        "Create a small synthetic brain and serve it.",
        SERVICE,
        ("neurotrale demo", "neurotrale demo ~/demo-data --port 0"),
        SERVICE_RULES,
        serves=True,
    ),
)

_ALL = (*_SERVING, *stacks.COMMANDS, *history.COMMANDS, *records.COMMANDS)
COMMANDS = {command.name: command for command in _ALL}
