"""What the tests of the page share: its program for V8, and a reader with a browser."""

import json
from pathlib import Path

import pytest
import torch
from pictures import open_chromium, set_size
from py_mini_racer import MiniRacer
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from page import page

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = page.read_program("worker.js")

# --- The network in JavaScript ----------------------------------------------------------------

HELPERS = """
function atob(text) { // V8 alone has none
  return Array.from(Uint8Array.fromBase64(text), (byte) => String.fromCharCode(byte)).join("");
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

CHARACTERS = "Array.from(document.querySelectorAll('.character:not(.caret)'), (one) => {})"
BARS = """Array.from(document.querySelectorAll("#bars li:not([hidden])"), (row) =>
  [row.querySelector(".name").textContent, row.querySelector(".bar").style.transform])"""
INPUT = "(arguments[0].value = arguments[1], arguments[0].dispatchEvent(new Event('input')))"
NEXT_FRAME = "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
LATER = "new Promise((done) => setTimeout(done, 500))"  # a step has ended


class Reader(webdriver.Chrome):
    """Someone who uses the page in Chromium."""

    def open(self):
        page.main([])
        self.open_file(Path("out/run/page.html"))

    def open_file(self, path):
        self.get(path.absolute().as_uri())
        self.until(lambda: "Wrote 200" in self.text_of("#status"))

    def assert_fits_a_phone(self):
        """The window becomes as wide as a phone's: nobody has to scroll to the side."""
        set_size(self, 375, 800)
        self.until(lambda: self.value("innerWidth") == 375)
        assert self.value("document.documentElement.scrollWidth <= innerWidth")

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

    def enter(self, selector, value):
        """Put a value into a box, or move a slider to it."""
        self.value(INPUT, self.find(selector), value)

    def download_to(self, folder):
        where = {"behavior": "allow", "downloadPath": str(folder)}
        self.execute_cdp_cmd("Browser.setDownloadBehavior", where)

    def problems(self):
        """What is in the console: also each request, since the page's policy forbids them."""
        return [entry["message"] for entry in self.get_log("browser")]


@pytest.fixture(scope="module")
def chromium():
    driver = open_chromium(Reader)
    if driver is None:
        pytest.skip("no chromium and chromedriver here")
    with driver:
        yield driver


@pytest.fixture
def reader(chromium):
    """A Reader with a laptop's window. At the end of the test, nothing may be in the console."""
    set_size(chromium, 1280, 800)
    chromium.problems()  # those of an earlier test
    yield chromium
    assert not chromium.problems()
