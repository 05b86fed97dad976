"""Checks a whole dataset: `info`, its scales, its annotation blocks, and any other entries."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite, prod

from neurotrale.annotations.files.blocks import (
    ANNOTATIONS,
    BLOCK_INFO,
    LEGACY_DIRECTORY,
    read_block_size,
)
from neurotrale.chunks.layouts import MARKERS, layout_of, names_in_layouts
from neurotrale.errors import BusyError, DamagedError, MissingError, NameTooLongError, ReadOnlyError
from neurotrale.precomputed.grid import grid_shape
from neurotrale.precomputed.info import Info, Scale, Triple, parse_info
from neurotrale.precomputed.sharding import Sharding, sharding_of
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.names import BlockName, check_name
from neurotrale.tools.check.annotations import AnnotationCheck
from neurotrale.tools.check.archives import ArchiveCheck
from neurotrale.tools.check.findings import CheckCounts, CheckRequest, Findings
from neurotrale.tools.check.scale import ScaleCheck
from neurotrale.tools.check.walk import DirectoryWalker, WalkedEntry
from neurotrale.tools.parallel import ProgressCallback

# --- annotation blocks ---

_NUMBERS = re.compile(r"\d+")
# The viewer requests this block until a position is chosen, wherever the volume starts.
_FIRST = (0, 0, 0)


@dataclass(slots=True)
class _BlockNames:
    """Names of block directories by index; those of the original service have no z."""

    current: dict[Triple, str] = field(default_factory=dict)
    legacy: dict[tuple[int, int], str] = field(default_factory=dict)


class BlockCheck:
    """Checks the block directories of a dataset, but not the files in them.

    Args:
        walker: Lists the dataset's directories.
        info: The `info` of the volume, if there is one.
    """

    def __init__(self, walker: DirectoryWalker, info: Info | None) -> None:
        self._walker = walker
        self._findings = walker.findings
        self._info = info
        self._names = _BlockNames()

    def files(self) -> list[WalkedEntry]:
        """Check the blocks, and return the annotation files in them, sorted by path."""
        top = self._sorted_entries(ANNOTATIONS)
        if any(entry.name == "info" for entry in top):
            detail = "this is in Neuroglancer's own format for annotations"
            self._findings.add("not-looked-into", ANNOTATIONS, detail)
            return []
        blocks = [entry for entry in top if self._is_block(entry)]
        if blocks:
            self._check_positions(self._read_block_size())
            self._check_mixed()
        return [file for block in blocks for file in self._files_in(block)]

    def _sorted_entries(self, directory: str) -> list[WalkedEntry]:
        return sorted(self._walker.entries(directory), key=lambda entry: entry.name)

    def _is_block(self, entry: WalkedEntry) -> bool:
        if entry.is_directory:
            position = BlockName.parse(entry.name).position
            if position is not None:
                self._names.current[position] = entry.name
                return True
            if LEGACY_DIRECTORY.fullmatch(entry.name):
                x, y = map(int, _NUMBERS.findall(entry.name))
                self._names.legacy[x - 1, y - 1] = entry.name
                return True
        if entry.name != BLOCK_INFO:
            self._findings.add("stray", entry.relative_path, "not the name of a block")
        return False

    def _files_in(self, block: WalkedEntry) -> Iterator[WalkedEntry]:
        for entry in self._sorted_entries(block.relative_path):
            if entry.is_directory:
                self._findings.add("stray", entry.relative_path, "a directory in a block")
            elif entry.name.endswith(".json"):
                yield entry

    def _read_block_size(self) -> Triple | None:
        relative_path = f"{ANNOTATIONS}/{BLOCK_INFO}"
        path = self._walker.dataset / relative_path
        if not os.path.lexists(path):
            self._findings.add("block-size", relative_path, "it is missing")
            return None
        try:
            size_vx = read_block_size(path.resolve())  # also behind a link out of the root
        except (ReadOnlyError, BusyError) as error:
            self._walker.report_unreadable(relative_path, error)
            return None
        if size_vx is None:
            detail = "expected three positive integers x,y,z"
            self._findings.add("block-size", relative_path, detail)
        return size_vx

    def _check_positions(self, size_vx: Triple | None) -> None:
        for index, name in self._names.current.items():
            self._check_position(name, index, size_vx)
        for (x, y), name in self._names.legacy.items():
            self._check_position(name, (x, y, 0), size_vx)

    def _check_position(self, name: str, index: Triple, size_vx: Triple | None) -> None:
        relative_path = f"{ANNOTATIONS}/{name}"
        if min(index) < 0:
            self._findings.add("block-outside", relative_path, "before the first block")
            return
        if size_vx is None or self._info is None or index == _FIRST:
            return
        scale = self._info.scales[0]
        for axis, letter in enumerate("xyz"):
            first = scale.voxel_offset[axis]
            end = first + scale.size[axis]
            start, stop = (i * size_vx[axis] for i in (index[axis], index[axis] + 1))
            # Blocks of the original service have no z: they extend through the whole volume.
            has_axis = letter != "z" or name not in self._names.legacy.values()
            if has_axis and (start >= end or stop <= first):
                detail = f"it starts at {letter} = {start}, the volume has {first} to {end}"
                self._findings.add("block-outside", relative_path, detail)
                return

    def _check_mixed(self) -> None:
        if not self._names.current or not self._names.legacy:
            return
        current = {(x, y): name for (x, y, _), name in self._names.current.items()}
        for index, name in sorted(self._names.legacy.items()):
            same = current.get(index)
            detail = f"{same} is the same block" if same else f"beside {min(current.values())}"
            self._findings.add("blocks-mixed", f"{ANNOTATIONS}/{name}", detail)


# --- the dataset ---

_MOST_NAMED = 3
# The viewer uses four digits for the slice in a file name.
_LAST_SLICE = 9999
Shardings = list[Sharding | None]
Scales = list[tuple[Scale, Sharding | None]]

_SCALE_NAME = re.compile(r"\d+_\d+_\d+", re.ASCII)


def check_dataset(
    request: CheckRequest, on_progress: ProgressCallback
) -> tuple[Findings, CheckCounts]:
    """Find all problems with a dataset, without changing anything.

    Args:
        request: The dataset, and how thoroughly to check it.
        on_progress: Called with the number of files that are done.

    Returns:
        The findings, and counts of what was checked.
    """
    return _DatasetCheck(request, on_progress).check()


class _DatasetCheck:
    def __init__(self, request: CheckRequest, on_progress: ProgressCallback) -> None:
        self._request = request
        self._findings = Findings(request.places)
        self._counts = CheckCounts(on_progress, by_name=not request.opens_all)
        data_root = DataRoot(request.root, follow_symlinks=request.follow_symlinks)
        if not data_root.contains(request.dataset):
            detail = f"points to {os.path.realpath(request.dataset)}"
            self._findings.add("link-outside", ".", detail)
            data_root = DataRoot(request.dataset, follow_symlinks=request.follow_symlinks)
        self._walker = DirectoryWalker(request.dataset, data_root, self._findings)

    def check(self) -> tuple[Findings, CheckCounts]:
        top = {entry.name: entry.is_directory for entry in self._walker.entries("")}
        self._report_layout()
        info, sharded = self._read_info(top)
        scales = [] if info is None else self._valid_scales(info, sharded)
        if info is not None:
            self._report_strays(top, {scale.key.strip("/").split("/")[0] for scale, _ in scales})
        files = BlockCheck(self._walker, info).files() if top.get(ANNOTATIONS) else []
        chunk_counts = [prod(grid_shape(scale.size, scale.chunk_sizes[0])) for scale, _ in scales]
        self._counts.total = sum(chunk_counts) + len(files)
        if info is not None:
            self._check_scales(info, scales, chunk_counts)
        self._check_annotations(files)
        if top.get("tree.json") is False:
            self._check_tree_json()
        return self._findings, self._counts

    def _read_info(self, top: dict[str, bool]) -> tuple[Info | None, Shardings]:
        if top.get("info") is not False:
            has_scales = any(map(_SCALE_NAME.fullmatch, top))
            if top.get("annotations") is not True or has_scales:
                nested = [] if has_scales else DataRoot(self._request.dataset).datasets()
                more = ", ..." if len(nested) > _MOST_NAMED else ""
                detail = f"there are datasets below it: {', '.join(nested[:_MOST_NAMED])}{more}"
                self._findings.add("info-missing", "info", detail if nested else "")
            return None, []
        try:
            content = (self._walker.dataset / "info").read_bytes()
            info = parse_info(content)
            sharded = [sharding_of(scale) for scale in info.scales]
        except DamagedError as error:
            self._findings.add("info-broken", "info", error.reason)
        except OSError as error:
            self._walker.report_unreadable("info", error)
        else:
            if info.scales and info.num_channels > 0:
                return info, sharded
            self._findings.add("info-broken", "info", "expected at least one scale and one channel")
        return None, []

    def _valid_scales(self, info: Info, sharded: Shardings) -> Scales:
        """Return the scales that can be checked, and report the others."""
        valid = []
        for scale, sharding in zip(info.scales, sharded, strict=True):
            problem = _scale_problem(scale) or (sharding.problem() if sharding is not None else "")
            if sharding is not None and len(scale.chunk_sizes) > 1:
                problem = "expected a single chunk size, as it is sharded"
            if problem:
                self._findings.add("scale-broken", "info", f"{scale.key!r}: {problem}")
            else:
                valid.append((scale, sharding))
        return valid

    def _check_scales(self, info: Info, scales: Scales, chunk_counts: list[int]) -> None:
        last = info.scales[0].size[2] + info.scales[0].voxel_offset[2] - 1
        if last > _LAST_SLICE:
            self._findings.add("slices-many", "info", f"the last slice is {last}")
        keys = [scale.key.strip("/") for scale, _ in scales]
        for key in {key for key in keys if keys.count(key) > 1}:
            self._findings.add("scale-broken", "info", f"the key {key!r} appears twice")
        done = 0
        for (scale, sharding), count in zip(scales, chunk_counts, strict=True):
            ScaleCheck(self._walker, info, scale, sharding, self._request, self._counts).check()
            done += count
            self._counts.skip_to(done)
            self._counts.scales += 1

    def _check_annotations(self, files: list[WalkedEntry]) -> None:
        jobs, places = self._request.jobs, self._request.places
        AnnotationCheck(self._walker, files, self._counts, jobs, places).check()
        blocks = {os.path.dirname(file.relative_path) for file in files}
        ArchiveCheck(self._walker, blocks, jobs).check()

    def _report_layout(self) -> None:
        """Report that the dataset itself is in another layout, such as OME-NGFF."""
        markers = set(self._walker.names("")) & MARKERS
        layout = layout_of(markers)
        if layout is not None:
            self._findings.add("other-layout", ".", layout)

    def _report_strays(self, top: dict[str, bool], known: set[str]) -> None:
        for name, is_directory in top.items():
            if is_directory and _SCALE_NAME.fullmatch(name) and name not in known:
                layout = layout_of(names_in_layouts(self._walker.names(name)))
                if layout is not None:
                    self._findings.add("other-layout", name, layout)
                else:
                    self._findings.add("stray", name, "info has no such scale")

    def _check_tree_json(self) -> None:
        try:
            json.loads((self._walker.dataset / "tree.json").read_bytes())
        except (ValueError, RecursionError) as error:
            self._findings.add("tree-broken", "tree.json", str(error))
        except OSError as error:
            self._walker.report_unreadable("tree.json", error)


def _scale_problem(scale: Scale) -> str:
    """Return the problem with the description of a scale; "" if there is none."""
    if not scale.chunk_sizes:
        return "expected a chunk size"
    for name, triple in (("size", scale.size), *(("chunk size", c) for c in scale.chunk_sizes)):
        if min(triple) < 1:
            return f"expected a {name} above 0, found {list(triple)}"
    if not all(isfinite(nm) and nm > 0 for nm in scale.resolution):
        return f"expected a resolution above 0, found {list(scale.resolution)}"
    try:
        for part in scale.key.strip("/").split("/"):
            check_name(part)
    except (MissingError, NameTooLongError):
        return "its key is a name that is never served"
    return "" if scale.key.strip("/") else "its key is empty"
