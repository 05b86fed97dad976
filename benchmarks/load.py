"""Load as a browser makes it: a few connections that are kept, and its Accept-Encoding."""

from __future__ import annotations

import re
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

CONNECTIONS = 12
# What the other side still works on when its load has ended must not be in our way.
SETTLE_S = 1.5
BROWSER_CODINGS = "gzip, deflate, br, zstd"

_SCRIPT = """\
local paths = {{ {paths} }}
local number = 0
request = function()
    number = number % #paths + 1
    return wrk.format("GET", paths[number], {{ ["Accept-Encoding"] = "{codings}" }})
end
"""


def requests_per_second(
    url: str, paths: Sequence[str], place: Path, seconds: int, codings: str = BROWSER_CODINGS
) -> float:
    """Ask for the paths in turn, over and over, as quickly as the server answers."""
    time.sleep(SETTLE_S)
    script = place / "paths.lua"
    quoted = ", ".join(f'"{path}"' for path in paths)
    script.write_text(_SCRIPT.format(paths=quoted, codings=codings))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "30s"]
    ran = subprocess.run(
        [*command, "-s", str(script), url], capture_output=True, text=True, check=True
    )
    if "Non-2xx" in ran.stdout or "Socket errors" in ran.stdout:
        raise RuntimeError(f"not every request was answered:\n{ran.stdout}")
    found = re.search(r"Requests/sec:\s*([\d.]+)", ran.stdout)
    assert found is not None
    return float(found[1])


def median_ratio(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Give the median of each side and of the ratio, pair by pair."""
    ours, theirs = zip(*pairs, strict=True)
    return (
        statistics.median(ours),
        statistics.median(theirs),
        statistics.median(a / b for a, b in pairs),
    )
