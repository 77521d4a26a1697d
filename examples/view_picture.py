"""Open slides as `nasdm-wsi view` does, in headless Chromium, and save what the page shows.

Needs selenium (`pip install '.[test]'`) and Debian's packages chromium and chromium-driver.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from threading import Thread

from PIL import Image
from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

from nasdm_wsi.viewer.app import Viewer, serve

FLAGS = "--headless --no-sandbox --disable-gpu --hide-scrollbars"
SETTLED = """return panes.length && panes.every(({ labels, overlay, viewer }) =>
    viewer?.world.getItemAt(0) && viewer.navigator.world.getItemAt(0) &&
    viewer.world._items.every((item) => !item.getOpacity() || item.getFullyLoaded()) &&
    (!labels || (overlay.tiles.size && !overlay.asked.size)))"""


def save_picture(address: str, out: Path, *, size: tuple[int, int]) -> None:
    """Save the page at ``address`` as an image of ``size`` (width, height)."""
    options = webdriver.ChromeOptions()
    for flag in FLAGS.split():
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        driver.get(address)
        WebDriverWait(driver, 120).until(lambda _: driver.execute_script(SETTLED))
        time.sleep(1)  # the small maps come last
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            driver.save_screenshot(file.name)
            Image.open(file.name).convert("RGB").save(out, quality=72)
    finally:
        driver.quit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--at", default="", help="what stands behind the # of a link")
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 800))
    arguments = parser.parse_args()
    with Viewer(arguments.slides) as viewer, serve(viewer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.port}/?token={viewer.token}#{arguments.at}"
            save_picture(address, arguments.out, size=arguments.size)
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    main()
