"""``neurotrale export``: write annotations as JSON, JSON Lines, CSV or SWC."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from neurotrale.annotations.files.block_listing import ReadableFile
from neurotrale.annotations.files.paths import AnnotationFile, AnnotationFiles
from neurotrale.cli.declared import declared
from neurotrale.cli.output import write_data
from neurotrale.errors import BadInputError, MissingError, writing
from neurotrale.layers.spatial_index import CoordinateSpace, CoordinateSpaces
from neurotrale.precomputed.info import Infos
from neurotrale.queries.formats import Hits, buffered, find_format
from neurotrale.queries.query import AnnotationQuery, SearchHit, search_files
from neurotrale.storage.atomic import replace_file
from neurotrale.storage.data_root import DataRoot


@declared("export")
@click.argument("source", type=click.Path(path_type=Path))
def export(
    source: Path,
    format_: str,
    bbox: str | None,
    anntype: tuple[str, ...],
    type_: tuple[str, ...],
    reviewed: bool | None,
    output: Path,
) -> None:
    """Export the annotations of SOURCE, a dataset or an annotation file, for other programs."""
    query = AnnotationQuery.parse(bbox, anntype, type_, None if reviewed is None else str(reviewed))
    files, space = _files_and_space(source)
    _check_output(source, output)
    export_format = find_format(format_)
    export_format.check(space)
    damaged: list[str] = []
    hits = _noting(search_files(files, query), damaged)
    pieces = buffered(export_format.write(hits, space))
    if output == Path("-"):
        for piece in pieces:
            write_data(piece)
    elif output.exists() and not output.is_file():  # /dev/null, a pipe
        with writing(str(output)), output.open("wb") as file:
            file.writelines(pieces)
    else:
        with writing(str(output)):
            replace_file(output, pieces)
    if damaged:
        raise MissingError(f"These files are unreadable and were left out: {'; '.join(damaged)}")


def _files_and_space(source: Path) -> tuple[Iterable[ReadableFile], CoordinateSpace]:
    """Return the annotation files, and the coordinate space of their dataset."""
    source = Path(os.path.abspath(source))
    if source.is_file():
        file = AnnotationFile(source, f"{source.parent.name}/{source.name}")
        annotations = source.parents[1]
        if annotations.name != "annotations":
            return [file], CoordinateSpace()
        data_root = DataRoot(annotations.parent, follow_symlinks=True)
        return [file], CoordinateSpaces(Infos(data_root)).of(())
    if not (source / "annotations").is_dir():
        raise MissingError(
            f"{source} is neither an annotation file nor a dataset: it has no 'annotations'"
            " directory."
        )
    data_root = DataRoot(source, follow_symlinks=True)
    files = AnnotationFiles(data_root).in_dataset(())
    return files, CoordinateSpaces(Infos(data_root)).of(())


def _check_output(source: Path, output: Path) -> None:
    """Refuse an output among the annotations, which would bypass their locks and journals."""
    directory = Path(os.path.realpath(source if source.is_dir() else source.parent))
    annotations = directory / "annotations" if source.is_dir() else directory
    if output != Path("-") and Path(os.path.realpath(output)).is_relative_to(annotations):
        raise BadInputError(
            f"{output} lies among the annotations; choose a file in another directory."
        )


def _noting(hits: Hits, damaged: list[str]) -> Iterator[SearchHit | None]:
    for hit in hits:
        if hit is not None and hit.error:
            damaged.append(f"{hit.block}/{hit.file}: {hit.error}")
        yield hit
