"""The application factory: `create_app` wires the service together, and does nothing else."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import falcon
from falcon.routing import CompiledRouter

from neurotrale.annotations.documents.contents import Contents
from neurotrale.annotations.documents.index_files import IndexFiles
from neurotrale.annotations.files.change_feed import ChangeFeed
from neurotrale.annotations.files.paths import AnnotationFiles
from neurotrale.annotations.history import AnnotationHistory
from neurotrale.annotations.merging.view_store import Views
from neurotrale.annotations.refusals import Refusals
from neurotrale.annotations.store import AnnotationStore
from neurotrale.annotations.transaction import FileChanges
from neurotrale.annotations.writes import AnnotationWriter, FileWriter
from neurotrale.chunks.store import Chunks
from neurotrale.datasets.catalog import Catalog
from neurotrale.datasets.counted_writer import CountedWriter
from neurotrale.datasets.dataset_ids import DatasetIds
from neurotrale.layers.sources import LayerSources
from neurotrale.layers.spatial_index import CoordinateSpaces
from neurotrale.locking.locks import Locks
from neurotrale.locking.writers import WriterClaims
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.files import Files
from neurotrale.storage.shared_files import SharedFiles
from neurotrale.storage.state import ServiceId
from neurotrale.tokens.file import check_not_served
from neurotrale.tokens.watch import SharedTokens, watch_in_background
from neurotrale.web.app_settings import AppSettings
from neurotrale.web.auth import TokenMiddleware, public_paths
from neurotrale.web.error_handlers import add_error_handlers
from neurotrale.web.origins import KnownHosts, WritingPages, grants_to
from neurotrale.web.prefixes import Prefixes
from neurotrale.web.resources.annotations import AnnotationResource
from neurotrale.web.resources.api import (
    AssetResource,
    DocsRedirectResource,
    DocsResource,
    DocumentResource,
    HealthResource,
    MetricsResource,
)
from neurotrale.web.resources.changes import ChangesResource
from neurotrale.web.resources.chunks import ChunkResource, ChunkSender, TiffResource
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
    Layers,
    LayersResource,
    OriginResource,
)
from neurotrale.web.resources.mine import MineResource, note_refusal
from neurotrale.web.resources.search import SearchResource
from neurotrale.web.resources.webapps import (
    UiAssetResource,
    UiRedirect,
    UiResource,
    ViewerAssetResource,
    ViewerRedirect,
    ViewerResource,
)
from neurotrale.web.responses import Compressor
from neurotrale.web.router import (
    App,
    CommonHeaders,
    OrderedRouter,
    OriginMiddleware,
    ViewerMiddleware,
)
from neurotrale.web.routes import add_routes
from neurotrale.web.webapps import VIEWER_HEAD, Bundle


def create_app(
    settings: AppSettings,
    tokens: SharedTokens | None = None,
    writer: AnnotationWriter | None = None,
) -> App:
    """Create the WSGI application.

    Args:
        settings: The settings.
        tokens: The tokens of the token file, if the caller watches it; by default a thread of this
            process does.
        writer: Writes annotation files, if another process does; by default this one does.

    Raises:
        StartError: The data root, the token file or a viewer is unusable, or no lock is known to
            exclude other writers on this file system.
    """
    data_root = DataRoot(settings.root, follow_symlinks=settings.follow_symlinks)
    data_root.check()
    files = Files(data_root)
    compressor = Compressor(settings.compress)
    chunks = Chunks(files)
    spaces = CoordinateSpaces(chunks.infos)
    sender = ChunkSender(chunks, compressor, _cache_control(settings.chunk_cache_s))
    share = settings.share == "auto"
    annotation_files = AnnotationFiles(data_root, share=share)
    refusals = None if settings.read_only else Refusals(data_root.root)
    viewer, ui = _bundle(settings.viewer, VIEWER_HEAD), _bundle(settings.ui)
    shared = SharedFiles(settings.shelf)
    contents = Contents(IndexFiles(settings.shelf, settings.root, keep=not settings.read_only))
    if writer is None and not settings.read_only:
        writer = create_writer(settings, shared)
    store = AnnotationStore(annotation_files, contents, writer)
    history = AnnotationHistory(contents, writer)
    if settings.token_file is not None:
        check_not_served(settings.token_file, data_root.root)
        tokens = tokens or watch_in_background(settings.token_file)
    public = public_paths(with_metrics=settings.metrics_public)
    router = OrderedRouter()
    named = settings.cors_origins or ()
    readers = "*" if settings.cors_origins is None or "*" in named else named
    hosts = pages = None
    if tokens is None:
        hosts = None if settings.host_names is None else KnownHosts(settings.host_names)
        pages = WritingPages(named, refusals) if refusals is not None and "*" not in named else None
    app: App = falcon.App(
        router=cast(CompiledRouter, router),
        middleware=[
            CommonHeaders(varies=readers != "*"),
            ViewerMiddleware(
                Prefixes(data_root, tokens=tokens is not None, base_path=settings.base_path),
                None if settings.read_only else ServiceId(data_root.root),
                partial(note_refusal, refusals),
            ),
            OriginMiddleware(hosts, pages, read_only=settings.read_only),
            grants_to(readers),
            *([] if tokens is None else [TokenMiddleware(tokens, public)]),
        ],
    )
    add_error_handlers(app)
    ids = DatasetIds(data_root, may_write=not settings.read_only, share=share)
    catalog = Catalog(chunks, annotation_files, ids, shared)
    layers = Layers(LayerSources(annotation_files, spaces, shared), compressor)
    add_routes(
        app,
        [
            HealthResource(data_root, tokens, read_only=settings.read_only),
            MetricsResource(),
            DocumentResource(
                lambda: _document(app, router, tokens=settings.token_file is not None)
            ),
            DocsResource(),
            DocsRedirectResource(),
            AssetResource(compressor),
            PreviewResource(catalog),
            OpenResource(catalog, ui),
            StartResource(catalog, store),
            FilesPageResource(catalog),
            DatasetResource(catalog),
            ViewerResource(viewer),
            ViewerAssetResource(viewer),
            ViewerRedirect(),
            *([] if ui is None else [UiResource(ui), UiRedirect(), UiAssetResource(ui)]),
            IndexResource(
                data_root,
                viewer=viewer is not None,
                ui=ui is not None,
                read_only=settings.read_only,
                pages=pages,
            ),
            AnnotationResource(store, settings.max_body_bytes, settings.guard, compressor, spaces),
            HistoryResource(annotation_files, history),
            ChangesResource(ChangeFeed(annotation_files, contents), compressor),
            RevisionResource(annotation_files, history),
            RestoreResource(annotation_files, history),
            HeldResource(annotation_files, history),
            HistoryPageResource(annotation_files, read_only=settings.read_only),
            CorrectionsResource(annotation_files),
            MineResource(files, catalog.activity, refusals),
            SearchResource(annotation_files, spaces),
            LayersResource(layers),
            InfoResource(layers),
            ByIdResource(layers),
            OriginResource(layers),
            CellResource(layers),
            TiffResource(sender),
            ChunkResource(sender),
            DirectoryResource(data_root),
            VolumeInfoResource(files),
            FileResource(files),
        ],
    )
    return app


def create_writer(settings: AppSettings, shared: SharedFiles | None = None) -> FileWriter:
    """Create the writer of annotation files of a service that may write.

    Raises:
        StartError: The data root is unusable, or no lock is known to exclude other writers on this
            file system.
    """
    share = settings.share == "auto"
    data_root = DataRoot(settings.root, follow_symlinks=settings.follow_symlinks)
    data_root.check()
    locks = Locks(settings.lock, settings.lock_timeout_s, share=share, claims=WriterClaims())
    locks.check(data_root.root)
    contents = Contents(IndexFiles(settings.shelf, settings.root))
    ids = DatasetIds(data_root, may_write=True, share=share)
    changes, views = FileChanges(locks, contents, share=share), Views(data_root.root)
    return CountedWriter(changes, views, ids.keep, shared or SharedFiles(settings.shelf))


def _document(app: App, router: OrderedRouter, *, tokens: bool) -> dict[str, Any]:
    # Importing YAML and apispec takes as long as half of the service.
    from neurotrale.web.openapi.document import openapi_document

    return openapi_document(app, router, tokens=tokens)


def _bundle(directory: Path | None, head: str = "") -> Bundle | None:
    return None if directory is None else Bundle(directory, head)


def _cache_control(seconds: int) -> str:
    # private: a shared cache must not keep what requires a token
    return f"private, max-age={seconds}" if seconds else "no-cache"
