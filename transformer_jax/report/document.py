"""The content of a page as a list of blocks, and its two forms: HTML in one file, and Markdown."""

import base64
import dataclasses
import html
import re
from collections.abc import Sequence
from pathlib import Path

import jinja2

_TEMPLATE = Path(__file__).with_name("page.html")


@dataclasses.dataclass(frozen=True)
class Heading:
    """The title of a section."""

    text: str


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """Running text; a `note` stands out: it names what is missing, or warns."""

    text: str
    note: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells; the columns whose indices are in `numbers` are aligned to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class Preformatted:
    """Lines as a program prints them."""

    text: str


@dataclasses.dataclass(frozen=True)
class Figure:
    """A PNG picture; `name` is that of its file, without .png."""

    name: str
    png: bytes
    caption: str

    @property
    def base64(self) -> str:
        """The picture as it is embedded in a page."""
        return base64.b64encode(self.png).decode()


Block = Heading | Paragraph | Table | Preformatted | Figure


@dataclasses.dataclass(frozen=True)
class Document:
    """A page."""

    title: str
    blocks: Sequence[Block]


def to_html(document: Document) -> str:
    """The whole page; it loads no other file and needs no network."""
    template = jinja2.Template(
        _TEMPLATE.read_text(encoding="utf-8"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    blocks = [(type(block).__name__, block) for block in document.blocks]
    return template.render(title=document.title, blocks=blocks)


def to_markdown(document: Document, figures: str) -> str:
    """The same page, with its pictures in the folder `figures`."""
    blocks = [_markdown_block(block, figures) for block in document.blocks]
    return "\n\n".join([f"# {_markdown(document.title)}", *blocks]) + "\n"


def _markdown_block(block: Block, figures: str) -> str:
    match block:
        case Heading(text):
            return f"## {_markdown(text)}"
        case Paragraph(text, note):
            return f"{'> ' if note else ''}{_markdown(text)}"
        case Preformatted(text):
            return f"```text\n{text}\n```"
        case Figure(name, _, caption):
            return f"![{_markdown(caption)}]({figures}/{name}.png)\n\n{_markdown(caption)}"
        case Table(header, rows, numbers):
            rule = ["---:" if n in numbers else "---" for n in range(len(header))]
            lines = [map(_markdown, header), rule, *(map(_markdown, row) for row in rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown(text: str) -> str:
    """One line in which nothing is markup: names have underscores, and translations anything."""
    return re.sub(r"([\\`*_\[\]|~#$!])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
