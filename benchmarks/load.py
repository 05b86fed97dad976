"""Load like that of a browser: a few persistent connections, and its Accept-Encoding."""

from __future__ import annotations

import re
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

CONNECTIONS = 12
# Time for the other server to finish its last requests before ours is measured.
SETTLE_S = 1.5
BROWSER_CODINGS = "gzip, deflate, br, zstd"

_SCRIPT = """\
local paths = {{ {paths} }}
local number = 0
request = function()
    number = number % #paths + 1
    return wrk.format("GET", paths[number], {{ {headers} }})
end
"""


def requests_per_second(
    url: str,
    paths: Sequence[str],
    directory: Path,
    seconds: int,
    headers: Mapping[str, str] | None = None,
) -> float:
    """Request the paths repeatedly, as fast as the server answers; return the rate."""
    sent = {"Accept-Encoding": BROWSER_CODINGS, **(headers or {})}
    time.sleep(SETTLE_S)
    script = directory / "paths.lua"
    quoted = ", ".join(f'"{path}"' for path in paths)
    named = ", ".join(f"[ [[{name}]] ] = [[{value}]]" for name, value in sent.items())
    script.write_text(_SCRIPT.format(paths=quoted, headers=named))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "30s"]
    wrk = subprocess.run(
        [*command, "-s", str(script), url], capture_output=True, text=True, check=True
    )
    if "Non-2xx" in wrk.stdout or "Socket errors" in wrk.stdout:
        raise RuntimeError(f"not every request was answered:\n{wrk.stdout}")
    match = re.search(r"Requests/sec:\s*([\d.]+)", wrk.stdout)
    assert match is not None
    return float(match[1])


def median_ratio(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Return the median of each side, and the median of the ratios of the pairs."""
    ours, theirs = zip(*pairs, strict=True)
    return (
        statistics.median(ours),
        statistics.median(theirs),
        statistics.median(a / b for a, b in pairs),
    )
