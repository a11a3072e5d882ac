# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Takes the picture of MLflow's page of a cohort, with Chromium.

Needs the package playwright and a Chromium (Debian: chromium), in any environment with MLflow:

    diffrecon evaluate --config cohort.json --output results
    python scripts/browser/picture_of_mlflow.py results docs/pictures/mlflow.jpg --browser /usr/bin/chromium
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from playwright.sync_api import Page, sync_playwright

from monai_diffrecon.tracking.runs_page import runs_page

PORT = 5000  # that of the addresses of `runs_page`
WINDOW = {"width": 1440, "height": 1000}


def wait_for(server: subprocess.Popen[bytes], page: Page) -> None:
    """Wait until the server answers."""
    for _ in range(120):
        try:
            urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5).close()
        except URLError:
            if server.poll() is not None:
                sys.exit("mlflow ui has ended; is the port free?")
            page.wait_for_timeout(500)
        else:
            return
    sys.exit("mlflow ui does not answer")


def photograph(page: Page, address: str, picture: Path) -> None:
    """Open the first run of an experiment with its whole description, and save what a window shows of it."""
    page.goto(address)
    run = page.locator("a[href*='/runs/']").first.evaluate("link => link.href")
    page.goto(f"{run}?{address.rpartition('?')[2]}")
    page.get_by_label("Expand description").click()
    panel = page.get_by_label("Close", exact=True)
    if panel.count():
        panel.last.click()
    page.wait_for_function("[...document.images].every((image) => image.complete)")
    page.get_by_text("Description", exact=True).scroll_into_view_if_needed()
    page.wait_for_timeout(1000)
    page.screenshot(path=picture, type="jpeg", quality=85)


def main() -> None:
    """Serve the store, and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="output folder of `diffrecon evaluate`")
    parser.add_argument("picture", type=Path, help="JPEG file to write")
    parser.add_argument("--browser", required=True, help="Chromium's program")
    arguments = parser.parse_args()
    address = runs_page(arguments.output)
    if address is None:
        sys.exit("no runs in that folder")
    store = f"sqlite:///{arguments.output.resolve() / 'mlflow.db'}"
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--port",
        str(PORT),
        "--workers",
        "1",
        "--backend-store-uri",
        store,
    ]
    server = subprocess.Popen(command, env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=arguments.browser, args=["--no-sandbox"])
            page = browser.new_page(viewport=WINDOW, color_scheme="light")
            wait_for(server, page)
            photograph(page, address, arguments.picture)
            browser.close()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
