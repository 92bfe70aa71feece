"""The browser that tests look with: the system's Chromium, or else Playwright's own.

`python -m tests.e2e.browser` ends with 0 if there is one that starts.
"""

import shutil
import sys

from playwright.sync_api import Browser, Error, Playwright, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


def launch(playwright: Playwright) -> Browser:
    """Start it. Raises Error if there is none that starts."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    # Its sandbox cannot be had by root, or in a container; the pages are our own.
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


if __name__ == "__main__":
    with sync_playwright() as found:
        try:
            launch(found).close()
        except Error:
            sys.exit(1)
