"""Plot of the results: how far each value is from its target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.measures import Result

MET, MISSED = "#2a7f62", "#b3432b"


def draw(results: Sequence[Result], heading: str, path: Path) -> None:
    """Draw a bar for each result, relative to its target (1); longer is better."""
    from matplotlib.figure import Figure

    rows = list(reversed(results))
    factors = [_factor(result) for result in rows]
    figure = Figure(figsize=(9, 0.42 * len(rows) + 1.3), layout="constrained")
    axes = figure.subplots()
    colours = [MET if result.met else MISSED for result in rows]
    bars = axes.barh([result.name for result in rows], factors, color=colours)
    axes.bar_label(bars, [f" {r.value:.3g} {r.unit} (target {r.target:g})" for r in rows])
    axes.axvline(1, color="0.4", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(min(0.3, *factors) * 0.8, max(factors) * 6)
    axes.set_xlabel("times better than the target (log scale)")
    axes.set_title(heading, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def _factor(result: Result) -> float:
    if result.at_least:
        return max(result.value / result.target, 1e-3)
    return result.target / max(result.value, result.target / 100)
