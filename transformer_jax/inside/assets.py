"""The files of the page, and the page saved as one file that needs no server and no network."""

import base64
import gzip
import importlib.resources
import json
import re
from collections.abc import Sequence
from typing import Any

INDEX = "index.html"
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_STYLE = '<link rel="stylesheet" href="page/style.css">'
_SCRIPT = '<script type="module" src="page/main.js"></script>'
# Nothing is fetched. Modules are imported from data: addresses, which an import map names.
_POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data:\">"
)


def files() -> dict[str, bytes]:
    """The content of each file of the page, by its name."""
    folder = importlib.resources.files("transformer_jax.inside") / "page"
    found = {f.name: f.read_bytes() for f in folder.iterdir() if f.name.partition(".")[2] in _TYPES}
    return dict(sorted(found.items()))


def media_type(name: str) -> str:
    """What a file is served as."""
    return _TYPES[name.rpartition(".")[2]]


def single_file(
    model: dict[str, Any], records: Sequence[dict[str, Any]], parameters: dict[str, Any]
) -> str:
    """The page with the answers in it.

    Args:
      model: `Answers.facts`.
      records: for each question its `source`, its `checkpoint`, and the answer as `record`.
      parameters: of each part, `Answers.parameters` of the model itself.
    """
    content = {name: data.decode() for name, data in files().items()}
    modules = {f"inside/{name}": _module(t) for name, t in content.items() if name[-3:] == ".js"}
    answers = {"model": model, "records": list(records), "parameters": parameters}
    saved = json.dumps(answers, ensure_ascii=False).encode()
    packed = base64.b64encode(gzip.compress(saved, 9, mtime=0)).decode()
    page = content[INDEX]
    replaced = {
        '<meta charset="utf-8">': f'<meta charset="utf-8">\n{_POLICY}',
        _STYLE: f"<style>\n{content['style.css']}</style>",
        _SCRIPT: f'<script type="importmap">{json.dumps({"imports": modules})}</script>',
        "</body>": f'<script type="text/plain" id="saved">{packed}</script>\n'
        '<script type="module">import "inside/main.js";</script>\n</body>',
    }
    for old, new in replaced.items():
        if page.count(old) != 1:
            raise ValueError(f"{INDEX} must contain once: {old}")
        page = page.replace(old, new)
    return page


def _module(text: str) -> str:
    """A module as a data: address; its imports are by the names in the import map."""
    text = re.sub(r'from "\./([\w]+\.js)"', r'from "inside/\1"', text)
    return f"data:text/javascript;base64,{base64.b64encode(text.encode()).decode()}"
