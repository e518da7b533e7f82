"""Takes the pictures of docs/inside.md from the saved page.

    python launch.py --mode=inside --workdir=runs/quickstart --output=docs/inside/cat.html
    python docs/inside/pictures.py

Fonts with Chinese characters must be installed (Debian: fonts-noto-cjk).
"""

import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parent
# name, width, height, language, colours, figure at the top
PICTURES = [
    ("page", 1280, 820, "en-US", "light", "attention"),
    ("search", 1280, 940, "en-US", "dark", "search"),
    ("phone", 390, 844, "zh-CN", "light", "overview"),
]


def main() -> None:
    """Writes a PNG for each of PICTURES beside cat.html."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, width, height, language, colours, figure in PICTURES:
            page = browser.new_page(
                viewport={"width": width, "height": height}, locale=language, color_scheme=colours
            )
            page.goto(f"{(FOLDER / 'cat.html').as_uri()}#{figure}")
            page.wait_for_selector("#translation b")
            page.wait_for_timeout(2500)  # scrolling is smooth
            page.screenshot(path=FOLDER / f"{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
