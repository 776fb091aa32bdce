"""An HTML page as tests read it. In a module of its own: the pages of several rooms are checked alike."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "img", "input", "br", "hr", "link"}
LOADING = {"src", "href", "xlink:href", "srcset", "data", "poster", "action"}

Attributes = dict[str, str | None]


class Page(HTMLParser):
    """Fails on tags that are not closed in order; collects tags with their attributes, and text.

    words: every piece of text; visible: those outside of style sheets.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, Attributes]] = []
        self.words: list[str] = []
        self.visible: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    @property
    def text(self) -> str:
        """All text in one."""
        return "".join(self.words)

    @property
    def names(self) -> list[str]:
        """The tags' names, in order."""
        return [tag for tag, _ in self.tags]

    @property
    def ids(self) -> list[str]:
        """Every id, in order."""
        return [value or "" for _, attributes in self.tags for name, value in attributes.items() if name == "id"]

    @property
    def addresses(self) -> list[str]:
        """Everything that a browser would load or go to."""
        return [value or "" for _, attributes in self.tags for name, value in attributes.items() if name in LOADING]

    def count(self, tag: str, class_name: str) -> int:
        """How many tags of this name have the class."""
        return sum(t == tag and class_name in (a.get("class") or "").split() for t, a in self.tags)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if "style" not in self._open[-1:]:
            self.visible.append(data)
