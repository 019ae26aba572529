"""page.py: the same numbers in JavaScript, and the page in a real browser.

The numbers run in V8 (mini-racer), the page in headless Chromium, where one is installed.
"""

from quill.checkpoint import load_checkpoint
from quill.terminal import UserError

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, random_ids, small_network
from py_mini_racer import MiniRacer

import page
import train
from model import next_probabilities, stream

PROGRAM = (ROOT / "page.js").read_text(encoding="utf-8")

# --- The numbers ------------------------------------------------------------------------------


class JavaScript:
    """A network of PyTorch, its weights rounded to float16, and the same in JavaScript."""

    def __init__(self, network):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(parameter.half())
        self.network = network
        self.engine = MiniRacer()
        self.engine.eval(PROGRAM)
        shapes = [[name, list(p.shape)] for name, p in network.named_parameters()]
        self.run(
            f"const steps = unpack({json.dumps(page.packed_weights(network))}, {shapes});"
            "let step; do step = steps.next(); while (!step.done);"
            f"const network = build({json.dumps(asdict(network.config))}, step.value)"
        )

    def run(self, program):
        self.engine.eval(program + ";0")

    def value(self, expression):
        """What a JavaScript expression is, as Python's lists and numbers."""
        convert = "(_, x) => ArrayBuffer.isView(x) ? Array.from(x) : x"
        return json.loads(self.engine.eval(f"JSON.stringify({expression}, {convert})"))


KINDS = [{"network": "bigram"}, {"network": "mlp"}]
KINDS += [{"position": p} for p in ("learned", "sinusoidal", "rotary", "none")]
KINDS += [
    {"bias": True},
    {"qk_norm": True},
    {"token_shift": True},
    {"position": "rotary", "bias": True, "qk_norm": True, "token_shift": True},
    {"n_head": 1},
    {"n_head": 12, "qk_norm": True},  # heads of one number: whatever they hold is their mean
    {"n_embd": 15, "n_head": 3, "token_shift": True},  # half of 15 is 7
    {"block_size": 1, "token_shift": True},
    {"block_size": 5},
    {"block_size": 1, "network": "mlp"},
]


def name_of(changes):
    return ",".join(f"{name}={value}" for name, value in changes.items())


each_kind = pytest.mark.parametrize("changes", KINDS, ids=name_of)


@each_kind
def test_logits_are_pytorchs(changes):
    js = JavaScript(small_network(**changes))
    window = js.network.config.block_size
    idx = random_ids(js.network, rows=1, length=window)
    expected = js.network(idx)[0][0].detach()  # (T, V)
    logits = torch.tensor(js.value(f"network.forward({idx[0].tolist()})")).view_as(expected)
    assert (logits - expected).abs().max() < 1e-4
    assert expected.std() > 0.1  # so there is something to be wrong about
    last = torch.tensor(js.value(f"network.forward({idx[0].tolist()}, undefined, {window - 1})"))
    assert torch.equal(last, logits[-1])


def logits_of_stream(network, idx, count):
    """The logits (count, V) from which model.stream draws, and what it draws, at temperature 0."""
    kept = []
    hook = network.register_forward_hook(lambda m, i, output: kept.append(output[0][0, -1]))
    drawn = [token.item() for token in stream(network, idx, count, temperature=0)]
    hook.remove()
    return torch.stack(kept), drawn


@each_kind
@pytest.mark.parametrize("prompt_length", [1, 9, 16, 40])
def test_greedy_text_is_pytorchs_inside_the_window_and_past_it(changes, prompt_length):
    js = JavaScript(small_network(**changes))
    idx = random_ids(js.network, rows=1, length=prompt_length)
    expected, drawn = logits_of_stream(js.network, idx, 300)
    js.run(
        f"const text = new Stream(network); text.set_text({idx[0].tolist()}, {prompt_length});"
        "const logits = [], drawn = [];"
        "for (let i = 0; i < 300; i++) {"
        "  for (const records of text.read());"
        "  logits.push(text.logits); drawn.push(text.draw({ temperature: 0 }));"
        "}"
    )
    assert js.value("drawn") == drawn
    assert (torch.tensor(js.value("logits")) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary"])
def test_logits_are_pytorchs_in_a_network_of_usual_size(position):
    changes = {"n_layer": 6, "n_head": 4, "n_embd": 128, "block_size": 256, "vocab_size": 65}
    more = {"token_shift": True, "qk_norm": True}
    js = JavaScript(small_network(scale=2.0, position=position, **changes, **more))
    idx = random_ids(js.network, rows=1, length=256)
    expected = js.network(idx)[0][0].detach()
    logits = torch.tensor(js.value(f"network.forward({idx[0].tolist()})")).view_as(expected)
    assert (logits - expected).abs().max() < 1e-4


@each_kind
def test_a_text_changed_anywhere_is_read_as_if_it_were_new(changes):
    js = JavaScript(small_network(**changes))
    ids = random_ids(js.network, rows=1, length=60)[0].tolist()
    js.run(
        "const read = (text) => { const all = [];"
        "  for (const records of text.read()) all.push(...records); return all; };"
        f"const old = new Stream(network); old.set_text({ids}, 20); read(old)"
    )
    for length in (60, 41, 17, 3, 1, 59, 40):
        changed = [*ids[: length - 1], (ids[length - 1] + 1) % 11]
        prompt = min(20, length)
        js.run(
            f"old.set_text({changed}, {prompt}); read(old); old.set_text({ids}, 20);"
            f"for (const _ of old.read()) break; old.set_text({changed}, {prompt});"  # cut off
            "var records = read(old);"
            f"var fresh = new Stream(network); fresh.set_text({changed}, {prompt}); read(fresh)"
        )
        assert js.value("old.logits") == js.value("fresh.logits"), length
        assert js.value("records.at(-1).index") == length - 1


def test_the_attention_weights_are_those_of_the_forward_pass():
    from plots import attention_weights

    js = JavaScript(small_network(position="rotary", n_head=3))
    idx = random_ids(js.network, rows=1, length=16)
    expected = attention_weights(js.network, idx)  # (n_layer, n_head, T, T)
    js.run(
        f"const text = new Stream(network), records = []; text.set_text({idx[0].tolist()}, 16);"
        "for (const some of text.read()) records.push(...some)"
    )
    for record in js.value("records"):
        seen = record["index"] + 1
        weights = torch.tensor(record["attention"]).view(2, 3, seen)
        assert (weights - expected[:, :, seen - 1, :seen]).abs().max() < 1e-5
    assert seen == 16


@pytest.mark.parametrize("temperature", [0, 0.3, 1, 1.7])
@pytest.mark.parametrize("top_k", [None, 1, 4, 99])
@pytest.mark.parametrize("top_p", [None, 1e-9, 0.51, 1])
def test_probabilities_are_pytorchs(temperature, top_k, top_p):
    js = JavaScript(small_network(network="bigram"))
    logits = torch.randn(8, 11, generator=torch.Generator().manual_seed(3)) * 3
    expected = next_probabilities(logits, temperature, top_k, top_p)
    settings = json.dumps([temperature, top_k, top_p])
    js.run(f"const rows = {logits.tolist()}.map((row) => Float32Array.from(row))")
    found = js.value(f"rows.map((row) => next_probabilities(row, ...{settings}))")
    assert torch.allclose(torch.tensor(found, dtype=torch.float32), expected, atol=1e-6)


def test_characters_are_drawn_as_often_as_their_probabilities_say():
    js = JavaScript(small_network(network="bigram"))
    counts = js.value(
        "(() => { const counts = [0, 0, 0, 0], p = [0.5, 0, 0.2, 0.3];"
        "  for (let i = 0; i < 40000; i++) counts[draw(p, uniform(1337, i))] += 1 / 40000;"
        "  return counts; })()"
    )
    assert counts[1] == 0
    assert all(abs(a - b) < 0.01 for a, b in zip(counts, [0.5, 0, 0.2, 0.3], strict=True))
    assert js.value("uniform(1, 5) === uniform(1, 5) && uniform(1, 5) !== uniform(2, 5)")
    assert js.value("draw([0, 0.3, 0.6, 0], 0.9999)") == 2  # a sum a little below 1


def test_every_float16_and_the_error_function_are_exact():
    js = JavaScript(small_network(network="bigram"))
    numbers = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.float16)
    finite = numbers.isfinite()
    table = torch.tensor(js.value("float16_table()"), dtype=torch.float32)
    assert torch.equal(table[finite], numbers[finite].float())
    x = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    found = torch.tensor(js.value(f"{x.tolist()}.map(erf)"), dtype=torch.float64)
    assert (found - torch.erf(x)).abs().max() < 1.6e-7


# --- The file ---------------------------------------------------------------------------------


def made(*arguments):
    """The page that page.py makes of out/run here: its text."""
    page.main(["--out_dir=out/run", *arguments])
    return Path("out/run/page.html").read_text(encoding="utf-8")


def data_in(html):
    return json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL).group(1))


def change_checkpoint(**changes):
    checkpoint = {**load_checkpoint("out/run/ckpt.pt"), **changes}
    torch.save(checkpoint, "out/run/ckpt.pt")


def test_the_page_goes_where_it_is_asked_to(here, capsys):
    page.main([])
    assert capsys.readouterr().out.startswith(str(Path("out/run/page.html")))
    page.main(["--checkpoint=out/run/ckpt.pt", "--output=romeo.html"])
    assert Path("romeo.html").read_bytes() == Path("out/run/page.html").read_bytes()


def test_the_page_holds_what_the_checkpoint_does(here):
    data = data_in(made())
    checkpoint = load_checkpoint("out/run/ckpt.pt")
    assert "".join(data["vocab"]) == checkpoint["vocab"]
    assert data["run"]["source"] == "small.txt" and data["run"]["step"] == 9
    assert len(data["log"]["val_loss"]) == 3 and ["n_layer", "2"] in [r[:2] for r in data["recipe"]]
    assert "next_probabilities" in data["code"]["model.py"]
    Path("out/run/log.csv").unlink()
    rows = checkpoint["progress"]["log"]
    assert data_in(made())["log"]["val_loss"] == [row[-1] for row in rows]


def test_nothing_in_the_page_leads_out_of_it(here):
    html = made()
    addresses = re.findall(r"""(?:src|href|action)\s*=\s*["']([^"']*)""", html)
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "connect-src 'none'" in html and "default-src 'none'" in html
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", PROGRAM)
    assert "</script" not in PROGRAM.lower() and "<!--" not in PROGRAM


STRANGE = "<script>alert(1)</script>&\"'\u2028\u202e\x00\x1b{{weights}}"


def strange_checkpoint():
    """Give the checkpoint here a source and a vocabulary from a stranger; returns the latter."""
    length = load_checkpoint("out/run/ckpt.pt")["network"]["vocab_size"]
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    vocab = "".join(sorted("".join(dict.fromkeys(STRANGE + letters))[:length]))
    change_checkpoint(source=STRANGE, vocab=vocab)
    return vocab


def test_text_from_a_stranger_stays_text(here):
    before = made()
    vocab = strange_checkpoint()
    html = made()
    for tag in ("<script", "</script", "<style"):
        assert html.count(tag) == before.count(tag)
    assert html.count("\u2028") == before.count("\u2028") == 0
    assert data_in(html)["run"]["source"] == STRANGE and "".join(data_in(html)["vocab"]) == vocab


def error_of(*arguments):
    with pytest.raises(UserError) as caught:
        page.main(list(arguments))
    return str(caught.value)


def test_bad_input_is_one_line_and_writes_nothing(here):
    assert "no checkpoint" in error_of("--checkpoint=none.pt")
    Path("foreign.pt").write_bytes(b"PK not a checkpoint")
    assert "foreign.pt is damaged" in error_of("--checkpoint=foreign.pt")
    Path("folder").mkdir()
    assert "folder" in error_of("--output=folder")
    assert "cannot write nowhere/page.html" in error_of("--output=nowhere/page.html")
    weights = load_checkpoint("out/run/ckpt.pt")["weights"]
    weights["norm.weight"][0] = 70000.0
    change_checkpoint(weights=weights)
    assert "norm.weight holds weights above 65,504" in error_of()
    Path("out/run/log.csv").write_text("step,seconds,train_loss,val_loss\n1,1,nan,2\n")
    assert "log.csv" in error_of()
    assert not list(Path().rglob("*.html"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line_and_keeps_the_page_before(here):
    command = [sys.executable, ROOT / "page.py", "--output=/dev/full"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stdout == ""
    assert ended.stderr == "error: cannot write /dev/full: No space left on device\n"
    before = made()
    # A limit on the size of files fails in the middle of the page, as a full disk does.
    limited = f"ulimit -f 8; exec {sys.executable} {ROOT / 'page.py'}"
    ended = subprocess.run(["bash", "-c", limited], capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1
    assert Path("out/run/page.html").read_text() == before
    assert {path.name for path in Path("out/run").iterdir()} == {
        "ckpt.pt", "last.pt", "log.csv", "loss.png", "page.html",
    }  # fmt: skip


# --- The page in a browser --------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
in_browser = pytest.mark.skipif(
    not (CHROMIUM and shutil.which("chromedriver")), reason="no chromium and chromedriver here"
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    profile = tmp_path_factory.mktemp("chromium")
    for argument in ("headless=new", "no-sandbox", f"user-data-dir={profile}"):
        options.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(params=[375, 1280])
def browser(request, chromium):
    """Chromium with a window as wide as a phone's, or a laptop's."""
    size = {"width": request.param, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for log in ("browser", "performance"):
        chromium.get_log(log)  # returns what is new since the last time
    return chromium


class Reader:
    """Someone who uses the page."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path):
        self.driver.get(Path(path).absolute().as_uri())
        self.until(lambda: "Wrote 200 characters" in self.text_of("#status"))

    def until(self, condition):
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 20, poll_frequency=0.05).until(lambda _: condition())

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def script(self, program, *arguments):
        return self.driver.execute_script(f"return {program}", *arguments)

    def text_of(self, selector):
        return self.script("document.querySelector(arguments[0]).textContent", selector)

    def count(self):
        """How many characters the text has."""
        return self.script("document.querySelectorAll('.character:not(.caret)').length")

    def text(self):
        return self.text_of("#text").replace("▏", "")

    def click(self, selector):
        element = self.find(selector)
        self.script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def bars(self):
        """The shown bars: {label: fraction of the full length}."""
        return dict(
            self.script(
                "Array.from(document.querySelectorAll('#bars li:not([hidden])'), (row) => "
                "[row.querySelector('.name').textContent, "
                "+row.querySelector('.bar').style.transform.match(/\\((.*)\\)/)[1]])"
            )
        )

    def drag(self, temperature):
        slider = self.find("#temperature")
        self.script(
            "(arguments[0].value = arguments[1], arguments[0].dispatchEvent(new Event('input')))",
            slider,
            temperature,
        )
        self.script("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")

    def complaints(self):
        """What stands in the console, and the addresses that the page asked for."""
        console = [entry["message"] for entry in self.driver.get_log("browser")]
        entries = self.driver.get_log("performance")
        events = [json.loads(entry["message"])["message"] for entry in entries]
        asked = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
            and not event["params"]["documentURL"].startswith("chrome:")  # a new tab's
        ]
        return console, [url for url in asked if not url.startswith(("file:", "blob:", "data:"))]


@in_browser
def test_a_person_writes_chooses_and_points(here, browser):
    page.main([])
    reader = Reader(browser)
    reader.open("out/run/page.html")
    reader.until(lambda: reader.count() == 201)  # the line end, and what it writes by itself

    reader.find("#prompt").send_keys("KING: é")
    reader.until(lambda: reader.text() == "KING: ")
    assert "é" in reader.text_of("#left_out")
    reader.until(lambda: reader.bars())
    assert abs(sum(reader.bars().values()) - 1) < 1e-4

    before = reader.bars()
    reader.drag(0.1)
    assert list(reader.bars().values())[0] > 2 * list(before.values())[0]  # the likeliest's
    assert list(reader.bars()) == list(before)
    reader.drag(0.8)
    assert reader.bars() == before

    reader.click("#one")
    reader.until(lambda: reader.count() == 7)
    reader.until(lambda: "drawn" in reader.text_of("#bars .chosen"))
    reader.click("#bars li:nth-child(3) button")
    chosen = list(before)[2]
    reader.until(lambda: reader.text() == "KING: " + chosen.replace("␣", " "))
    reader.until(lambda: reader.text_of("#bars .chosen .name") == chosen)
    assert abs(reader.bars()[chosen] - before[chosen]) < 1e-9

    reader.click("#write")
    reader.until(lambda: reader.count() >= 207)
    reader.click("#stop")
    reader.until(lambda: reader.find("#stop").get_attribute("aria-disabled") == "true")
    length = reader.count()
    assert 207 <= length <= 507
    assert 0 < float(reader.text_of("#mean_loss")) < 10

    texts = []
    for _ in range(2):  # the same seed writes the same text
        reader.click("#again")
        reader.until(lambda: reader.text() == "KING: ")
        reader.click("#write")
        reader.until(lambda: reader.count() == 506)
        texts.append(reader.text())
    assert texts[0] == texts[1]

    console, asked = reader.complaints()
    assert console == [] and asked == []
    assert reader.script("document.documentElement.scrollWidth <= innerWidth")


@in_browser
def test_the_attention_on_the_page_is_the_networks(here, browser):
    from selenium.webdriver import ActionChains

    from plots import attention_weights

    page.main([])
    reader = Reader(browser)
    reader.open("out/run/page.html")
    reader.find("#prompt").send_keys("QUEEN: my")
    reader.until(lambda: reader.count() == 9)
    reader.click(".heads .layer:nth-child(3) button:nth-of-type(2)")  # layer 2, head 2
    span = reader.all(".character")[6]
    reader.script("document.querySelector('#text').scrollIntoView({block: 'center'})")
    ActionChains(browser).move_to_element(span).perform()
    shades = (
        "Array.from(document.querySelectorAll('.character'), "
        "(one) => +one.style.getPropertyValue('--shade'))"
    )
    reader.until(lambda: reader.script(shades)[8] == 0 and reader.script(shades)[6] > 0)

    checkpoint = load_checkpoint("out/run/ckpt.pt")
    checkpoint["weights"] = {n: w.half().float() for n, w in checkpoint["weights"].items()}
    network = page.network_from(checkpoint, attention="written_out").eval()
    ids = [checkpoint["vocab"].index(character) for character in "QUEEN: "]
    weights = attention_weights(network, torch.tensor([ids]))[1, 1, 6]  # (7)
    shown = torch.tensor(reader.script(shades)[:7]) ** 2
    assert (shown - weights).abs().max() < 2e-3
    assert "looks at" in reader.text_of("#readout")
    assert reader.complaints() == ([], [])


@in_browser
def test_the_page_is_usable_with_the_keyboard_alone(here, browser):
    from selenium.webdriver.common.keys import Keys

    page.main([])
    reader = Reader(browser)
    reader.open("out/run/page.html")

    def press(*keys):
        browser.switch_to.active_element.send_keys(*keys)

    reached = []
    for _ in range(25):
        press(Keys.TAB)
        reached.append(browser.switch_to.active_element.get_attribute("id"))
        outline = browser.switch_to.active_element.value_of_css_property("outline-style")
        assert outline != "none", reached  # what has the focus shows it
    wanted = ["prompt", "write", "one", "stop", "again", "text", "temperature", "top_k", "seed"]
    assert [name for name in reached if name in wanted] == wanted

    reader.script("document.querySelector('#text').focus()")
    index = reader.count() - 1
    reader.until(lambda: reader.script("document.querySelectorAll('.selected').length") == 1)
    place = "Array.from(document.querySelectorAll('.character')).findIndex((one) => one.id)"
    for key, step in ((Keys.ARROW_LEFT, -1), (Keys.ARROW_RIGHT, 0), (Keys.HOME, -index)):
        press(key)
        reader.until(lambda at=index + step: reader.script(place) == at)
    press(Keys.ARROW_RIGHT)
    reader.until(lambda: "probability" in reader.text_of("#readout"))
    active = reader.find("#text").get_attribute("aria-activedescendant")
    assert "surprise" in reader.find(f"#{active}").get_attribute("aria-label")
    reader.script("document.querySelector('#bars button').focus()")
    press(Keys.ENTER)
    reader.until(lambda: reader.count() == 2)


@in_browser
def test_a_prompt_longer_than_the_window_is_read_from_its_last_characters_on(here, browser):
    page.main([])
    reader = Reader(browser)
    reader.open("out/run/page.html")
    reader.find("#prompt").send_keys("My lord, the king is here, and with him all his men.")
    reader.until(lambda: reader.text().endswith("all his men."))
    reader.until(lambda: reader.text_of("#mean_loss") != "–")
    read = "Array.from(document.querySelectorAll('.character'), (one) => one.style.length > 0)"
    length, window = reader.count(), 16
    expected = [False] * (length - window + 1) + [True] * (window - 1) + [False]  # and the caret
    reader.until(lambda: reader.script(read) == expected)


@in_browser
def test_the_policy_stops_every_connection(here, browser):
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            asked.append(self.path)

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    page.main([])
    reader = Reader(browser)
    reader.open("out/run/page.html")
    address = f"http://127.0.0.1:{server.server_port}/"
    reader.script(
        "(document.body.append(Object.assign(new Image(), {src: arguments[0] + 'image'})),"
        " fetch(arguments[0] + 'fetch').then(() => 'connected', () => 'refused'))",
        address,
    )
    outcome = "fetch(arguments[0] + 'again').then(() => 'connected', () => 'refused')"
    assert reader.script(outcome, address) == "refused"
    server.shutdown()
    assert asked == []
    assert len(reader.complaints()[0]) >= 3  # in the console, by the policy


@in_browser
def test_text_from_a_stranger_is_shown_as_text(here, browser):
    strange_checkpoint()
    page.main([])
    reader = Reader(browser)
    reader.open("out/run/page.html")
    assert "<script>alert(1)</script>&\"'\\u2028\\u202e\\u0000" in reader.text_of("#about")
    assert len(reader.all("script")) == 3
    assert not re.search("[\u2028\u202e\\x00\\x1b]", reader.script("document.body.innerText"))
    assert reader.complaints() == ([], [])


@in_browser
@pytest.mark.parametrize("network", ["bigram", "mlp"])
def test_the_ancestors_have_a_page_too(workspace, browser, network):
    train.main([*TINY, f"--network={network}"])
    page.main([])
    reader = Reader(browser)
    reader.open("out/run/page.html")
    assert "attention" in reader.text_of("#attention_note")
    assert not reader.all(".heads button")
    assert reader.complaints() == ([], [])
