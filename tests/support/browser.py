"""A real Chromium for tests of the web page: the system's, driven by Playwright, which downloads none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


@dataclass
class Seen:
    """What a browser did: addresses that it asked for, and errors on its console."""

    asked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def foreign(self) -> list[str]:
        """Addresses of other machines."""
        own = ("127.0.0.1", None)
        return [address for address in self.asked if urlsplit(address).hostname not in own]


@dataclass
class Browser:
    """A running Chromium. Each visitor has a profile of his own."""

    chromium: Any
    seen: Seen = field(default_factory=Seen)

    def visitor(self, *, viewport: dict[str, int] = DESK, **options: Any) -> Any:
        """A new profile with one empty page."""
        page = self.chromium.new_context(viewport=viewport, **options).new_page()
        page.set_default_timeout(45_000)
        page.on("request", lambda request: self.seen.asked.append(request.url))
        page.on("console", lambda said: said.type == "error" and self.seen.errors.append(said.text))
        page.on("pageerror", lambda error: self.seen.errors.append(str(error)))
        return page

    @contextmanager
    def visits(self, *, harmless: str | None = None) -> Iterator[Callable[..., Any]]:
        """`visitor`, whose pages are closed at the end. Nobody may have asked another machine, or met an error.

        harmless: words of an error that counts for nothing.
        """
        pages: list[Any] = []

        def visit(**options: Any) -> Any:
            pages.append(self.visitor(**options))
            return pages[-1]

        self.seen.asked.clear()
        self.seen.errors.clear()
        yield visit
        for page in pages:
            page.context.close()
        assert self.seen.foreign == [], "no request leaves the machine"
        assert [error for error in self.seen.errors if harmless is None or harmless not in error] == []


@contextmanager
def browser() -> Iterator[Browser]:
    """The system's Chromium; TAGMOE_CHROMIUM names another. The test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("TAGMOE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs Chromium; TAGMOE_CHROMIUM names its program")
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        chromium = driver.chromium.launch(executable_path=path, args=options)
        try:
            yield Browser(chromium)
        finally:
            chromium.close()
