"""Login nodes with habits of their own: an sshd that the ordinary user runs for its own logins."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.cluster import LOGIN, is_open, process
from tests.deploy.machine import User, eventually, free_port, missing

GREETING = """\
# neurotrale's tests greet, as many sites do, also where no person reads it.
echo '*** Welcome to the cluster. Your quota: 4711 files ***'
echo 'Maintenance on Monday' >&2
printf 'no end of line: '
"""
# What guides recommend, ours among them, so that a password is asked for once.
SHARED = "  ControlMaster auto\n  ControlPath {place}/c\n  ControlPersist 60\n"


@dataclass(frozen=True)
class Login:
    """How the login node, and the compute nodes behind it, are reached.

    Attributes:
        ssh: The ssh command.
        config: Its configuration.
    """

    ssh: tuple[str, ...]
    config: Path


@contextmanager
def login_node(
    user: User,
    place: Path,
    *,
    server: Sequence[str] = (),
    client: str = "",
    nodes: Sequence[str] = (),
    node_server: Sequence[str] = (),
) -> Iterator[Login]:
    """A login node for the block.

    Args:
        user: Who runs it and may log in.
        place: A directory that is made for it.
        server: Lines for its sshd, such as ``AllowTcpForwarding no``; ``{nodes}`` is the port of
            ssh on the nodes.
        client: Lines for the client, below ``Host *``.
        nodes: Compute nodes that take logins as well.
        node_server: Lines for their sshd.
    """
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin")
    if program is None:
        missing("sshd is not installed")
    place.mkdir()
    user.own(place)
    for name in ("host", "mine"):
        user.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / name])
    shutil.copy(place / "mine.pub", place / "authorized")
    ports = {"login": free_port(), "nodes": free_port()}
    for name, lines in (("login", server), ("nodes", node_server)):
        (place / name).write_text(
            "\n".join(
                [
                    f"Port {ports[name]}",
                    f"HostKey {place}/host",
                    f"AuthorizedKeysFile {place}/authorized",
                    f"PidFile {place}/{name}.pid",
                    "StrictModes no",
                    "UsePAM no",
                    "PasswordAuthentication no",
                    "KbdInteractiveAuthentication no",
                    *(line.format(**ports) for line in lines),
                    "",
                ]
            )
        )
    config = place / "ssh_config"
    config.write_text(
        f"Host {LOGIN}\n  HostName 127.0.0.1\n  Port {ports['login']}\n"
        f"Host {' '.join(nodes) or 'none'}\n  Port {ports['nodes']}\n"
        f"Host *\n  IdentityFile {place}/mine\n  IdentitiesOnly yes\n  BatchMode yes\n"
        f"  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
        + client.format(place=place)
    )
    user.own(place)
    (place / "host").chmod(0o600)
    with (
        process(user, [program, "-D", "-e", "-f", place / "login"], place / "login.log"),
        process(user, [program, "-D", "-e", "-f", place / "nodes"], place / "nodes.log"),
    ):
        for name, port in ports.items():
            eventually(lambda port=port: is_open(port), f"the sshd of {name}")  # type: ignore[misc]
        yield Login(("ssh", "-F", str(config)), config)
        # A shared connection outlives whoever began it.
        user.run(["ssh", "-F", config, "-O", "exit", LOGIN], check=False)


@contextmanager
def greeting(user: User) -> Iterator[None]:
    """Have the shell of the user print something at every login, for the block."""
    file = user.home / ".bashrc"
    before = file.read_bytes() if file.exists() else None
    file.write_bytes(GREETING.encode() + (before or b""))
    user.own(file)
    try:
        yield
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_bytes(before)
