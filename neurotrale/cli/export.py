"""``neurotrale export``: annotations as JSON Lines, CSV or SWC, from the files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from neurotrale.annotations.places import Place, Places
from neurotrale.chunks.info import Infos
from neurotrale.cli.failing import failing_clearly
from neurotrale.durable import replace_file
from neurotrale.errors import BadInputError, MissingError
from neurotrale.faults import writing
from neurotrale.layers.space import Space, Spaces
from neurotrale.queries.formats import FORMATS, format_named, gathered
from neurotrale.queries.found import Found, found_in_all
from neurotrale.queries.wanted import Wanted
from neurotrale.tree import Tree


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_",
    type=click.Choice(tuple(FORMATS)),
    default="jsonl",
    show_default=True,
    help="SWC has line strings only, in micrometres; the others all annotations.",
)
@click.option("--bbox", help="Only what touches this box: x0,y0,z0,x1,y1,z1 in voxels.")
@click.option("--anntype", multiple=True, help="Only these, as neuron; may be repeated.")
@click.option(
    "--type", "type_", multiple=True, help="Only this geometry, as point; may be repeated."
)
@click.option(
    "--reviewed/--not-reviewed", default=None, help="Only what was, or was not, reviewed."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    default=Path("-"),
    help="Write to this file, whole or not at all; without it to standard output.",
)
@failing_clearly
def export(
    source: Path,
    format_: str,
    bbox: str | None,
    anntype: tuple[str, ...],
    type_: tuple[str, ...],
    reviewed: bool | None,
    output: Path,
) -> None:
    """Write the annotations of SOURCE, a data set or one annotation file, for other programs."""
    wanted = Wanted.parse(bbox, anntype, type_, None if reviewed is None else str(reviewed))
    places, space = _source(source)
    _check_output(source, output)
    chosen = format_named(format_)
    chosen.check(space)
    damaged: list[str] = []
    found = _noting(found_in_all(places, wanted), damaged)
    pieces = gathered(chosen.write(found, space))
    if output == Path("-"):
        for piece in pieces:
            sys.stdout.buffer.write(piece)
    elif output.exists() and not output.is_file():  # /dev/null, a pipe
        with writing(str(output)), output.open("wb") as file:
            file.writelines(pieces)
    else:
        with writing(str(output)):
            replace_file(output, pieces)
    if damaged:
        raise MissingError(f"Left out what cannot be read: {'; '.join(damaged)}")


def _source(source: Path) -> tuple[Iterator[Place], Space]:
    """Find the annotation files, and the coordinates of their data set."""
    source = Path(os.path.abspath(source))
    if source.is_file():
        place = Place(source, f"{source.parent.name}/{source.name}")
        above = source.parents[1]
        if above.name != "annotations":
            return iter([place]), Space()
        return iter([place]), Spaces(Infos(Tree(above.parent, follow_symlinks=True))).of(())
    if not (source / "annotations").is_dir():
        raise MissingError(
            f"{source} is neither an annotation file nor a data set: it has no 'annotations'"
            " directory."
        )
    tree = Tree(source, follow_symlinks=True)
    return iter(Places(tree).every(())), Spaces(Infos(tree)).of(())


def _check_output(source: Path, output: Path) -> None:
    """Refuse to write among the annotations, past their locks and journals."""
    inside = Path(os.path.realpath(source if source.is_dir() else source.parent))
    annotations = inside / "annotations" if source.is_dir() else inside
    if output != Path("-") and Path(os.path.realpath(output)).is_relative_to(annotations):
        raise BadInputError(f"{output} lies among the annotations; write somewhere else.")


def _noting(found: Iterator[Found], damaged: list[str]) -> Iterator[Found]:
    for one in found:
        if one.mistake:
            damaged.append(f"{one.block}/{one.file}: {one.mistake}")
        yield one
