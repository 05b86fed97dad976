"""Docker's health check: requests /api/health of the service in this container.

The exit code is 0 when the service is healthy. A container without a ready file, which runs another
command than the service, counts as unhealthy.
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
    """An HTTP connection through a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self.path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self.path)


def connection(facts: dict[str, object]) -> http.client.HTTPConnection:
    """Return a connection to the service that a ready file describes."""
    if "socket" in facts:
        return UnixConnection(str(facts["socket"]))
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(facts["host"]), str(facts["host"]))
    return http.client.HTTPConnection(host, int(str(facts["port"])), timeout=TIMEOUT_S)


def main() -> None:
    """Request the health, print the response, and exit with its result."""
    ready = Path(os.environ.get("NEUROTRALE_READY_FILE") or sys.argv[1])
    try:
        http_connection = connection(json.loads(ready.read_bytes()))
        http_connection.request("GET", "/api/health")
        response = http_connection.getresponse()
        print(response.read().decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"the service does not answer: {error}")
    if response.status != 200:
        sys.exit(1)


if __name__ == "__main__":
    main()
