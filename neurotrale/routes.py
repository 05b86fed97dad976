"""What the service answers: one ordered table, the first match counts."""

from __future__ import annotations

import re
from collections.abc import Mapping

from neurotrale.bundles import Bundle
from neurotrale.datasets.catalog import Catalog
from neurotrale.layers.kinds import Kind
from neurotrale.names import AnnotationName, BlockName, ChunkPath, split_path
from neurotrale.resources.annotations import AnnotationResource
from neurotrale.resources.api import (
    AssetResource,
    DocsRedirectResource,
    DocsResource,
    DocumentResource,
    HealthResource,
)
from neurotrale.resources.bundles import (
    SlashResource,
    UiAssetResource,
    UiResource,
    ViewerAssetResource,
    ViewerResource,
)
from neurotrale.resources.chunks import ChunkResource, TiffResource
from neurotrale.resources.corrections import CorrectionsResource
from neurotrale.resources.datasets import DatasetResource, OpenResource, PreviewResource
from neurotrale.resources.files import FileResource
from neurotrale.resources.history import (
    HeldResource,
    HistoryResource,
    RestoreResource,
    RevisionResource,
)
from neurotrale.resources.layers import (
    ByIdResource,
    CellResource,
    InfoResource,
    Layers,
    LayersResource,
    OriginResource,
)
from neurotrale.resources.listing import DirectoryResource, IndexResource
from neurotrale.resources.past import FilesPageResource, HistoryPageResource
from neurotrale.resources.search import SearchResource
from neurotrale.router import App, Values

_BOX = r"-?[0-9]+--?[0-9]+_-?[0-9]+--?[0-9]+_-?[0-9]+--?[0-9]+"
_SCALE = r"[0-9.]+_[0-9.]+_[0-9.]+"

# A chunk is named after its box in any directory; below a directory named like a resolution
# every name without an extension is one.
CHUNK = rf"(?:(?P<directory>/.+)/(?P<stem>{_BOX})|(?P<scale>(?:/.+)?/{_SCALE})/(?P<leaf>[^/.]+))"

ANNOTATION = "(?P<dataset>(?:/.+)?)/annotations/(?P<block>[^/]+)/(?P<leaf>[^/]+[.]json)"


DATASET = "(?P<dataset>(?:/.+)?)/annotations"
_KIND = f"(?P<kind>{'|'.join(kind.value for kind in Kind)})"


def _chunk(groups: Mapping[str, str]) -> dict[str, object]:
    directory = split_path(groups["directory"] or groups["scale"])
    (stem,) = split_path(groups["stem"] or groups["leaf"])
    return {"chunk": ChunkPath(directory, stem)}


def _tiff(groups: Mapping[str, str]) -> dict[str, object]:
    return {**_chunk(groups), "suffix": groups["suffix"]}


def _annotation(groups: Mapping[str, str]) -> dict[str, object]:
    dataset = split_path(groups["dataset"])
    (leaf,) = split_path(groups["leaf"])
    return {"name": AnnotationName(dataset, BlockName.parse(groups["block"]), leaf)}


def _revision(groups: Mapping[str, str]) -> dict[str, object]:
    return {**_annotation(groups), "revision": int(groups["revision"])}


def _dataset(groups: Mapping[str, str]) -> dict[str, object]:
    return {"dataset": split_path(groups["dataset"])}


def _layer(scope_of: Values) -> Values:
    def values(groups: Mapping[str, str]) -> dict[str, object]:
        (scope,) = scope_of(groups).values()
        found: dict[str, object] = {"scope": scope}
        if "kind" in groups:
            found["kind"] = Kind(groups["kind"])
        if "number" in groups:
            found["number"] = int(groups["number"])
        if "level" in groups:
            found["level"] = int(groups["level"])
            found["cell"] = tuple(int(groups[axis]) for axis in "xyz")
        return found

    return values


def _add_layers(app: App, layers: Layers, scope: str, pattern: str, scope_of: Values) -> None:
    values = _layer(scope_of)

    def add(path: str, resource: object, rest: str) -> None:
        app.add_route(f"{scope}{path}", resource, pattern=f"{pattern}{rest}", values=values)

    add("/layers", LayersResource(layers), "/layers/?")
    add("/layers/{kind}/info", InfoResource(layers), f"/layers/{_KIND}/info")
    for index, resource in (("by_id", ByIdResource(layers)), ("origin", OriginResource(layers))):
        rest = f"/layers/{_KIND}/{index}/(?P<number>[0-9]{{1,20}})"
        add(f"/layers/{{kind}}/{index}/{{number}}", resource, rest)
    cell = "_".join(f"(?P<{axis}>[0-9]{{1,9}})" for axis in "xyz")
    add(
        "/layers/{kind}/spatial{level}/{cell}",
        CellResource(layers),
        f"/layers/{_KIND}/spatial(?P<level>[0-9]{{1,3}})/{cell}",
    )


def _directory(groups: Mapping[str, str]) -> dict[str, object]:
    return {"directory": split_path(groups["directory"])}


def _file(groups: Mapping[str, str]) -> dict[str, object]:
    return {"file": split_path(groups["file"])}


def _asset(groups: Mapping[str, str]) -> dict[str, object]:
    return {"asset": split_path(groups["asset"])}


def _add_pages(app: App, catalog: Catalog, viewer: Bundle | None, ui: Bundle | None) -> None:
    """Add what people open: data sets, and the viewers. `/ui/` is there only when it is wanted."""
    template, pattern = "/api/datasets/{dataset}", "/api/datasets(?P<dataset>(?:/.+)?)"
    for last, resource in (
        ("preview.png", PreviewResource(catalog)),
        ("open", OpenResource(catalog)),
        ("history", FilesPageResource(catalog)),
    ):
        app.add_route(
            f"{template}/{last}", resource, pattern=f"{pattern}/{re.escape(last)}", values=_dataset
        )
    app.add_route(template, DatasetResource(catalog), pattern=f"{pattern}/?", values=_dataset)
    _add_bundle(app, "viewer", ViewerResource(viewer), ViewerAssetResource(viewer))
    if ui is not None:
        _add_bundle(app, "ui", UiResource(ui), UiAssetResource(ui))


def _add_bundle(app: App, name: str, page: object, assets: object) -> None:
    app.add_route(f"/{name}/", page, pattern=f"/{name}/")
    app.add_route(f"/{name}", SlashResource(), pattern=f"/{name}")
    app.add_route(f"/{name}/{{asset}}", assets, pattern=f"/{name}/(?P<asset>.+)", values=_asset)


def add_routes(
    app: App,
    *,
    health: HealthResource,
    document: DocumentResource,
    assets: AssetResource,
    catalog: Catalog,
    viewer: Bundle | None,
    ui: Bundle | None,
    annotations: AnnotationResource,
    history: HistoryResource,
    history_page: HistoryPageResource,
    revision: RevisionResource,
    restore: RestoreResource,
    held: HeldResource,
    corrections: CorrectionsResource,
    layers: Layers,
    search: SearchResource,
    chunks: ChunkResource,
    tiffs: TiffResource,
    index: IndexResource,
    directories: DirectoryResource,
    files: FileResource,
) -> None:
    """Add every route of the service to an app that has an `OrderedRouter`."""
    index_html = IndexResource(index.tree, viewer=viewer is not None, ui=ui is not None)
    add = app.add_route
    add("/api/health", health, pattern="/api/health")
    add("/api/openapi.json", document, pattern="/api/openapi[.]json")
    add("/api/", DocsResource(), pattern="/api/")
    add("/api", DocsRedirectResource(), pattern="/api")
    _add_pages(app, catalog, viewer, ui)
    add("/api/{asset}", assets, pattern="/api/(?P<asset>.+)", values=dict)
    add("/", index, pattern="/")
    add("/index.html", index_html, pattern="/index[.]html")
    template = "/{dataset}/annotations/{block}/{leaf}.json"
    add(template, annotations, pattern=ANNOTATION, values=_annotation)
    for last, resource in (("history", history), ("restore", restore), ("held", held)):
        add(f"{template}/{last}", resource, pattern=f"{ANNOTATION}/{last}", values=_annotation)
    add(f"{template}/history/", history_page, pattern=f"{ANNOTATION}/history/", values=_annotation)
    add(
        f"{template}/history/{{revision}}",
        revision,
        pattern=f"{ANNOTATION}/history/(?P<revision>[0-9]{{1,15}})",
        values=_revision,
    )
    add(
        "/{dataset}/annotations/corrections",
        corrections,
        pattern=f"{DATASET}/corrections",
        values=_dataset,
    )
    add("/{dataset}/annotations/search", search, pattern=f"{DATASET}/search", values=_dataset)
    _add_layers(app, layers, template, ANNOTATION, _annotation)
    _add_layers(app, layers, "/{dataset}/annotations", DATASET, _dataset)
    add(
        "/{dataset}/{scale}/{chunk}.tiff",
        tiffs,
        pattern=f"{CHUNK}(?P<suffix>[.]tiff?)",
        values=_tiff,
    )
    add("/{dataset}/{scale}/{chunk}", chunks, pattern=CHUNK, values=_chunk)
    add("/{directory}/", directories, pattern="(?P<directory>/.+)/", values=_directory)
    add("/{file}", files, pattern="(?P<file>/.+)", values=_file)
