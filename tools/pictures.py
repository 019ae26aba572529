"""The pictures of the page in docs/, photographed in Chromium without a window.

    python tools/pictures.py out/shakespeare_cpu/page.html

tools/lecture.py does this with the page that the lecture's own commands make.
"""

import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"

# Select the most surprising of the first characters that the network has written.
SELECT = """
const done = arguments[0], spans = [...document.querySelectorAll(".character:not(.prompt)")];
const shade = (span) => +span.style.getPropertyValue("--shade");
spans.slice(0, 120).reduce((most, span) => (shade(span) > shade(most) ? span : most)).click();
document.getElementById("text").scrollTop = 0;
requestAnimationFrame(() => requestAnimationFrame(done));
"""
# Choose the head in which that character looks at the most others, and scroll to the heads.
CHOOSE_HEAD = """
const done = arguments[0], heads = [...document.querySelectorAll("#heads button")], counts = [];
const is_lit = (span) => span.style.getPropertyValue("--shade") > 0.2;
const choose = (head) => {
  heads[head].click();
  requestAnimationFrame(() => requestAnimationFrame(() => {
    counts.push([...document.querySelectorAll(".character")].filter(is_lit).length);
    if (counts.length < heads.length) choose(head + 1);
    else if (counts.length === heads.length) choose(counts.indexOf(Math.max(...counts)));
    else done();
  }));
};
choose(0);
document.getElementById("text").scrollTop = 0;
scrollBy(0, document.getElementById("attention-title").getBoundingClientRect().top - 16);
"""


def open_chromium(kind=None):
    """A Selenium driver of this class, or None where Chromium or its driver is missing."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if not (browser and chromedriver):
        return None
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("headless=new", "no-sandbox", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    return (kind or webdriver.Chrome)(options, webdriver.ChromeService(chromedriver))


def set_size(driver, width, height):
    """Give the page a window of so many pixels."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def wait_for(driver, words, place="status"):
    """Wait until a status line of the page has these words."""
    from selenium.webdriver.support.ui import WebDriverWait

    longest = 1800  # seconds: a network that learns for "some minutes" on a slow processor
    line = driver.find_element("id", place)
    WebDriverWait(driver, longest, 0.1).until(lambda _: words in line.text)


def photograph_page(page, folder=DOCS):
    """Write page.png, the choice of a character, and page_attention.png, what it looks at."""
    driver = open_chromium()
    if driver is None:
        print("no Chromium with chromedriver here: the pictures of the page stay as they were")
        return
    with driver:
        set_size(driver, 1200, 960)
        driver.get(page.resolve().as_uri())
        wait_for(driver, "Wrote 200")  # by itself
        driver.find_element("id", "prompt").send_keys("ROMEO:")
        driver.find_element("id", "write").click()
        wait_for(driver, "Wrote 500")
        views = [("page.png", 960, SELECT), ("page_attention.png", 640, CHOOSE_HEAD)]
        for name, height, script in views:
            set_size(driver, 1200, height)
            driver.execute_async_script(script)
            driver.save_screenshot(str(folder / name))


if __name__ == "__main__":
    photograph_page(Path(sys.argv[1]))
