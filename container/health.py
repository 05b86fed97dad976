"""Docker's health check: asks the service in this container for its health, wherever it listens.

The exit code is 0 when it is well. Only containers that run something else than the service have
no ready file; they count as unhealthy.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
from pathlib import Path

TIMEOUT_S = 10.0


class UnixConnection(http.client.HTTPConnection):
    """A connection through a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self.path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self.path)


def connection(facts: dict[str, object]) -> http.client.HTTPConnection:
    """Make the connection that a ready file leads to."""
    if "socket" in facts:
        return UnixConnection(str(facts["socket"]))
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(facts["host"]), str(facts["host"]))
    return http.client.HTTPConnection(host, int(str(facts["port"])), timeout=TIMEOUT_S)


def main() -> None:
    """Ask, say what came back, and end accordingly."""
    ready = Path(os.environ.get("NEUROTRALE_READY_FILE") or sys.argv[1])
    try:
        asked = connection(json.loads(ready.read_bytes()))
        asked.request("GET", "/api/health")
        answer = asked.getresponse()
        print(answer.read().decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"no answer: {error}")
    if answer.status != 200:
        sys.exit(1)


if __name__ == "__main__":
    main()
