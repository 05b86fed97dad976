"""The URLs of the service: one ordered table, in which the first matching row wins."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from neurotrale.layers.geometry import GeometryKind
from neurotrale.storage.names import (
    AnnotationUrl,
    BlockName,
    ChunkPath,
    split_file_path,
    split_path,
)
from neurotrale.web.resources.annotations import POSITION, AnnotationResource
from neurotrale.web.resources.api import (
    AssetResource,
    DocsRedirectResource,
    DocsResource,
    DocumentResource,
    HealthResource,
    MetricsResource,
)
from neurotrale.web.resources.changes import ChangesResource
from neurotrale.web.resources.chunks import ChunkResource, TiffResource
from neurotrale.web.resources.datasets import (
    DatasetResource,
    OpenResource,
    PreviewResource,
    StartResource,
)
from neurotrale.web.resources.files import (
    DirectoryResource,
    FileResource,
    IndexResource,
    VolumeInfoResource,
)
from neurotrale.web.resources.history import (
    HeldResource,
    HistoryResource,
    RestoreResource,
    RevisionResource,
)
from neurotrale.web.resources.history_pages import (
    CorrectionsResource,
    FilesPageResource,
    HistoryPageResource,
)
from neurotrale.web.resources.layers import (
    ByIdResource,
    CellResource,
    InfoResource,
    LayersResource,
    OriginResource,
)
from neurotrale.web.resources.mine import MineResource
from neurotrale.web.resources.search import SearchResource
from neurotrale.web.resources.webapps import (
    UiAssetResource,
    UiRedirect,
    UiResource,
    ViewerAssetResource,
    ViewerRedirect,
    ViewerResource,
)
from neurotrale.web.router import App, OrderedRouter, Values

Groups = Mapping[str, str]
Arguments = dict[str, object]

# --- arguments of the responders, from the named groups of a path ---


def _chunk(groups: Groups) -> Arguments:
    directory = split_path(groups["directory"] or groups["scale"])
    (stem,) = split_path(groups["stem"] or groups["leaf"])
    return {"chunk": ChunkPath(directory, stem)}


def _tiff(groups: Groups) -> Arguments:
    return {**_chunk(groups), "suffix": groups["suffix"]}


def _annotation(groups: Groups) -> Arguments:
    dataset = split_path(groups["dataset"])
    (leaf,) = split_path(groups["leaf"])
    block = BlockName.parse(groups["block"]) if "block" in groups else None
    return {"name": AnnotationUrl(dataset, block, leaf)}


def _revision(groups: Groups) -> Arguments:
    return {**_annotation(groups), "revision": int(groups["revision"])}


def _path(name: str) -> Values:
    return lambda groups: {name: split_path(groups[name])}


def _file(groups: Groups) -> Arguments:
    return {"file": split_file_path(groups["file"])}


def _layer(scope_of: Values) -> Values:
    def values(groups: Groups) -> Arguments:
        (scope,) = scope_of(groups).values()
        arguments: Arguments = {"scope": scope}
        if "kind" in groups:
            arguments["kind"] = GeometryKind(groups["kind"])
        if "number" in groups:
            arguments["number"] = int(groups["number"])
        if "level" in groups:
            arguments["level"] = int(groups["level"])
            arguments["cell"] = tuple(int(groups[axis]) for axis in "xyz")
        return arguments

    return values


# --- the table ---


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of URL.

    Attributes:
        template: The path as the API documentation shows it; a final ``/?`` is an optional slash.
        resource: The class of the resource.
        values: Converts the named groups of the path into the arguments of the responders.
        parameter: Required query parameter; without it the rows below are tried.
    """

    template: str
    resource: type
    values: Values = dict
    parameter: str = ""


_IN_API = "/api/datasets/{dataset}"
_FILE = "/{dataset}/annotations/{block}/{leaf}.json"
_AT = "/{dataset}/annotations/{leaf}.json"
_ALL = "/{dataset}/annotations"
_dataset = _path("dataset")
_asset = _path("asset")

ROUTES = (
    Row("/api/health", HealthResource),
    Row("/api/metrics", MetricsResource),
    Row("/api/openapi.json", DocumentResource),
    Row("/api/", DocsResource),
    Row("/api", DocsRedirectResource),
    Row(f"{_IN_API}/preview.png", PreviewResource, _dataset),
    Row(f"{_IN_API}/open", OpenResource, _dataset),
    Row(f"{_IN_API}/history", FilesPageResource, _dataset),
    Row(f"{_IN_API}/start", StartResource, _dataset),
    Row(f"{_IN_API}/?", DatasetResource, _dataset),
    Row("/viewer/", ViewerResource),
    Row("/viewer", ViewerRedirect),
    Row("/viewer/{asset}", ViewerAssetResource, _asset),
    Row("/ui/", UiResource),
    Row("/ui", UiRedirect),
    Row("/ui/{asset}", UiAssetResource, _asset),
    Row("/api/{asset}", AssetResource),
    Row("/", IndexResource),
    Row("/index.html", IndexResource),
    Row(_FILE, AnnotationResource, _annotation),
    Row(f"{_FILE}/history", HistoryResource, _annotation),
    Row(f"{_FILE}/changes", ChangesResource, _annotation),
    Row(f"{_FILE}/restore", RestoreResource, _annotation),
    Row(f"{_FILE}/held", HeldResource, _annotation),
    Row(f"{_FILE}/history/{{revision}}", RevisionResource, _revision),
    Row(_AT, AnnotationResource, _annotation, POSITION),
    Row(f"{_AT}/history", HistoryResource, _annotation, POSITION),
    Row(f"{_AT}/changes", ChangesResource, _annotation, POSITION),
    Row(f"{_AT}/restore", RestoreResource, _annotation, POSITION),
    Row(f"{_AT}/held", HeldResource, _annotation, POSITION),
    Row(f"{_AT}/history/{{revision}}", RevisionResource, _revision, POSITION),
    Row(f"{_FILE}/history/", HistoryPageResource, _annotation),
    Row(f"{_ALL}/corrections", CorrectionsResource, _dataset),
    Row(f"{_ALL}/search", SearchResource, _dataset),
    Row(f"{_ALL}/mine", MineResource, _dataset),
    Row(f"{_FILE}/layers/?", LayersResource, _layer(_annotation)),
    Row(f"{_FILE}/layers/{{kind}}/info", InfoResource, _layer(_annotation)),
    Row(f"{_FILE}/layers/{{kind}}/by_id/{{number}}", ByIdResource, _layer(_annotation)),
    Row(f"{_FILE}/layers/{{kind}}/origin/{{number}}", OriginResource, _layer(_annotation)),
    Row(f"{_FILE}/layers/{{kind}}/spatial{{level}}/{{cell}}", CellResource, _layer(_annotation)),
    Row(f"{_ALL}/layers/?", LayersResource, _layer(_dataset)),
    Row(f"{_ALL}/layers/{{kind}}/info", InfoResource, _layer(_dataset)),
    Row(f"{_ALL}/layers/{{kind}}/by_id/{{number}}", ByIdResource, _layer(_dataset)),
    Row(f"{_ALL}/layers/{{kind}}/origin/{{number}}", OriginResource, _layer(_dataset)),
    Row(f"{_ALL}/layers/{{kind}}/spatial{{level}}/{{cell}}", CellResource, _layer(_dataset)),
    Row("/{dataset}/{scale}/{chunk}.tiff", TiffResource, _tiff),
    Row("/{dataset}/{scale}/{chunk}", ChunkResource, _chunk),
    Row("/{dataset}/info", VolumeInfoResource, _dataset),
    Row("/{directory}/", DirectoryResource, _path("directory")),
    Row("/{file}", FileResource, _file),
)

OF_UI = frozenset({UiResource, UiRedirect, UiAssetResource})
"""The resources that only a service with a second user interface has."""

# --- patterns of the parts of a template ---

_BOX = r"-?[0-9]+--?[0-9]+_-?[0-9]+--?[0-9]+_-?[0-9]+--?[0-9]+"
_SCALE = r"[0-9.]+_[0-9.]+_[0-9.]+"
# In any directory, a name that is a box is a chunk; in a directory named like a resolution, every
# name without an extension is.
_CHUNK = rf"(?:(?P<directory>/.+)/(?P<stem>{_BOX})|(?P<scale>(?:/.+)?/{_SCALE})/(?P<leaf>[^/.]+))"

_PATTERNS = {
    "/{dataset}/{scale}/{chunk}.tiff": f"{_CHUNK}(?P<suffix>[.]tiff?)",
    "/{dataset}/{scale}/{chunk}": _CHUNK,
    "/{dataset}": "(?P<dataset>(?:/.+)?)",
    "{block}": "(?P<block>[^/]+)",
    "{leaf}.json": "(?P<leaf>[^/]+[.]json)",
    "{revision}": "(?P<revision>[0-9]{1,15})",
    "{kind}": f"(?P<kind>{'|'.join(kind.value for kind in GeometryKind)})",
    "{number}": "(?P<number>[0-9]{1,20})",
    "{level}": "(?P<level>[0-9]{1,3})",
    "{cell}": "_".join(f"(?P<{axis}>[0-9]{{1,9}})" for axis in "xyz"),
    "{asset}": "(?P<asset>.+)",
    "/{directory}": "(?P<directory>/.+)",
    "/{file}": "(?P<file>/.+)",
    "/?": "/?",
}
_PART = re.compile("|".join(map(re.escape, _PATTERNS)))


def pattern_of(template: str) -> str:
    """Return the regular expression for the whole path of a template."""
    pattern, end = "", 0
    for part in _PART.finditer(template):
        pattern += re.escape(template[end : part.start()]) + _PATTERNS[part[0]]
        end = part.end()
    return pattern + re.escape(template[end:])


def add_routes(app: App | OrderedRouter, resources: Iterable[object]) -> None:
    """Add the rows of the table to an app.

    Args:
        app: An app with an `OrderedRouter`; or such a router, which tells who would respond.
        resources: One instance of each class in the table, or the class itself where nobody is to
            respond; rows without one are skipped.
    """
    by_class = {
        resource if isinstance(resource, type) else type(resource): resource
        for resource in resources
    }
    for row in ROUTES:
        if row.resource in by_class:
            app.add_route(
                row.template.removesuffix("/?"),
                by_class[row.resource],
                pattern=pattern_of(row.template),
                values=row.values,
                parameter=row.parameter,
            )
