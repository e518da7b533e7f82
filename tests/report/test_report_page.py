"""The page of a report is whole in a real browser without a network."""

import html
import json
import re
import shutil
import subprocess
import urllib.parse

import pytest
from folders import SAMPLE, write_run, write_sweep

from transformer_jax.report import page as report_page
from transformer_jax.report import runs

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")
HOSTILE = [
    "<script>console.error('run')</script>",
    "<img src=x onerror=\"console.error('run')\">",
    "</td></table><iframe src='https://example.com'></iframe>",
    '" onmouseover="alert(1)" \'',
    "\u202eright to left</style><style>td { display: none }",
]
# The page allows no script, so an outer page holds it in a frame and inspects it.
OUTER = """<!doctype html><meta charset="utf-8">
<iframe id="page" style="width:{width}px;height:900px" srcdoc="{page}"></iframe>
<script>
addEventListener("load", () => {{
  const page = document.getElementById("page").contentDocument;
  const found = {{
    title: page.title,
    images: [...page.querySelectorAll("img, svg")].map(
      i => i.complete ? [i.naturalWidth, i.naturalHeight] : [0, 0]),
    alive: page.querySelectorAll("script, iframe, object, form, [onerror], [onmouseover]").length,
    addresses: [...page.querySelectorAll("[src], [href]")].map(e => (e.src || e.href).slice(0, 22)),
    cells: [...page.querySelectorAll("td")].filter(e => e.offsetWidth).map(e => e.textContent),
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
  }};
  document.body.innerHTML = "<pre>" + encodeURIComponent(JSON.stringify(found)) + "</pre>";
}});
</script>"""


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}")
    return found


def browse(browser, path, profile):
    """The document that a browser without a network makes of a file, and its console's lines."""
    done = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking"),
            *("--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"),
            *(f"--user-data-dir={profile}", path.as_uri()),
        ],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def look(browser, page, folder, width=1000):
    """What a report's page shows; the browser must not complain."""
    dom, console = browse(browser, page, folder / "profile")
    assert "</main>" in dom
    assert console == []
    outer = folder / "outer.html"
    text = html.escape(page.read_text(encoding="utf-8"))
    outer.write_text(OUTER.format(page=text, width=width), encoding="utf-8")
    dom, console = browse(browser, outer, folder / "profile")
    assert console == []
    found = json.loads(urllib.parse.unquote(re.search("<pre>(.*)</pre>", dom)[1]))
    assert all(width and height for width, height in found["images"]), found["images"]
    assert found["alive"] == 0
    assert {re.sub(",.*", "", a) for a in found["addresses"]} <= {"data:", "data:image/png;base64"}
    return found


def test_the_browser_reports_what_a_page_does_wrong(browser, tmp_path):
    page = tmp_path / "page.html"
    policy = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'">'
    page.write_text(f'{policy}<main><img src="https://example.com/x.png"></main>')
    assert len(browse(browser, page, tmp_path / "profile")[1]) == 1
    page.write_text("<main><script>throw 3</script></main>")
    assert len(browse(browser, page, tmp_path / "profile")[1]) == 1


def test_the_page_of_a_sweep_is_whole(browser, tmp_path):
    points = [(f"p{n}_seed_{s}", {"model.d_ff": 10 + n, "seed": s}, 2 + 0.1 * n + 0.01 * s, 20.0)
              for n in range(20) for s in range(2)]  # fmt: skip
    folder = write_sweep(tmp_path / "sweep", points)
    report_page.write(runs.read(folder), folder)
    found = look(browser, folder / "report.html", tmp_path)
    assert found["title"] == "Report of sweep"
    assert len(found["images"]) == 6
    assert "p7" in found["cells"]


def test_hostile_text_is_text(browser, tmp_path):
    samples = [dict.fromkeys(SAMPLE, text) for text in HOSTILE]
    workdir = write_run(tmp_path / "run", {"name": HOSTILE[0]}, samples=samples, started=HOSTILE[2])
    report_page.write(runs.read(workdir), workdir)
    found = look(browser, workdir / "report.html", tmp_path)
    assert found["title"] == f"Report of {HOSTILE[0]}"
    assert all(found["cells"].count(text) >= 3 for text in HOSTILE)


def test_on_a_narrow_screen_tables_scroll_and_the_page_does_not(browser, tmp_path):
    folder = write_sweep(tmp_path / "sweep", [("a" * 150, {}, 2.0, 20.0)])
    report_page.write(runs.read(folder), folder)
    assert look(browser, folder / "report.html", tmp_path, width=360)["overflow"] <= 0
