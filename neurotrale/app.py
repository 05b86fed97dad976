"""Wires the service together; decides nothing and reads neither environment nor arguments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import falcon
from falcon import Request, Response
from falcon.routing import CompiledRouter

from neurotrale.annotations.change import FileChanges
from neurotrale.annotations.content import Contents
from neurotrale.annotations.filesystems import LockSetting
from neurotrale.annotations.guard import GuardMode
from neurotrale.annotations.locks import Locks
from neurotrale.annotations.past import Past
from neurotrale.annotations.places import Places
from neurotrale.annotations.store import AnnotationStore
from neurotrale.bundles import VIEWER_HEAD, Bundle
from neurotrale.chunks.store import Chunks
from neurotrale.datasets.catalog import Catalog
from neurotrale.files import Files
from neurotrale.gate import Gate
from neurotrale.layers.sources import Sources as LayerSources
from neurotrale.layers.space import Spaces
from neurotrale.openapi import openapi_document
from neurotrale.problems import add_error_handlers
from neurotrale.resources.annotations import AnnotationResource
from neurotrale.resources.api import AssetResource, DocumentResource, HealthResource
from neurotrale.resources.chunks import ChunkResource, Sources, TiffResource
from neurotrale.resources.coding import Coder, CompressMode
from neurotrale.resources.corrections import CorrectionsResource
from neurotrale.resources.files import FileResource
from neurotrale.resources.history import (
    HeldResource,
    HistoryResource,
    RestoreResource,
    RevisionResource,
)
from neurotrale.resources.layers import Layers
from neurotrale.resources.listing import DirectoryResource, IndexResource
from neurotrale.resources.past import HistoryPageResource
from neurotrale.resources.search import SearchResource
from neurotrale.router import App, OrderedRouter
from neurotrale.routes import add_routes
from neurotrale.tokens.file import TokenFile, check_not_served
from neurotrale.tree import Tree

EXPOSED_HEADERS = ("ETag", "Content-Range", "Content-Encoding", "Content-Length", "Accept-Ranges")


@dataclass(frozen=True, slots=True)
class AppSettings:
    """What the service may be told.

    Args:
        root: The data root.
        read_only: Refuse every write.
        follow_symlinks: Serve what symbolic links point to outside the root, too.
        cors_origins: Pages of these origins may call the service; ``("*",)`` means all.
        max_body_bytes: The largest body of a PUT or PATCH.
        lock: The kind of lock that keeps writers apart.
        lock_timeout_s: How long a writer waits for its turn.
        guard: Which PUTs that remove several annotations are merged.
        compress: What is compressed on the way to clients that take it.
        chunk_cache_s: How long browsers may use their copy of a chunk without asking.
        token_file: Whose tokens every request needs one of; None asks for none.
        shelf: Directory of this service alone where workers leave big things for each other.
        viewer: Directory of the built viewer; None when it is not installed.
        ui: Directory of another viewer that is served beside it.
    """

    root: Path
    read_only: bool = False
    follow_symlinks: bool = False
    cors_origins: tuple[str, ...] = ("*",)
    max_body_bytes: int = 2**30
    lock: LockSetting = "auto"
    lock_timeout_s: float = 10.0
    guard: GuardMode = "browser"
    compress: CompressMode = "auto"
    chunk_cache_s: int = 0
    token_file: Path | None = None
    shelf: Path | None = None
    viewer: Path | None = None
    ui: Path | None = None


class CommonHeaders:
    """Headers of every answer that do not depend on what is answered.

    Args:
        varies: Whether the answer depends on the page's origin, which caches must know.
    """

    def __init__(self, *, varies: bool) -> None:
        self.varies = varies

    def process_response(
        self, req: Request, resp: Response, resource: object, req_succeeded: bool
    ) -> None:
        """Add the headers, to errors too."""
        resp.set_header("X-Content-Type-Options", "nosniff")
        if self.varies:
            resp.append_header("Vary", "Origin")


def create_app(settings: AppSettings) -> App:
    """Make the WSGI application.

    Raises:
        StartError: The data root, the token file or a viewer is not usable, or no lock is known to
            exclude other writers there.
    """
    tree = Tree(settings.root, follow_symlinks=settings.follow_symlinks)
    tree.check()
    files = Files(tree)
    coder = Coder(settings.compress)
    chunks = Chunks(files)
    spaces = Spaces(chunks.infos)
    sources = Sources(chunks, coder, _cache_control(settings.chunk_cache_s))
    places = Places(tree)
    viewer, ui = _bundle(settings.viewer, VIEWER_HEAD), _bundle(settings.ui)
    contents = Contents()
    changes = None if settings.read_only else FileChanges(_locks(settings, tree), contents)
    store = AnnotationStore(places, contents, changes)
    past = Past(contents, changes)
    router = OrderedRouter()
    any_origin = settings.cors_origins == ("*",)
    cors: falcon.CORSMiddleware[Any, Any] = falcon.CORSMiddleware(
        allow_origins="*" if any_origin else settings.cors_origins,
        expose_headers=EXPOSED_HEADERS,
        allow_private_network=True,
    )
    app: App = falcon.App(
        router=cast(CompiledRouter, router),
        middleware=[cors, CommonHeaders(varies=not any_origin), *_gates(settings.token_file, tree)],
    )
    add_error_handlers(app)
    add_routes(
        app,
        health=HealthResource(tree, read_only=settings.read_only),
        document=DocumentResource(
            lambda: openapi_document(app, router, tokens=settings.token_file is not None)
        ),
        assets=AssetResource(coder),
        catalog=Catalog(chunks, places),
        viewer=viewer,
        ui=ui,
        annotations=AnnotationResource(
            store, settings.max_body_bytes, settings.guard, coder, spaces
        ),
        history=HistoryResource(places, past),
        history_page=HistoryPageResource(places, read_only=settings.read_only),
        revision=RevisionResource(places, past),
        restore=RestoreResource(places, past),
        held=HeldResource(places, past),
        corrections=CorrectionsResource(places),
        layers=Layers(LayerSources(places, spaces, settings.shelf), coder),
        search=SearchResource(places, spaces),
        chunks=ChunkResource(sources),
        tiffs=TiffResource(sources),
        index=IndexResource(tree, viewer=viewer is not None, ui=ui is not None),
        directories=DirectoryResource(tree),
        files=FileResource(files),
    )
    return app


def _bundle(directory: Path | None, head: str = "") -> Bundle | None:
    return None if directory is None else Bundle(directory, head)


def _cache_control(seconds: int) -> str:
    # private: what a token may see is not for a shared cache
    return f"private, max-age={seconds}" if seconds else "no-cache"


def _gates(token_file: Path | None, tree: Tree) -> list[Gate]:
    if token_file is None:
        return []
    check_not_served(token_file, tree.root)
    return [Gate(TokenFile(token_file))]


def _locks(settings: AppSettings, tree: Tree) -> Locks:
    locks = Locks(settings.lock, settings.lock_timeout_s)
    locks.check(tree.root)
    return locks
