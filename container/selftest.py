"""The image's own test: serves a chunk and takes an edit, and checks both against what is on disk.

It writes to a temporary directory only, listens on 127.0.0.1 on a free port, and needs no network.
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
    """Write a data set of one chunk and one annotation; give its voxels as raw bytes."""
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


def ask(url: str, method: str = "GET", body: bytes | None = None) -> bytes:
    """Send a request; give the answer's body. An answer that is an error raises."""
    request = urllib.request.Request(url, data=body, method=method)
    # No proxy of the environment stands between this and its own service.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=PATIENCE_S) as answer:
        content: bytes = answer.read()
        return content


def address(service: subprocess.Popen[bytes], ready: Path) -> str:
    """Wait until the service answers; give its URL."""
    until = time.monotonic() + PATIENCE_S
    while not ready.exists():
        if service.poll() is not None or time.monotonic() > until:
            sys.exit("self-test: the service did not start")
        time.sleep(0.05)
    url: str = json.loads(ready.read_bytes())["url"]
    return url


def check(condition: bool, what: str) -> None:
    """End the test when something is not as it should be."""
    if not condition:
        sys.exit(f"self-test: {what}: FAILED")
    print(f"self-test: {what}: ok", flush=True)


def main() -> None:
    """Run the test; the exit code is 0 when all of it succeeded."""
    with tempfile.TemporaryDirectory(prefix="neurotrale-test-") as place:
        root, ready = Path(place) / "data", Path(place) / "ready.json"
        voxels = write_data(root)
        command = [ENTRYPOINT, str(root), "--port", "0", "--workers", "1", "--host", "127.0.0.1"]
        # Settings of whoever runs the test, such as their tokens, are not what is tested.
        env = {name: value for name, value in os.environ.items() if name[:10] != "NEUROTRALE"}
        with subprocess.Popen([*command, "--ready-file", str(ready)], env=env) as service:
            try:
                url = address(service, ready)
                check(ask(f"{url}{CHUNK}") == voxels, "a chunk has the voxels of its TIFF")
                check(b"<html" in ask(f"{url}viewer/").lower(), "the viewer is there")
                new = b'{"type": "point", "point": [4, 5, 6]}'
                ask(f"{url}{FIBERS}?id=new", "PATCH", new)
            finally:
                service.terminate()
        check(service.returncode == 0, "it stops in order")
        edited = json.loads((root / FIBERS).read_bytes())
        points = {annotation["id"]: annotation["point"] for annotation in edited}
        check(points == {"old": [1, 2, 3], "new": [4, 5, 6]}, "an edit is on disk, the rest kept")


if __name__ == "__main__":
    main()
