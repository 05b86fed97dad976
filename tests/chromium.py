"""Debian's Chromium, and other programs that tests need."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

REQUIRED = "NEUROTRALE_REQUIRE_BROWSER"


def program(name: str) -> str:
    """The path of a program; without it the test is skipped, or fails where all must be there."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"there is no {name!r}, and {REQUIRED} is set")
        pytest.skip(f"there is no {name!r} (on Debian: apt-get install {name})")
    return found


@contextmanager
def running_chromium(*options: str) -> Iterator[Browser]:
    """A browser without a window, until the end."""
    chromium = program("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, headless=True, args=["--no-sandbox", *options]
        )
        yield browser
        browser.close()
