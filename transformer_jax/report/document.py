"""A page as a list of blocks, and its two forms: HTML in one file, and Markdown with its figures.

Text is text: whatever a name or a translation holds, neither form takes it for markup.
"""

import base64
import dataclasses
import html
import re
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Heading:
    """The title of a section."""

    text: str


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """Running text; `note` sets apart what is missing, or to be careful with."""

    text: str
    note: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells; columns named in `numbers` (by their place) are aligned to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class Preformatted:
    """Lines as a program prints them."""

    text: str


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
      name: of its file, without .png.
      png: its content.
      caption: below it, and in its place for who cannot see it.
    """

    name: str
    png: bytes
    caption: str


Block = Heading | Paragraph | Table | Preformatted | Figure


@dataclasses.dataclass(frozen=True)
class Document:
    """A page."""

    title: str
    blocks: Sequence[Block]

    @property
    def figures(self) -> list[Figure]:
        """All of them, in their order."""
        return [block for block in self.blocks if isinstance(block, Figure)]


def to_html(document: Document) -> str:
    """The page, whole: no other file and no network is needed, and none is allowed."""
    title = _html(document.title)
    body = "\n".join(map(_html_block, document.blocks))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


def to_markdown(document: Document, figures: str) -> str:
    """The same, with its pictures in the folder `figures`."""
    blocks = [_markdown_block(block, figures) for block in document.blocks]
    return "\n\n".join([f"# {_markdown(document.title)}", *blocks]) + "\n"


# Even if some text were taken for markup after all, nothing would be run or asked for.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { --text: #1c1e21; --soft: #5d636b; --line: #d9dde3; --page: #fff; --raised: #f5f6f8;
  --note: #b26a00; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e6ea; --soft: #9aa1ab; --line: #3a3f47;
  --page: #16181c; --raised: #1f2227; --note: #e0a03c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC",
    sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.25rem 5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1.25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--line); }
p { margin: .75rem 0; max-width: 46rem; overflow-wrap: anywhere; }
.note { border-left: 3px solid var(--note); padding: .1rem 0 .1rem .8rem; color: var(--soft); }
.scroll { overflow-x: auto; margin: 1rem 0; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; line-height: 1.4; }
th, td { padding: .35rem .7rem; text-align: left; vertical-align: top; min-width: 3.5rem; }
td { max-width: 24rem; overflow-wrap: break-word; unicode-bidi: isolate; }
th { background: var(--raised); font-weight: 600; white-space: nowrap; }
tr + tr td { border-top: 1px solid var(--line); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
pre { background: var(--raised); border: 1px solid var(--line); border-radius: 6px;
  padding: .75rem 1rem; overflow-x: auto; font-size: .8125rem; line-height: 1.45; }
figure { margin: 1.25rem 0; }
figure img { display: block; width: 100%; height: auto; background: #fff; border-radius: 6px;
  border: 1px solid var(--line); }
figcaption { color: var(--soft); font-size: .875rem; margin-top: .4rem; }
"""


def _html_block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{_html(text)}</h2>"
        case Paragraph(text, note):
            return f'<p class="note">{_html(text)}</p>' if note else f"<p>{_html(text)}</p>"
        case Preformatted(text):
            return f"<pre>{_html(text)}</pre>"
        case Figure(_, png, caption):
            source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
            caption = _html(caption)
            return (
                f'<figure><img src="{source}" alt="{caption}">'
                f"<figcaption>{caption}</figcaption></figure>"
            )
        case Table(header, rows, numbers):
            head = _html_row("th", header, numbers)
            body = "\n".join(_html_row("td", row, numbers) for row in rows)
            return (
                f'<div class="scroll" tabindex="0"><table>\n<thead>{head}</thead>\n'
                f"<tbody>\n{body}\n</tbody></table></div>"
            )


def _html_row(tag: str, cells: Sequence[str], numbers: Sequence[int]) -> str:
    kinds = [' class="number"' if n in numbers else "" for n in range(len(cells))]
    inner = "".join(
        f"<{tag}{kind}>{_html(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True)
    )
    return f"<tr>{inner}</tr>"


# What HTML has no place for: control characters, and halves of surrogate pairs.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def _html(text: str) -> str:
    return html.escape(_UNPRINTABLE.sub("\ufffd", text))


def _markdown_block(block: Block, figures: str) -> str:
    match block:
        case Heading(text):
            return f"## {_markdown(text)}"
        case Paragraph(text, note):
            line = _STARTS_A_LIST.sub(lambda m: f"&#{ord(m[1][0])};{m[1][1:]}", _markdown(text))
            return f"> {line}" if note else line
        case Preformatted(text):
            text = _UNPRINTABLE.sub("\ufffd", text)
            longest = max(map(len, re.findall("`+", text)), default=0)
            fence = "`" * max(3, longest + 1)
            return f"{fence}text\n{text}\n{fence}"
        case Figure(name, _, caption):
            return f"![{_markdown(caption)}]({figures}/{name}.png)\n\n{_markdown(caption)}"
        case Table(header, rows, numbers):
            rule = ["---:" if n in numbers else "---" for n in range(len(header))]
            lines = [map(_markdown, header), rule, *(map(_markdown, row) for row in rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_ACTIVE = re.compile(r"([\\`*_\[\]|~#$!])")
_STARTS_A_LIST = re.compile(r"^([-+=]|\d+(?=[.)](?:\s|$)))")  # or a heading, or a line


def _markdown(text: str) -> str:
    """One line, in which nothing is markup."""
    text = " ".join(_UNPRINTABLE.sub("\ufffd", text).split())
    text = _ACTIVE.sub(r"\\\1", html.escape(text, quote=False))
    # "://" and "www." make links, and an "@" may call somebody.
    return text.replace("://", "&#58;//").replace("@", "&#64;").replace("www.", "www&#46;")
