"""The self-test of the image: reads a chunk and edits an annotation through a running service.

It writes only to a temporary directory, listens on a free port of 127.0.0.1, and needs no network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import tifffile

ENTRYPOINT = "/apps/entrypoint.sh"
PATIENCE_S = 60.0
CHUNK = "brain/1_1_1/0-20_0-30_0-40"
FIBERS = "brain/annotations/x0y0z0/fibers.json"


def write_data(root: Path) -> bytes:
    """Write a dataset with one chunk and one annotation; return its voxels as raw bytes."""
    voxels = np.arange(40 * 30 * 20, dtype="<u2").reshape(40, 30, 20)
    scale = {
        "key": "1_1_1",
        "size": [20, 30, 40],
        "chunk_sizes": [[64, 64, 64]],
        "encoding": "raw",
        "resolution": [1000, 1000, 1000],
        "voxel_offset": [0, 0, 0],
    }
    info = {"type": "image", "data_type": "uint16", "num_channels": 1, "scales": [scale]}
    for name in (CHUNK, FIBERS):
        (root / name).parent.mkdir(parents=True)
    (root / "brain/info").write_text(json.dumps(info))
    tifffile.imwrite(root / f"{CHUNK}.tiff", voxels, compression="zlib", photometric="minisblack")
    (root / FIBERS).write_text('[{"id": "old", "type": "point", "point": [1, 2, 3]}]')
    return voxels.tobytes()


def send(url: str, method: str = "GET", body: bytes | None = None) -> bytes:
    """Send a request; return the body of the response, or raise an error for an error status."""
    request = urllib.request.Request(url, data=body, method=method)
    # Ignore the proxies of the environment: the service runs on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=PATIENCE_S) as response:
        content: bytes = response.read()
        return content


def address(service: subprocess.Popen[bytes], ready: Path) -> str:
    """Wait until the service answers requests; return its URL."""
    deadline = time.monotonic() + PATIENCE_S
    while not ready.exists():
        if service.poll() is not None or time.monotonic() > deadline:
            sys.exit("self-test: the service did not start")
        time.sleep(0.05)
    url: str = json.loads(ready.read_bytes())["url"]
    return url


def check(condition: bool, claim: str) -> None:
    """Print whether a claim holds; exit if it does not."""
    if not condition:
        sys.exit(f"self-test: {claim}: FAILED")
    print(f"self-test: {claim}: ok", flush=True)


def main() -> None:
    """Run the test; the exit code is 0 on success."""
    with tempfile.TemporaryDirectory(prefix="neurotrale-test-") as directory:
        root, ready = Path(directory) / "data", Path(directory) / "ready.json"
        voxels = write_data(root)
        command = [ENTRYPOINT, str(root), "--port", "0", "--workers", "1", "--host", "127.0.0.1"]
        # Without the settings of the user who runs the test, such as their token file.
        env = {name: value for name, value in os.environ.items() if name[:10] != "NEUROTRALE"}
        with subprocess.Popen([*command, "--ready-file", str(ready)], env=env) as service:
            try:
                url = address(service, ready)
                check(send(f"{url}{CHUNK}") == voxels, "a chunk has the voxels of its TIFF")
                check(b"<html" in send(f"{url}viewer/").lower(), "the viewer is installed")
                body = b'{"type": "point", "point": [4, 5, 6]}'
                send(f"{url}{FIBERS}?id=new", "PATCH", body)
            finally:
                service.terminate()
        check(service.returncode == 0, "the service stops cleanly")
        edited = json.loads((root / FIBERS).read_bytes())
        points = {annotation["id"]: annotation["point"] for annotation in edited}
        check(
            points == {"old": [1, 2, 3], "new": [4, 5, 6]},
            "an edit is on disk, the rest as before",
        )


if __name__ == "__main__":
    main()
