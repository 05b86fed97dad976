"""A whole data set: `info`, its scales, its annotations, and what else lies in it."""

from __future__ import annotations

import json
import os
import re
from math import isfinite, prod

from neurotrale.checking.annotations import AnnotationCheck
from neurotrale.checking.blocks import ANNOTATIONS, BlockCheck
from neurotrale.checking.findings import Findings
from neurotrale.checking.look import Item, Look
from neurotrale.checking.request import Request, Tally, Watch
from neurotrale.checking.scales import ScaleCheck
from neurotrale.checking.sharding import Sharding, shardings
from neurotrale.chunks.info import Info, Scale, parse_info
from neurotrale.errors import DamagedError, MissingError, NameTooLongError
from neurotrale.names import check_name
from neurotrale.tree import Tree

_NAMED = 3
# The viewer's file names have four digits for a slice.
_LAST_SLICE = 9999
Shardings = list[Sharding | None]
Scales = list[tuple[Scale, Sharding | None]]

_SCALE_NAME = re.compile(r"\d+_\d+_\d+", re.ASCII)


def check_dataset(request: Request, watch: Watch) -> tuple[Findings, Tally]:
    """Look for everything that is wrong with a data set; nothing is changed.

    Args:
        request: Where, and how thoroughly.
        watch: Told how far it is.

    Returns:
        What was found, and how much was looked at.
    """
    return _DatasetCheck(request, watch).check()


class _DatasetCheck:
    def __init__(self, request: Request, watch: Watch) -> None:
        self._request = request
        self._findings = Findings(request.places)
        self._tally = Tally(watch, by_name=request.sample is not None)
        tree = Tree(request.root, follow_symlinks=request.follow_symlinks)
        if not tree.inside(request.dataset):
            detail = f"leads to {os.path.realpath(request.dataset)}"
            self._findings.add("link-outside", ".", detail)
            tree = Tree(request.dataset, follow_symlinks=request.follow_symlinks)
        self._look = Look(request.dataset, tree, self._findings)

    def check(self) -> tuple[Findings, Tally]:
        top = {item.name: item.is_directory for item in self._look.items("")}
        info, sharded = self._info(top)
        scales = [] if info is None else self._sound(info, sharded)
        if info is not None:
            self._tell_strays(top, {scale.key.strip("/").split("/")[0] for scale, _ in scales})
        files = BlockCheck(self._look, info).files() if top.get(ANNOTATIONS) else []
        promised = [_promised(scale) for scale, _ in scales]
        self._tally.total = sum(promised) + len(files)
        if info is not None:
            self._scales(info, scales, promised)
        self._annotations(files)
        if top.get("tree.json") is False:
            self._tree_json()
        return self._findings, self._tally

    def _info(self, top: dict[str, bool]) -> tuple[Info | None, Shardings]:
        if top.get("info") is not False:
            has_scales = any(map(_SCALE_NAME.fullmatch, top))
            if top.get("annotations") is not True or has_scales:
                below = [] if has_scales else Tree(self._request.dataset).datasets()
                more = ", ..." if len(below) > _NAMED else ""
                detail = f"data sets are further down: {', '.join(below[:_NAMED])}{more}"
                self._findings.add("info-missing", "info", detail if below else "")
            return None, []
        try:
            content = (self._look.dataset / "info").read_bytes()
            info, sharded = parse_info(content), shardings(content)
        except DamagedError as error:
            self._findings.add("info-broken", "info", error.why)
        except OSError as error:
            self._look.unreadable("info", error)
        else:
            if info.scales and info.num_channels > 0:
                return info, sharded
            self._findings.add("info-broken", "info", "expected at least one scale and one channel")
        return None, []

    def _sound(self, info: Info, sharded: Shardings) -> Scales:
        """Give the scales that can be looked at."""
        sound = []
        for scale, sharding in zip(info.scales, sharded, strict=True):
            mistake = _mistake(scale) or (sharding.mistake() if sharding is not None else "")
            if sharding is not None and len(scale.chunk_sizes) > 1:
                mistake = "expected a single chunk size, as it is sharded"
            if mistake:
                self._findings.add("scale-broken", "info", f"{scale.key!r}: {mistake}")
            else:
                sound.append((scale, sharding))
        return sound

    def _scales(self, info: Info, scales: Scales, promised: list[int]) -> None:
        last = info.scales[0].size[2] + info.scales[0].voxel_offset[2] - 1
        if last > _LAST_SLICE:
            self._findings.add("slices-many", "info", f"the last slice is {last}")
        keys = [scale.key.strip("/") for scale, _ in scales]
        for key in {key for key in keys if keys.count(key) > 1}:
            self._findings.add("scale-broken", "info", f"the key {key!r} stands there twice")
        done = 0
        for (scale, sharding), count in zip(scales, promised, strict=True):
            ScaleCheck(self._look, info, scale, sharding, self._request, self._tally).check()
            done += count
            self._tally.skip_to(done)
            self._tally.scales += 1

    def _annotations(self, files: list[Item]) -> None:
        jobs, places = self._request.jobs, self._request.places
        AnnotationCheck(self._look, files, self._tally, jobs, places).check()

    def _tell_strays(self, top: dict[str, bool], known: set[str]) -> None:
        for name, is_directory in top.items():
            if is_directory and _SCALE_NAME.fullmatch(name) and name not in known:
                self._findings.add("stray", name, "info has no such scale")

    def _tree_json(self) -> None:
        try:
            json.loads((self._look.dataset / "tree.json").read_bytes())
        except (ValueError, RecursionError) as error:
            self._findings.add("tree-broken", "tree.json", str(error))
        except OSError as error:
            self._look.unreadable("tree.json", error)


def _promised(scale: Scale) -> int:
    """Give the number of chunks of a scale."""
    return prod(-(-n // c) for n, c in zip(scale.size, scale.chunk_sizes[0], strict=True))


def _mistake(scale: Scale) -> str:
    """Say what is wrong with a scale by itself; "" when nothing is."""
    if not scale.chunk_sizes:
        return "expected a chunk size"
    for what, triple in (("size", scale.size), *(("chunk size", c) for c in scale.chunk_sizes)):
        if min(triple) < 1:
            return f"expected a {what} above 0, found {list(triple)}"
    if not all(isfinite(nm) and nm > 0 for nm in scale.resolution):
        return f"expected a resolution above 0, found {list(scale.resolution)}"
    try:
        for part in scale.key.strip("/").split("/"):
            check_name(part)
    except (MissingError, NameTooLongError):
        return "its key is a name that is never served"
    return "" if scale.key.strip("/") else "its key is empty"
