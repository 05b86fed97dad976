"""The settings of the application."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from neurotrale.settings.service import (
    BASE_PATH,
    CHUNK_CACHE,
    COMPRESS,
    CORS_ORIGINS,
    FOLLOW_SYMLINKS,
    GUARD,
    LOCK_TIMEOUT,
    MAX_BODY_MB,
    METRICS_PUBLIC,
    READ_ONLY,
    TOKEN_FILE,
    UI,
    CompressMode,
    GuardMode,
)
from neurotrale.settings.shared import LOCK, SHARE, LockSetting, ShareSetting


@dataclass(frozen=True, slots=True)
class AppSettings:
    """The settings of the application.

    Args:
        root: The data root.
        read_only: Refuse every write.
        follow_symlinks: Also serve symbolic links that point outside the root.
        cors_origins: Origins whose pages may read and write; ``("*",)`` means all. With None, all
            may read, and those of the same host and of loopback addresses may write.
        host_names: Names that the service may be called by without a token, besides localhost;
            None for any.
        base_path: The path that a proxy keeps in front of all others; "" for none.
        max_body_bytes: The largest accepted body of a PUT or PATCH.
        lock: The kind of lock that excludes other writers.
        lock_timeout_s: How long a writer waits for the lock.
        share: Whether the group of a shared directory may change new files and blocks.
        guard: Whose PUTs are merged, and whether removals are held back.
        compress: What to compress for clients that accept it.
        chunk_cache_s: How long browsers may use a cached chunk without revalidation.
        metrics_public: Whether the counts may be read without a token.
        token_file: The file with the tokens; None if requests need no token.
        shelf: Private directory in which workers share large results; None for none.
        viewer: Directory of the built viewer; None if it is not installed.
        ui: Directory of a second user interface to host; None for none.
    """

    root: Path
    read_only: bool = READ_ONLY.default
    follow_symlinks: bool = FOLLOW_SYMLINKS.default
    cors_origins: tuple[str, ...] | None = CORS_ORIGINS.default
    host_names: tuple[str, ...] | None = None
    base_path: str = BASE_PATH.default
    max_body_bytes: int = MAX_BODY_MB.default * 2**20
    lock: LockSetting = LOCK.default
    lock_timeout_s: float = LOCK_TIMEOUT.default
    share: ShareSetting = SHARE.default
    guard: GuardMode = GUARD.default
    compress: CompressMode = COMPRESS.default
    chunk_cache_s: int = CHUNK_CACHE.default
    metrics_public: bool = METRICS_PUBLIC.default
    token_file: Path | None = TOKEN_FILE.default
    shelf: Path | None = None
    viewer: Path | None = None
    ui: Path | None = UI.default
