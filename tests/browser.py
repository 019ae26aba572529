"""What the tests of the page share: its program for V8, and a reader with a browser."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from py_mini_racer import MiniRacer
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from page import page

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = page.read_program("worker.js")

# --- The network in JavaScript ----------------------------------------------------------------

HELPERS = """
const SIGNS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

function atob(text) { // V8 alone has none
  const bits = Array.from(text, (sign) => SIGNS.indexOf(sign)).filter((six) => six >= 0);
  const bytes = bits.slice(1).map((six, i) => {
    const shift = 2 * (i % 4); // of each four signs, three bytes
    const byte = ((bits[i] << (2 + shift)) | (six >> (4 - shift))) & 255;
    return i % 4 < 3 ? String.fromCharCode(byte) : "";
  });
  return bytes.join("");
}

function load(config, vocab_size, weights) {
  const { parameters, writer } = new_networks(config, vocab_size);
  unpack(weights, parameters);
  return writer;
}

function read(text, ids, prompt_length) {
  text.set_text(ids, prompt_length);
  return { records: Array.from(text.read()).flat(), logits: text.logits };
}

function write(ids, count) { // at temperature 0
  const text = new Stream(network);
  text.set_text(ids, ids.length);
  return Array.from({ length: count }, () => {
    for (const _ of text.read());
    return [text.logits, text.draw({ temperature: 0 })];
  });
}
"""


class JavaScript:
    """The page's program in V8."""

    def __init__(self):
        self.engine = MiniRacer()
        self.run(f"{PROGRAM} {HELPERS}")

    def run(self, statements):
        self.engine.eval(f"{statements}; 0")

    def value(self, expression):
        """What a JavaScript expression is, as Python's lists and numbers."""
        convert = "(_, x) => ArrayBuffer.isView(x) ? Array.from(x) : x"
        return json.loads(self.engine.eval(f"JSON.stringify({expression}, {convert})"))

    def tensor(self, expression):
        return torch.tensor(self.value(expression))


# --- The page in a browser --------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHARACTERS = "Array.from(document.querySelectorAll('.character:not(.caret)'), (one) => {})"
BARS = """Array.from(document.querySelectorAll("#bars li:not([hidden])"), (row) =>
  [row.querySelector(".name").textContent, row.querySelector(".bar").style.transform])"""
DRAG = "(arguments[0].value = arguments[1], arguments[0].dispatchEvent(new Event('input')))"
NEXT_FRAME = "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
LATER = "new Promise((done) => setTimeout(done, 500))"  # a step has ended


class Reader(webdriver.Chrome):
    """Someone who uses the page in Chromium."""

    def open(self):
        page.main([])
        self.get(Path("out/run/page.html").absolute().as_uri())
        self.until(lambda: "Wrote 200" in self.text_of("#status"))

    def until(self, condition):
        WebDriverWait(self, 20, poll_frequency=0.05).until(lambda _: condition())

    def value(self, expression, *arguments):
        return self.execute_script(f"return {expression}", *arguments)

    def characters(self, expression):
        """The value of an expression for each character of the text, which is `one` in it."""
        return self.value(CHARACTERS.format(expression))

    def find(self, selector):
        return self.find_element("css selector", selector)

    def text_of(self, selector):
        return self.find(selector).get_property("textContent")

    def text(self):
        return self.text_of("#text").replace("▏", "")

    def bars(self):
        """The probabilities that are shown: {label: fraction of the full length}."""
        return {name: float(scale[len("scaleX(") : -1]) for name, scale in self.value(BARS)}

    def click(self, selector):
        self.execute_script("arguments[0].scrollIntoView({block: 'center'})", self.find(selector))
        self.find(selector).click()

    def type_prompt(self, prompt):
        self.find("#prompt").send_keys(prompt)
        self.until(lambda: self.text() == prompt.replace("é", "") and self.bars())

    def problems(self):
        """What is in the console, and what the page has requested from the network."""
        console = [entry["message"] for entry in self.get_log("browser")]
        log = [json.loads(entry["message"])["message"] for entry in self.get_log("performance")]
        sent = [x["params"] for x in log if x["method"] == "Network.requestWillBeSent"]
        urls = [x["request"]["url"] for x in sent if not x["documentURL"].startswith("chrome:")]
        return console, [url for url in urls if not url.startswith(("file:", "blob:", "data:"))]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if not (CHROMIUM and shutil.which("chromedriver")):
        pytest.skip("no chromium and chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    profile = tmp_path_factory.mktemp("chromium")
    for argument in ("headless=new", "no-sandbox", f"user-data-dir={profile}"):
        options.add_argument(f"--{argument}")
    with Reader(options, webdriver.ChromeService(shutil.which("chromedriver"))) as driver:
        yield driver


@pytest.fixture(params=[375, 1280])
def reader(request, chromium):
    """A Reader whose window is as wide as a phone's, or a laptop's. At the end of the test, nothing
    may be in the console, and nothing may have been requested from the network."""
    size = {"width": request.param, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    chromium.problems()  # those of an earlier test
    yield chromium
    assert chromium.problems() == ([], [])


# For tests of what does not depend on the width.
on_a_phone = pytest.mark.parametrize("reader", [375], indirect=True)
on_a_laptop = pytest.mark.parametrize("reader", [1280], indirect=True)
