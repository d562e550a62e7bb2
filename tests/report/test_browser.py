"""The pages in a real browser: Chromium without a window, driven by selenium."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resnet_tasks.report.page import write_comparison, write_report

selenium = pytest.importorskip("selenium", reason="selenium is not installed (extra: browser)")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (390, 1400)

CUT_TEXT = """
const cut = [];
const told = (what, each) => cut.push(what + ': ' + each.outerHTML.slice(0, 90));
for (const each of document.querySelectorAll('main *, header *, footer *')) {
  if (each.closest('svg, .scroll, pre, dialog') || !each.childNodes.length) continue;
  const box = each.getBoundingClientRect();
  if (box.width && (box.right > innerWidth + 1 || box.left < -1)) told('outside', each);
  if (getComputedStyle(each).overflowX === 'hidden') told('hides', each);
}
for (const svg of document.querySelectorAll('svg.chart')) {
  const frame = svg.getBoundingClientRect();
  const scale = frame.width / svg.viewBox.baseVal.width;
  for (const text of svg.querySelectorAll('text')) {
    const box = text.getBoundingClientRect();
    if (box.left < frame.left - 1 || box.right > frame.right + 1) told('cut', text);
    if (parseFloat(getComputedStyle(text).fontSize) * scale < 9) told('small', text);
  }
}
return cut;
"""


class Browser:
    """A page in Chromium, with its console, its requests and its size."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, *, width: int = 1400, scheme: str = "light") -> None:
        wanted = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.command("Emulation.setDeviceMetricsOverride", wanted)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.command("Emulation.setEmulatedMedia", {"features": [feature]})
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(page.as_uri())

    def command(self, name: str, arguments: dict[str, Any]) -> Any:
        return self.driver.execute_cdp_cmd(name, arguments)

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def all(self, css: str) -> list[Any]:
        return list(self.driver.find_elements(By.CSS_SELECTOR, css))

    def one(self, css: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def visible(self, css: str) -> int:
        return sum(each.is_displayed() for each in self.all(css))

    def requests(self) -> list[str]:
        """Addresses that the page asked for, itself and embedded data apart."""
        messages = [
            json.loads(each["message"])["message"] for each in self.driver.get_log("performance")
        ]
        asked = [
            each["params"]["request"]["url"]
            for each in messages
            if each["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in asked if not url.startswith(("data:", "file:"))]

    def slide(self, css: str, value: float) -> None:
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        self.run(script, self.one(css), value)


@pytest.fixture(scope="module")
def _driver() -> Iterator[Any]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)}")
    helper = shutil.which("chromedriver")
    if helper is None:
        pytest.skip("no chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for each in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(each)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(helper))
    yield driver
    driver.quit()


@pytest.fixture
def browser(_driver: Any) -> Browser:
    return Browser(_driver)


def test_pages_load_quietly_fit_and_can_be_read(
    made: Any, browser: Browser, tmp_path: Path
) -> None:
    other = shutil.copytree(made.folder, tmp_path / f"<i>other</i>{'long' * 20}")
    both = write_comparison([made.folder, other], tmp_path / "both.html")
    for page in (write_report(made.folder), both):
        for width in WIDTHS:
            browser.open(page, width=width)
            assert browser.driver.get_log("browser") == []
            assert browser.requests() == []
            assert browser.run("return document.documentElement.scrollWidth") <= width
            assert browser.run(CUT_TEXT) == []
            assert (
                float(browser.run("return parseFloat(getComputedStyle(document.body).fontSize)"))
                >= 14
            )
    assert browser.all("b, i, img") == []


def test_names_are_text_in_every_place(made: Any, browser: Browser) -> None:
    browser.open(write_report(made.folder))
    for name in made.names:
        shown = browser.run(
            "return [...document.querySelectorAll('td, th, li, svg text, p')]"
            ".filter(each => each.textContent.includes(arguments[0])).map(each => each.tagName)",
            name,
        )
        assert {"TH", "LI", "text"} <= set(shown) or name not in made.names[:2], (name, shown)
        assert "TH" in shown
    titles = [each.text for each in browser.all("#gallery h3")]
    assert sorted(titles) == sorted(made.files)
    assert browser.all("script")[0].get_attribute("src") in (None, "")
    assert len(browser.all("script")) == 1


def test_light_and_dark_follow_the_system_and_the_button(made: Any, browser: Browser) -> None:
    page = write_report(made.folder)
    colors = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    line = "return getComputedStyle(document.querySelector('.line')).stroke"
    browser.open(page, scheme="light")
    light, light_line = browser.run(colors), browser.run(line)
    browser.one("#theme").click()
    dark, dark_line = browser.run(colors), browser.run(line)
    assert light != dark
    assert light_line != dark_line
    browser.one("#theme").click()
    assert browser.run(colors) == light
    browser.open(page, scheme="dark")
    assert browser.run(colors) == dark
    browser.one("#theme").click()
    assert browser.run(colors) == light


def test_layers_come_and_go(made: Any, browser: Browser) -> None:
    browser.open(write_report(made.folder))

    def toggle(layer: str) -> None:
        browser.one(f"[data-layer={layer}]").click()

    assert browser.visible(".panel .boxes rect") == 6 + 2
    assert browser.visible(".panel .boxes text") == 6 + 2
    toggle("labels")
    assert browser.visible(".panel .boxes text") == 0
    assert browser.visible(".panel .boxes rect") == 8
    toggle("labels")
    toggle("right")  # the one right box and the truth it finds
    assert browser.visible(".panel .boxes rect") == 6
    toggle("right")
    toggle("boxes")
    assert browser.visible(".panel .boxes rect") == 0
    assert browser.visible(".panel .maps") == 6
    assert browser.visible(".panel .differences") == 0
    toggle("differences")
    toggle("maps")
    assert browser.visible(".panel .maps") == 0
    assert browser.visible(".panel .differences") == 3


def test_masks_come_and_go_with_their_objects(made: Any, browser: Browser) -> None:
    made.add_masks()
    browser.open(write_report(made.folder))
    assert browser.driver.get_log("browser") == []
    assert browser.visible(".panel .masks path") == 6 + 2
    assert "1 correct, 1 wrong, 1 missed" in [each.text for each in browser.all(".tally")]
    browser.slide("#threshold", 0.25)
    assert browser.visible(".panel .masks path") == 6 + 3
    browser.one("[data-layer=boxes]").click()
    assert browser.visible(".panel .masks path") == 9
    browser.one("[data-layer=right]").click()
    assert browser.visible(".panel .masks path") == 9 - 4
    browser.one("[data-layer=masks]").click()
    assert browser.visible(".panel .masks path") == 0


def test_the_score_decides_what_is_found(made: Any, browser: Browser) -> None:
    browser.open(write_report(made.folder))

    def tally() -> list[str]:
        return [each.text for each in browser.all(".tally")]

    assert "1 correct, 1 wrong, 1 missed" in tally()
    browser.slide("#threshold", 0.25)
    assert "2 correct, 1 wrong, 0 missed" in tally()
    assert browser.visible(".panel .found rect") == 3
    browser.slide("#threshold", 0.95)
    assert browser.visible(".panel .found rect") == 0
    assert tally().count("0 correct, 0 wrong, 2 missed") == 3
    before = browser.run("return getComputedStyle(document.querySelector('.maps')).opacity")
    browser.slide("#opacity", 0.9)
    after = browser.run("return getComputedStyle(document.querySelector('.maps')).opacity")
    assert (before, after) == ("0.45", "0.9")


def test_images_enlarge_by_mouse_and_keyboard(made: Any, browser: Browser) -> None:
    browser.open(write_report(made.folder))
    pairs = browser.all("#gallery .pair")
    small = pairs[0].size["width"]
    pairs[0].click()
    inside = browser.one("#viewer .pair")
    assert inside.size["width"] > small
    fitted = inside.size["width"]
    browser.one("[data-zoom=in]").click()
    assert inside.size["width"] > 1.3 * fitted
    browser.slide("#threshold", 0.25)  # the tools came along
    assert "2 correct, 1 wrong, 0 missed" in [
        each.get_attribute("textContent") for each in browser.all(".tally")
    ]
    browser.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not browser.one("#viewer").is_displayed()
    assert len(browser.all("#gallery .pair")) == 3
    pairs[1].send_keys(Keys.ENTER)
    assert browser.one("#viewer").is_displayed()
    stage = browser.driver.switch_to.active_element
    stage.send_keys("+")
    stage.send_keys("0")
    assert browser.one("#viewer .pair").size["width"] == fitted
    browser.one("[data-zoom=close]").click()
    # A dialog tells that it was closed a moment later.
    WebDriverWait(browser.driver, 10).until(lambda _: len(browser.all("#tools-home #tools")) == 1)
    assert browser.driver.get_log("browser") == []
