"""Pictures of what Chromium shows."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Error as BrowserError
from playwright.sync_api import Locator, Page

TRIES = 30
BETWEEN_TRIES_MS = 100


def screenshot(shown: Page | Locator, **options: Any) -> bytes:
    """Take a picture of a page or of a part of it.

    Chromium refuses ("Unable to capture screenshot") while it replaces one document by another,
    which takes a loaded machine a moment.
    """
    page = shown if isinstance(shown, Page) else shown.page
    for _ in range(TRIES):
        try:
            return shown.screenshot(**options)
        except BrowserError as error:
            if "captureScreenshot" not in str(error):
                raise
        page.wait_for_timeout(BETWEEN_TRIES_MS)
    return shown.screenshot(**options)
