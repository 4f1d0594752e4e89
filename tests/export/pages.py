"""Pages of a report, read back."""

from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"br", "hr", "img", "input", "link", "meta"}
SVG_SHAPES = {"circle", "image", "line", "path", "polyline", "rect"}
"""Written with a slash at their end, as SVG wants."""


@dataclass(frozen=True)
class Element:
    """A start tag."""

    tag: str
    attributes: dict[str, str]


@dataclass
class Page(HTMLParser):
    """A page whose tags must match; raises AssertionError where they do not."""

    source: str
    elements: list[Element] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def __hash__(self) -> int:
        return hash(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        counted = Counter(name for name, _ in attrs)
        assert not [name for name, count in counted.items() if count > 1], (tag, attrs)
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SVG_SHAPES, f"<{tag}/> at {self.getpos()}"
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> at {self.getpos()} closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.text.append(" ".join(data.split()))

    def attributes(self, name: str) -> list[str]:
        """Return every value of an attribute."""
        return [x.attributes[name] for x in self.elements if name in x.attributes]

    @property
    def words(self) -> str:
        """All that can be read, one space between."""
        return " ".join(filter(None, self.text))
