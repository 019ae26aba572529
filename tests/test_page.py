"""page/: network.js in V8 (mini-racer), and the page in headless Chromium, if it is installed."""

import base64
import itertools
import json
import math
import re
import runpy
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, random_ids, small_network
from py_mini_racer import MiniRacer
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

import train
from model import next_probabilities, stream
from page import page
from quill.checkpoint import load, read_checkpoint
from quill.terminal import UserError
from study.inside import attention_weights

NETWORK = (ROOT / "page" / "network.js").read_text(encoding="utf-8")

# --- The network in JavaScript ----------------------------------------------------------------

HELPERS = """
let taken = 0; // V8 alone has no atob. This one gives out `decoded` piece by piece.
const atob = (text) => decoded.slice(taken, (taken += (text.length / 4) * 3));

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
    """A network of PyTorch, its weights rounded to float16, and the same in JavaScript."""

    def __init__(self, **settings):
        self.network, self.engine = small_network(**settings), MiniRacer()
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.copy_(parameter.half())
        weights = page.pack_weights(self.network)
        decoded = base64.b64decode(weights).decode("latin-1")
        shapes = [[name, list(p.shape)] for name, p in self.network.named_parameters()]
        config = f"{json.dumps(asdict(self.network.config))}, {self.network.vocab_size}"
        self.engine.eval(f"{NETWORK} const decoded = {json.dumps(decoded)}; {HELPERS}")
        self.engine.eval(f"const steps = unpack({json.dumps(weights)}, {shapes});")
        self.engine.eval("let step = steps.next(); while (!step.done) step = steps.next();")
        self.engine.eval(f"const network = build({config}, step.value); 0")

    def value(self, expression):
        """What a JavaScript expression is, as Python's lists and numbers."""
        convert = "(_, x) => ArrayBuffer.isView(x) ? Array.from(x) : x"
        return json.loads(self.engine.eval(f"JSON.stringify({expression}, {convert})"))


SHAPES = [{"network": "bigram"}, {"network": "mlp"}, {"network": "mlp", "block_size": 1}]
SHAPES += [{"position": p} for p in ("learned", "sinusoidal", "rotary", "none")]
SHAPES += [{"bias": True}, {"qk_norm": True}, {"token_shift": True}, {"n_head": 1}]
SHAPES += [{"position": "rotary", "bias": True, "qk_norm": True, "token_shift": True}]
SHAPES += [{"n_head": 12, "qk_norm": True}]  # heads of one entry, which is its own mean
SHAPES += [{"n_embd": 15, "n_head": 3, "token_shift": True}]  # half of 15 is 7
SHAPES += [{"block_size": 5}, {"block_size": 1, "token_shift": True}]
LARGE = {"n_layer": 3, "n_head": 4, "n_embd": 128, "block_size": 256, "vocab_size": 65}
LARGE |= {"scale": 2.0, "position": "rotary", "token_shift": True, "qk_norm": True}


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def js(request):
    return JavaScript(**request.param)


@pytest.mark.parametrize("settings", [*SHAPES, LARGE], ids=str)
def test_javascript_logits_and_attention_equal_pytorch(settings):
    js = JavaScript(**settings)
    T = js.network.config.block_size
    idx = random_ids(js.network, rows=1, length=T)
    logits = js.network(idx)[0][0].detach()  # (T, V)
    assert logits.std() > 0.1  # a network of zeros would prove nothing
    records = js.value(f"read(new Stream(network), {idx[0].tolist()}, {T}).records")
    assert (torch.tensor([x["logits"] for x in records]) - logits).abs().max() < 1e-4
    if js.network.config.network == "gpt":
        weights = attention_weights(js.network, idx)  # (n_layer, n_head, T, T)
        for t, record in enumerate(records):
            expected = weights[:, :, t, : t + 1].flatten(1)  # (n_layer, n_head * (t + 1))
            assert (torch.tensor(record["attention"]) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("prompt_length", [1, 9, 16, 40])
def test_javascript_writes_the_text_that_pytorch_writes(js, prompt_length):
    """300 characters: within the first window and past it."""
    idx, logits = random_ids(js.network, rows=1, length=prompt_length), []
    hook = js.network.register_forward_hook(lambda m, i, output: logits.append(output[0][0, -1]))
    drawn = [token.item() for token in stream(js.network, idx, 300, temperature=0)]
    hook.remove()
    found_logits, found = zip(*js.value(f"write({idx[0].tolist()}, 300)"), strict=True)
    assert list(found) == drawn
    assert (torch.tensor(found_logits) - torch.stack(logits)).abs().max() < 1e-4


def test_text_changed_anywhere_equals_new_text(js):
    ids = random_ids(js.network, rows=1, length=60)[0].tolist()
    js.value(f"read((globalThis.text = new Stream(network)), {ids}, 20)")
    for length in (60, 41, 17, 3, 1, 59, 40):
        changed = f"{[*ids[: length - 1], (ids[length - 1] + 1) % 11]}, {min(20, length)}"
        js.value(f"read(text, {changed})")
        js.value(f"(text.set_text({ids}, 20), text.read().next())")  # cut off in the middle
        found = js.value(f"read(text, {changed})")
        assert found["logits"] == js.value(f"read(new Stream(network), {changed}).logits"), length
        assert found["records"][-1]["index"] == length - 1


def test_javascript_probabilities_equal_pytorch():
    js = JavaScript(network="bigram")
    logits = torch.randn(8, 11, generator=torch.Generator().manual_seed(3)) * 3
    for settings in itertools.product([0, 0.3, 1, 1.7], [None, 1, 4, 99], [None, 1e-9, 0.51, 1]):
        row = f"(row) => next_probabilities(Float32Array.from(row), ...{json.dumps(settings)})"
        found = torch.tensor(js.value(f"{logits.tolist()}.map({row})"), dtype=torch.float32)
        assert torch.allclose(found, next_probabilities(logits, *settings), atol=1e-6), settings


def test_characters_are_drawn_with_their_probabilities():
    js, probabilities = JavaScript(network="bigram"), [0.5, 0, 0.2, 0.3]
    draws = f"Array(40000).fill().map((_, i) => draw({probabilities}, uniform(1337, i)))"
    fractions = torch.tensor(js.value(draws)).bincount(minlength=4) / 40000
    assert fractions[1] == 0 and (fractions - torch.tensor(probabilities)).abs().max() < 0.01
    assert js.value("uniform(1, 5) !== uniform(2, 5)")
    assert js.value("draw([0, 0.3, 0.6, 0], 0.9999)") == 2  # a sum a little below 1


def test_float16_table_is_exact():
    numbers = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.float16)
    table = torch.tensor(JavaScript(network="bigram").value("float16_table()"))
    finite = numbers.isfinite()
    assert torch.equal(table[finite], numbers[finite].float())


# --- The file ---------------------------------------------------------------------------------


def make_page():
    """The text of the page of out/run, and the data in it."""
    page.main(["--out_dir=out/run"])
    html = Path("out/run/page.html").read_text(encoding="utf-8")
    return html, json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL).group(1))


def change_checkpoint(change):
    checkpoint = read_checkpoint("out/run/ckpt.pt")
    change(checkpoint)
    torch.save(checkpoint, "out/run/ckpt.pt")


def test_page_is_written_where_the_options_say(here, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["page"])
    runpy.run_module("page", run_name="__main__")  # python -m page
    page.main(["--checkpoint=out/run/ckpt.pt", "--output=romeo.html"])
    assert Path("romeo.html").read_bytes() == Path("out/run/page.html").read_bytes()


def test_page_holds_the_contents_of_the_checkpoint(here):
    checkpoint, log = read_checkpoint("out/run/ckpt.pt"), Path("out/run/log.csv")
    log.write_text(log.read_text() + "12,768,1,0.001,3.9,4.1\n")  # after this checkpoint
    data = make_page()[1]
    assert "".join(data["vocab"]) == checkpoint["meta"]["vocab"]
    assert data["source"] == "small.txt" and data["step"] == checkpoint["state"]["step"]
    assert data["config"]["n_layer"] == 2 and "out_dir" not in data["config"]
    assert "next_probabilities" in data["code"]["model.py"]
    assert data["log"]["step"] == [0, 3, 6, 9, 12]
    log.unlink()
    assert make_page()[1]["log"]["step"] == [row[0] for row in checkpoint["state"]["log"]]


STRANGE = "<script>alert(1)</script>&\"'\u2028\u202e\x00\x1b{{weights}}"


def make_strange(checkpoint):
    """Put hostile text into the vocabulary, the source and the settings."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    size = len(checkpoint["meta"]["vocab"])
    checkpoint["meta"]["vocab"] = "".join(dict.fromkeys(STRANGE + letters))[:size]
    checkpoint["meta"]["source"] = checkpoint["config"]["dataset"] = STRANGE


def test_hostile_text_stays_in_the_data(here):
    before = make_page()[0]
    change_checkpoint(make_strange)
    html, data = make_page()
    for tag in ("<script", "</script", "<style", "\u2028"):
        assert html.count(tag) == before.count(tag)
    assert data["source"] == STRANGE and data["vocab"][:3] == ["<", "s", "c"]


def test_bad_input_is_reported_and_writes_nothing(here):
    def assert_reported(fact, *arguments):
        with pytest.raises(UserError, match=fact):
            page.main(arguments)

    assert_reported("none.pt", "--checkpoint=none.pt")
    assert_reported("outptu", "--outptu=page.html")
    assert_reported("nowhere/page.html", "--output=nowhere/page.html")
    change_checkpoint(lambda checkpoint: checkpoint["weights"]["norm.weight"].fill_(70000.0))
    assert_reported("norm.weight")
    assert not list(Path().rglob("*.html"))


# --- The page in a browser --------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHARACTERS = "Array.from(document.querySelectorAll('.character:not(.caret)'), (one) => {})"
BARS = """Array.from(document.querySelectorAll("#bars li:not([hidden])"), (row) =>
  [row.querySelector(".name").textContent, row.querySelector(".bar").style.transform])"""
DRAG = "(arguments[0].value = arguments[1], arguments[0].dispatchEvent(new Event('input')))"
NEXT_FRAME = "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"


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


one_width = pytest.mark.parametrize("reader", [1280], indirect=True)


def test_reader_writes_chooses_and_stops(here, reader):
    reader.open()
    reader.until(lambda: len(reader.text()) == 201)  # the newline, and what it writes by itself
    assert reader.value("document.documentElement.scrollWidth <= innerWidth")
    reader.type_prompt("KING: é")
    assert "é" in reader.text_of("#left_out")
    before = reader.bars()
    reader.click("#one")
    reader.until(lambda: "drawn" in reader.text_of("#bars .chosen"))
    reader.click("#bars li:nth-child(3) button")
    chosen = list(before)[2]
    reader.until(lambda: reader.text_of("#bars .chosen .name") == chosen)
    assert reader.text() == "KING: " + chosen.replace("␣", " ")
    assert abs(reader.bars()[chosen] - before[chosen]) < 1e-9

    texts = []
    for _ in range(2):  # the same seed writes the same text
        reader.click("#again")
        reader.until(lambda: reader.text() == "KING: ")
        reader.click("#write")
        reader.until(lambda: len(reader.text()) == 506)
        texts.append(reader.text())
    assert texts[0] == texts[1]
    reader.value("['write', 'stop'].map((id) => document.getElementById(id).click())")  # at once
    reader.until(lambda: reader.value("document.querySelector('#stop').ariaDisabled") == "true")
    assert len(reader.text()) < 1006


def test_every_probability_names_its_temperature(here, reader):
    reader.open()
    reader.type_prompt("KING: m")
    reader.value("document.querySelectorAll('.character')[6].click()")
    reader.until(lambda: "prompt" in reader.text_of("#bars .chosen"))
    assert "temperature 1:" in reader.text_of("#readout")
    surprise = float(reader.text_of("#one_loss"))
    for temperature in ("0.30", "1.00"):
        reader.value(DRAG, reader.find("#temperature"), temperature)
        reader.value(NEXT_FRAME)
        assert f"temperature {temperature}" in reader.text_of("#bars_title")
        assert abs(sum(reader.bars().values()) - 1) < 1e-4
        same = abs(-math.log(reader.bars()["m"]) - surprise) < 0.006
        assert same == (temperature == "1.00")
        assert float(reader.text_of("#one_loss")) == surprise


def test_attention_on_the_page_equals_pytorch(here, reader):
    name = "blocks.1.attention.query_key_value.weight"
    change_checkpoint(lambda x: x["weights"][name].mul_(20))  # or all heads would be alike
    reader.open()
    reader.type_prompt("QUEEN: my")
    reader.click(".heads .layer:nth-child(3) button:nth-of-type(2)")  # layer 2, head 2
    reader.value("document.querySelector('#text').scrollIntoView({block: 'center'})")
    span = reader.find_elements("css selector", ".character")[6]
    webdriver.ActionChains(reader).move_to_element(span).perform()
    shade = "+one.style.getPropertyValue('--shade')"
    reader.until(lambda: reader.characters(shade)[8] == 0 and reader.characters(shade)[6] > 0)

    network, tokenizer = load("out/run/ckpt.pt")
    weights = attention_weights(network, torch.tensor([tokenizer.encode("QUEEN: ")]))[1, 1, 6]
    shown = torch.tensor(reader.characters(shade)[:7]) ** 2
    assert (shown - weights).abs().max() < 2e-3
    assert "layer 2, head 2" in reader.text_of("#readout")


def test_keyboard_alone_is_enough(here, reader):
    reader.open()
    reached = []
    for _ in range(25):
        reader.switch_to.active_element.send_keys(Keys.TAB)
        active = reader.switch_to.active_element
        reached.append(active.get_attribute("id"))
        assert active.value_of_css_property("outline-style") != "none", reached  # focus is visible
    wanted = ["prompt", "write", "one", "stop", "again", "text", "temperature", "top_k", "seed"]
    assert [name for name in reached if name in wanted] == wanted

    def selected_after(key):
        reader.find("#text").send_keys(key)
        reader.value(NEXT_FRAME)
        return reader.characters("one.ariaSelected === 'true'").index(True)

    last, tops = len(reader.text()) - 1, reader.characters("one.offsetTop")
    assert selected_after(Keys.ARROW_LEFT) == last - 1
    assert selected_after(Keys.ARROW_RIGHT) == last
    assert tops[selected_after(Keys.ARROW_UP)] == max(top for top in tops if top < tops[last])
    assert tops[selected_after(Keys.ARROW_DOWN)] == tops[last]
    assert (selected_after(Keys.HOME), selected_after(Keys.ARROW_RIGHT)) == (0, 1)
    assert "probability" in reader.characters("one.ariaLabel")[1]
    reader.find("#bars button").send_keys(Keys.ENTER)
    reader.until(lambda: len(reader.text()) == 2)


@one_width
def test_policy_stops_every_connection(here, reader):
    reader.open()
    fetch = "fetch(arguments[0]).then(() => 'connected', () => 'refused')"
    image = "document.body.append(Object.assign(new Image(), {src: arguments[0]}))"
    reader.value(image, "http://127.0.0.1:9/")
    assert reader.value(fetch, "http://127.0.0.1:9/") == "refused"
    assert str(reader.problems()).count("Content Security Policy") >= 2


@one_width
def test_hostile_text_is_shown_as_text(here, reader):
    change_checkpoint(make_strange)
    reader.open()
    assert "<script>alert(1)</script>" in reader.text_of("#about")
    assert "<script>alert(1)</script>" in reader.text_of("#recipe")
    assert reader.value("document.scripts.length") == 4
    assert not re.search("[\u2028\u202e\x00\x1b]", reader.value("document.body.innerText"))


@one_width
@pytest.mark.parametrize("network", ["bigram", "mlp"])
def test_ancestors_have_a_page_too(workspace, reader, network):
    train.main([*TINY, f"--network={network}"])
    reader.open()
    assert "attention" in reader.text_of("#attention_note")
    assert reader.value("document.querySelectorAll('.heads button').length") == 0
