"""The page of `nasdm-wsi view` in headless Chromium, as its user sees it."""

import io
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import shapely
from helpers import wait_for
from PIL import Image

from nasdm_wsi.annotations.geojson import write_geojson
from nasdm_wsi.annotations.nuclei import Nuclei
from nasdm_wsi.annotations.regions import PALETTE as REGION_PALETTE
from nasdm_wsi.annotations.regions import REGIONS, Regions
from nasdm_wsi.annotations.types import PALETTE, TYPES
from nasdm_wsi.provenance import WARNING
from nasdm_wsi.slides import ome_tiff
from nasdm_wsi.viewer.app import Viewer, serve

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver"),
]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --window-size=1280,900 "
    "--force-device-scale-factor=1"
)
SIZE = (900, 1400)
KINDS = ("epithelial", "plasma")
# x0, y0, x1, y1 of two square nuclei, painted black in the slide
NUCLEI = np.array([(600, 400, 640, 440), (700, 410, 760, 450)])
MUSCLE = (900, 600, 1100, 800)
LOADED = """return panes.every(({ viewer: { world } }) => world.getItemCount() &&
    world._items.every((item) => !item.getOpacity() || item.getFullyLoaded()))"""
DRAWN = """return panes.every(
    ({ labels, overlay }) => !labels || (overlay.tiles.size && !overlay.asked.size)
)"""


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Two slides of the same place: with nuclei at 0.5 mpp, without at 1."""
    folder = tmp_path_factory.mktemp("slides")
    pixels = np.full((*SIZE, 3), (230, 200, 220), np.uint8)
    for x0, y0, x1, y1 in NUCLEI:
        pixels[y0:y1, x0:x1] = 0
    slides = [folder / "synthetic.ome.tif", folder / "real.ome.tif"]
    known = '{"boxes": [[300.0, 200.0, 350.0, 280.0]]}'
    text = f'{WARNING} {{"software": "nasdm-wsi 0.1.0", "seed": 7, "known": {known}}}'
    ome_tiff.write(slides[0], pixels, mpp=0.5, description=text, quality=95)
    ome_tiff.write(slides[1], pixels[::2, ::2], mpp=1.0, description="", quality=95)
    squares = shapely.box(*NUCLEI.T.astype(float))
    types = [TYPES.index(kind) for kind in KINDS]
    muscle = Regions.from_polygons([shapely.box(*MUSCLE)], ["muscle"], mpp=0.5)
    nuclei = Nuclei.from_polygons(squares, types, mpp=0.5, regions=muscle)
    write_geojson(folder / "synthetic.geojson", nuclei)
    return slides


@pytest.fixture(scope="module")
def address(slides):
    """Where a server shows them."""
    with Viewer(slides) as viewer, serve(viewer) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.port}/?token={viewer.token}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(chromium, address):
    """Opens the page at a fragment; afterwards the console must be empty."""

    def open_at(fragment=""):
        chromium.get("about:blank")
        chromium.get(address + fragment)
        settle(chromium)
        return chromium

    yield open_at
    assert chromium.get_log("browser") == []


def settle(page):
    """Wait until slides, nuclei and whatever moves have come to rest."""
    wait_for(
        lambda: page.execute_script("return panes.length && panes[0].viewer?.world.getItemCount()")
    )
    wait_for(lambda: page.execute_script(LOADED) and page.execute_script(DRAWN))
    seen = None
    while seen != (seen := (screen(page).tobytes(), views(page))):
        time.sleep(0.15)


def screen(page):
    return np.asarray(Image.open(io.BytesIO(page.get_screenshot_as_png())).convert("RGB"), int)


def views(page):
    return page.execute_script("return panes.map(({view}) => [view.x, view.y, view.scale])")


def pane(page, number):
    """The screen pixels of a pane."""
    box = page.execute_script(
        "return Object.values(panes[arguments[0]].element.getBoundingClientRect().toJSON())", number
    )
    x, y, width, height = map(round, box[:4])
    return screen(page)[y : y + height, x : x + width]


def coloured(image, kind):
    """Where an image has the colour of a nucleus type."""
    return np.abs(image - PALETTE[TYPES.index(kind)].astype(int)).max(axis=2) < 60


def extent(mask):
    """x0, y0, x1, y1 of what is true, in pixel corners."""
    y, x = np.nonzero(mask)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])


def press(page, key):
    webdriver.ActionChains(page).send_keys(key).perform()
    settle(page)


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.3], ids=["enlarged", "own-pixels", "reduced"])
def test_outlines_lie_on_the_nuclei_of_the_slide(page, scale):
    at = (335.0, 212.0)
    shown = pane(page(f"#at={at[0]},{at[1]},{scale}"), 0)
    middle = np.array(shown.shape[1::-1] * 2) / 2
    for nucleus, kind in zip(NUCLEI, KINDS, strict=True):
        expected = middle + (nucleus * 0.5 - at * 2) / scale
        # The line has its middle on the border, so it reaches 0.8 pixels further.
        found = extent(coloured(shown, kind)) + (0.8, 0.8, -0.8, -0.8)
        assert np.abs(found - expected).max() <= 0.9
        # And the slide itself is dark up to there.
        x0, y0, x1, y1 = np.rint(expected).astype(int)
        assert shown[y0 + 4 : y1 - 4, x0 + 4 : x1 - 4].max() < 60
        assert shown[y0 - 6 : y1 + 6, [x0 - 6, x1 + 6]].min() > 180


def test_nuclei_are_counted_from_afar(page):
    shown = pane(page("#at=350,225,8"), 0)
    for kind in KINDS:
        assert coloured(shown, kind).any()


def test_types_and_outlines_are_switched_by_click_and_by_key(page):
    driver = page("#at=335,212,0.5")

    def seen():
        return [bool(coloured(pane(driver, 0), kind).any()) for kind in KINDS]

    assert seen() == [True, True]
    boxes = driver.find_elements("css selector", "#legend input")
    boxes[TYPES.index("plasma") - 1].click()
    settle(driver)
    assert seen() == [True, False]
    press(driver, str(TYPES.index("epithelial")))
    assert seen() == [False, False]
    press(driver, str(TYPES.index("epithelial")))
    assert seen() == [True, False]
    press(driver, "o")
    assert seen() == [False, False]
    driver.find_element("id", "outlines").click()
    settle(driver)
    assert seen() == [True, False]
    assert [box.is_selected() for box in boxes] == [t not in ("plasma",) for t in TYPES[1:]]


@pytest.mark.parametrize("scale", [0.5, 2])
def test_regions_lie_at_their_place_and_are_switched(page, scale):
    driver = page(f"#at=500,350,{scale}")
    assert driver.find_element("id", "region-legend").text == "muscle"
    shown = pane(driver, 0)
    press(driver, "r")
    plain = pane(driver, 0)
    changed = np.abs(shown - plain).max(axis=2) > 10
    changed[:180] = False  # the small map shows them too
    middle = np.array(shown.shape[1::-1] * 2) / 2
    expected = middle + (np.array(MUSCLE) * 0.5 - (500, 350) * 2) / scale
    assert np.abs(extent(changed) - expected).max() <= 1.5
    x0, y0, x1, y1 = np.rint(expected).astype(int)
    colour = REGION_PALETTE[REGIONS.index("muscle") + 1].astype(int)
    y, x = (y0 + y1) // 2, (x0 + x1) // 2
    mixed = plain[y, x] + (colour - plain[y, x]) * 50 / 255
    assert np.abs(shown[y, x] - mixed).max() <= 2
    assert "regions=off" in driver.execute_script("return fragment()")
    driver.find_element("id", "regions").click()
    settle(driver)
    np.testing.assert_array_equal(pane(driver, 0), shown)


def test_legend_and_provenance(page):
    driver = page()
    legend = driver.find_element("id", "legend").text.split()
    counts = {kind: str(int(kind in KINDS)) for kind in TYPES[1:]} | {"all": "2"}
    assert dict(zip(legend[::2], legend[1::2], strict=True)) == counts
    told = driver.find_element("id", "slides").text
    assert re.search(r"synthetic.ome.tif\nSynthetic: not for diagnosis\npixels\n1,400 × 900", told)
    assert "seed\n7" in told and told.count("not for diagnosis") == 1
    names = [name.text for name in driver.find_elements("css selector", ".pane .name")]
    assert names == ["synthetic.ome.tif\nSynthetic: not for diagnosis", "real.ome.tif"]


def test_panes_stay_in_step_and_can_be_parted(page):
    driver = page()
    for number in (1, 0):
        place = driver.find_elements("css selector", ".pane")[number]
        before = views(driver)
        actions = webdriver.ActionChains(driver).move_to_element_with_offset(place, 40, 30)
        actions.click_and_hold().move_by_offset(-70, 35).release().perform()
        wheel = webdriver.ActionChains(driver)
        wheel.scroll_from_origin(
            webdriver.common.actions.wheel_input.ScrollOrigin.from_element(place, 30, 20), 0, -300
        ).perform()
        settle(driver)
        first, second = views(driver)
        np.testing.assert_allclose(first, second, rtol=1e-9)
        assert first[2] < before[0][2] and abs(first[0] - before[0][0]) > 10
    dark = [extent(pane(driver, k)[100:-100].max(axis=2) < 60) for k in (0, 1)]
    assert np.abs(dark[0] - dark[1]).max() <= 2
    press(driver, "l")
    driver.find_element("id", "outlines").click()
    webdriver.ActionChains(driver).drag_and_drop_by_offset(place, 50, 0).perform()
    settle(driver)
    parted = np.subtract(*views(driver))
    assert abs(parted[0]) > 10
    # In step again they keep their distance.
    press(driver, "l")
    webdriver.ActionChains(driver).drag_and_drop_by_offset(place, 0, 60).perform()
    settle(driver)
    np.testing.assert_allclose(np.subtract(*views(driver)), parted, atol=1e-6)


def test_the_link_opens_the_same_view(page):
    driver = page()
    driver.find_element("id", "closer").click()
    place = driver.find_element("css selector", ".pane")
    webdriver.ActionChains(driver).drag_and_drop_by_offset(place, -37, 21).perform()
    driver.find_element("css selector", "#legend input").click()
    settle(driver)
    wait_for(lambda: "types=" in driver.current_url)
    seen, link, picture = views(driver), driver.current_url, screen(driver)
    again = page("#" + link.partition("#")[2])
    np.testing.assert_allclose(views(again), seen, rtol=1e-5, atol=0.01)
    assert again.find_elements("css selector", "#legend input:not(:checked)")[0].is_displayed()
    assert (np.abs(screen(again) - picture).max(axis=2) > 40).mean() < 0.001
    # A link that is pasted into the open page is followed too, and one that is spoilt is no harm.
    again.execute_script("location.hash = '#at=100,120,0.8&outlines=off'")
    settle(again)
    np.testing.assert_allclose(views(again), [[100, 120, 0.8]] * 2, rtol=1e-5)
    again.execute_script("location.hash = '#at=1,NaN&types=<b>'")
    settle(again)
    press(again, "h")


def test_the_scale_bar_is_as_long_as_it_says(page):
    driver = page("#at=335,212,0.37")
    for bar in driver.find_elements("css selector", ".bar"):
        length, unit = bar.text.split()
        assert unit == "µm" and 50 <= bar.rect["width"] <= 130
        assert abs(bar.rect["width"] - float(length) / 0.37) < 0.1


def test_a_narrow_window_stacks_the_panes(page, chromium):
    size = chromium.get_window_size()
    try:
        chromium.set_window_size(600, 900)
        driver = page()
        first, second = (pane.rect for pane in driver.find_elements("css selector", ".pane"))
        assert first["x"] == second["x"] and second["y"] > first["y"] and first["width"] > 450
        assert not driver.find_element("id", "panel").is_displayed()
        driver.find_element("id", "panel-switch").click()
        assert driver.find_element("id", "legend").is_displayed()
        np.testing.assert_allclose(*views(driver))
    finally:
        chromium.set_window_size(size["width"], size["height"])


def test_the_picture_of_the_docs_is_made_by_its_script(slides, tmp_path):
    script = Path(__file__).parents[1] / "examples" / "view_picture.py"
    command = [sys.executable, script, *slides, "-o", tmp_path / "page.png", "--size", "900", "500"]
    subprocess.run([str(part) for part in [*command, "--at", "at=335,212,0.5"]], check=True)
    shown = np.asarray(Image.open(tmp_path / "page.png"), int)
    assert shown.shape == (500, 900, 3) and coloured(shown, "plasma").sum() > 100


def test_a_frame_marks_what_an_edit_has_painted_anew(page):
    """It lies at its place, in the pane of that slide alone, because the other has another size."""
    frames = page().execute_script(
        """return panes.map((pane) => [...pane.element.querySelectorAll(".mark")].map((mark) => {
            const box = mark.getBoundingClientRect();
            const pane_box = pane.place.getBoundingClientRect();
            const point = new OpenSeadragon.Point(box.x - pane_box.x, box.y - pane_box.y);
            const at = pane.viewer.world.getItemAt(0).viewerElementToImageCoordinates(point);
            return [at.x, at.y, box.width / box.height];
        }))"""
    )
    assert [len(marks) for marks in frames] == [1, 0]
    x, y, ratio = frames[0][0]
    assert (x, y) == (pytest.approx(200, abs=3), pytest.approx(300, abs=3))
    assert ratio == pytest.approx(80 / 50, abs=0.1)
