"""page/: the network in V8 (mini-racer), and the page in headless Chromium, if it is installed."""

import itertools
import json
import math
import re
import runpy
import string
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from browser import LATER, NEXT_FRAME, JavaScript
from conftest import random_ids, small_network
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from model import next_probabilities, stream
from page import page
from quill.checkpoint import load, read_checkpoint
from quill.terminal import UserError
from study.inside import attention_weights


class Pair:
    """A network of PyTorch, its weights rounded to float16, and the same in JavaScript."""

    def __init__(self, **settings):
        self.network, js = small_network(**settings), JavaScript()
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.copy_(parameter.half())
        weights = json.dumps(page.pack_weights(self.network))
        config = f"{json.dumps(asdict(self.network.config))}, {self.network.vocab_size}"
        for name in ("network", "other"):  # each holds one text
            js.run(f"const {name} = load({config}, {weights})")
        self.value = js.value


SHAPES = [{"position": "learned"}, {"position": "none"}, {"n_head": 1}]
SHAPES += [{"position": "rotary", "qk_norm": True, "token_shift": True}]
SHAPES += [{"n_head": 12, "qk_norm": True}]  # heads of one entry, which is its own mean
SHAPES += [{"n_embd": 15, "n_head": 3, "token_shift": True}]  # half of 15 is 7
SHAPES += [{"block_size": 5}, {"block_size": 1, "token_shift": True}]
LARGE = {"n_layer": 3, "n_head": 4, "n_embd": 128, "block_size": 256, "vocab_size": 65}
LARGE |= {"scale": 2.0, "position": "rotary", "token_shift": True, "qk_norm": True}


@pytest.fixture(scope="module", params=[*SHAPES, LARGE], ids=str)
def js(request):
    return Pair(**request.param)


def test_javascript_logits_and_attention_equal_pytorch(js):
    T = js.network.config.block_size
    idx = random_ids(js.network, rows=1, length=T)
    logits = js.network(idx)[0][0].detach()  # (T, V)
    assert logits.std() > 0.1  # a network of zeros would prove nothing
    records = js.value(f"read(new Stream(network), {idx[0].tolist()}, {T}).records")
    assert (torch.tensor([x["logits"] for x in records]) - logits).abs().max() < 1e-4
    weights = attention_weights(js.network, idx)  # (n_layer, n_head, T, T)
    for t, record in enumerate(records):
        expected = weights[:, :, t, : t + 1].flatten(1)  # (n_layer, n_head * (t + 1))
        assert (torch.tensor(record["attention"]) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("prompt_length", [1, 40])
def test_javascript_writes_the_text_that_pytorch_writes(js, prompt_length):
    """300 characters: within the first window and past it."""
    idx, logits = random_ids(js.network, rows=1, length=prompt_length), []
    hook = js.network.register_forward_hook(lambda m, i, output: logits.append(output[0][0, -1]))
    drawn = [token.item() for token in stream(js.network, idx, 300, temperature=0)]
    hook.remove()
    found_logits, found = zip(*js.value(f"write({idx[0].tolist()}, 300)"), strict=True)
    assert list(found) == drawn
    assert (torch.tensor(found_logits) - torch.stack(logits)).abs().max() < 1e-4


def test_prompt_is_predicted_from_half_a_window_or_more(js):
    block_size, idx = js.network.config.block_size, random_ids(js.network, rows=1, length=60)
    records = js.value(f"read(new Stream(network), {idx[0].tolist()}, 60).records")
    assert [record["index"] for record in records] == list(range(60))
    for index, record in enumerate(records):
        start = record["start"]
        assert index - start + 1 >= min(index + 1, block_size // 2)
        expected = js.network(idx[:, start : index + 1])[0][0, -1]
        assert (torch.tensor(record["logits"]) - expected).abs().max() < 1e-4


def test_text_changed_anywhere_equals_new_text(js):
    ids = random_ids(js.network, rows=1, length=60)[0].tolist()
    js.value(f"read((globalThis.text = new Stream(network)), {ids}, 20)")
    for length in (60, 41, 17, 3, 1, 59, 40):
        changed = f"{[*ids[: length - 1], (ids[length - 1] + 1) % 11]}, {min(20, length)}"
        js.value(f"read(text, {changed})")
        js.value(f"(text.set_text({ids}, 20), text.read().next())")  # cut off in the middle
        found = js.value(f"read(text, {changed})")
        assert found["logits"] == js.value(f"read(new Stream(other), {changed}).logits"), length
        assert found["records"][-1]["index"] == length - 1


def test_javascript_probabilities_equal_pytorch():
    js = JavaScript()
    logits = torch.randn(8, 11, generator=torch.Generator().manual_seed(3)) * 3
    for settings in itertools.product([0, 0.3, 1, 1.7], [None, 1, 4, 99], [None, 1e-9, 0.51, 1]):
        row = f"(row) => next_probabilities(Float32Array.from(row), ...{json.dumps(settings)})"
        found = torch.tensor(js.value(f"{logits.tolist()}.map({row})"), dtype=torch.float32)
        assert torch.allclose(found, next_probabilities(logits, *settings), atol=1e-6), settings


def test_characters_are_drawn_with_their_probabilities():
    js, probabilities = JavaScript(), [0.5, 0, 0.2, 0.3]
    draws = f"Array(40000).fill().map((_, i) => draw({probabilities}, uniform(1337, i)))"
    fractions = torch.tensor(js.value(draws)).bincount(minlength=4) / 40000
    assert fractions[1] == 0 and (fractions - torch.tensor(probabilities)).abs().max() < 0.01
    assert js.value("uniform(1, 5) !== uniform(2, 5)")
    assert js.value("draw([0, 0.3, 0.6, 0], 0.9999)") == 2  # a sum a little below 1


# --- The file ---------------------------------------------------------------------------------


def data_of_page():
    """The data in the page of out/run."""
    page.main(["--out_dir=out/run"])
    html = Path("out/run/page.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL).group(1))


def change_checkpoint(change):
    checkpoint = read_checkpoint("out/run/ckpt.pt")
    change(checkpoint)
    torch.save(checkpoint, "out/run/ckpt.pt")


def test_page_holds_the_contents_of_the_checkpoint(here, monkeypatch):
    words = ["page", "--checkpoint=out/run/ckpt.pt", "--output=romeo.html"]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_module("page", run_name="__main__")  # python -m page
    page.main(["--out_dir=out/run"])
    assert Path("romeo.html").read_bytes() == Path("out/run/page.html").read_bytes()
    checkpoint, last = read_checkpoint("out/run/ckpt.pt"), read_checkpoint("out/run/last.pt")
    last["state"]["log"].append([12, 768, 1.0, 0.001, 3.9, 4.1])  # after this checkpoint
    last["state"]["samples"][12] = "a later text"
    torch.save(last, "out/run/last.pt")
    data = data_of_page()
    assert "".join(data["vocab"]) == checkpoint["meta"]["vocab"]
    assert data["source"] == "small.txt" and data["step"] == checkpoint["state"]["step"]
    assert data["config"]["n_layer"] == 2 and "out_dir" not in data["config"]
    assert data["log"]["step"] == [0, 3, 6, 9, 12]
    assert data["samples"][-1] == [12, "a later text"]
    Path("out/run/last.pt").unlink()  # mailed without it
    data, state = data_of_page(), checkpoint["state"]
    assert data["log"]["step"] == [row[0] for row in state["log"]]
    assert dict(data["samples"]) == state["samples"] and data["batches"] == state["losses"]


def test_no_two_modules_define_the_same_name():
    definition = r"^(?:async )?(?:function\*?|class|const|let) (\w+)"
    names = re.findall(definition, page.read_program(), re.MULTILINE)
    assert len(names) == len(set(names)), [name for name in names if names.count(name) > 1]


def test_bad_input_is_reported_and_writes_nothing(here):
    def assert_reported(fact, *arguments):
        with pytest.raises(UserError, match=fact):
            page.main(arguments)

    assert_reported("none.pt", "--checkpoint=none.pt")
    assert_reported("outptu", "--outptu=page.html")
    assert_reported("nowhere/page.html", "--output=nowhere/page.html")
    Path("empty.txt").touch()
    assert_reported("empty", "--blank", "--text=empty.txt")
    assert_reported("^cannot read nosuch.txt", "--blank", "--text=nosuch.txt")
    assert_reported("--blank", "--text=small.txt")  # a page without it learns nothing
    assert_reported("--blank", "--blank", "--out_dir=out/run")
    change_checkpoint(lambda checkpoint: checkpoint["weights"]["norm.weight"].fill_(70000.0))
    assert_reported("norm.weight")
    for name, value in (("bias", True), ("position", "sinusoidal"), ("network", "bigram")):
        change_checkpoint(lambda checkpoint: checkpoint["config"].update({name: value}))  # noqa: B023
        assert_reported(f"--{name}={value}")
    assert not list(Path().rglob("*.html"))


# --- The page in a browser --------------------------------------------------------------------


def test_reader_writes_chooses_and_stops(here, reader):
    reader.open()
    reader.until(lambda: len(reader.text()) == 201)  # the newline, and what it writes by itself
    reader.assert_fits_a_phone()
    reader.type_prompt("KING: é")
    assert "é (1 of" in reader.text_of("#left-out")
    before = reader.bars()
    reader.click("#one")
    reader.until(lambda: "drawn" in reader.text_of("#bars .chosen"))
    reader.click("#bars li:nth-child(3) button")
    chosen = list(before)[2]
    reader.until(lambda: reader.text_of("#bars .chosen .name") == chosen)
    assert reader.text() == "KING: " + chosen.replace("␣", " ")
    assert "yours" in reader.text_of("#bars .chosen")
    assert abs(reader.bars()[chosen] - before[chosen]) < 1e-9

    texts = []
    for button in ("#write", "#write", "#another"):  # the same seed writes the same text
        reader.click("#again")
        reader.until(lambda: reader.text() == "KING: ")
        reader.click(button)
        reader.until(lambda: len(reader.text()) == 506)
        texts.append(reader.text())
    assert texts[0] == texts[1] != texts[2]
    reader.value("[1, 2].forEach(() => document.getElementById('write').click())")  # at once
    reader.until(lambda: len(reader.text()) == 1506)
    presses = [*9 * ["write"], "stop"]  # it could write 500 characters before it hears Stop
    reader.value(f"{presses}.forEach((id) => document.getElementById(id).click()), {LATER}")
    assert len(reader.text()) < 1506 + 9 * 500


def test_page_in_a_frame_works_and_connects_to_nothing(here, reader):
    reader.open()
    html = Path("out/run/page.html").read_text(encoding="utf-8")
    reader.get("about:blank")
    frame = "document.body.appendChild(document.createElement('iframe')).srcdoc = arguments[0]"
    reader.value(frame, html)
    reader.switch_to.frame(0)
    reader.until(lambda: "Wrote 200" in reader.text_of("#status"))
    reader.enter("#temperature", 1.5)
    reader.until(lambda: "1.50" in reader.text_of("#bars-title"))
    fetch = "fetch(arguments[0]).then(() => 'connected', () => 'refused')"
    image = "document.body.append(Object.assign(new Image(), {src: arguments[0]}))"
    reader.value(image, "http://127.0.0.1:9/")
    assert reader.value(fetch, "http://127.0.0.1:9/") == "refused"
    assert str(reader.problems()).count("Content Security Policy") >= 2


def test_files_are_read_wherever_dropped_and_after_an_edit(here, reader):
    reader.open()
    file = "(transfer = new DataTransfer()).items.add(new File(['thou é é'], 'a.txt'))"
    drop = "new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true})"
    assert not reader.value(f"(({file}), document.querySelector('h1').dispatchEvent({drop}))")
    box = "document.querySelector('#learn-text').value"
    reader.until(lambda: reader.value(box) == "thou é é")
    assert "é (2 of" in reader.text_of("#learn-length")
    for text in ("before", "after an edit"):
        (here / "my.txt").write_text(text)
        reader.find("#learn-file").send_keys(str(here / "my.txt"))
        reader.until(lambda: reader.value(box) == text)  # noqa: B023


def test_page_that_computes_another_network_says_so(here, reader):
    reader.open()
    assert not reader.find("#differs").is_displayed()
    file = Path("out/run/page.html")
    html = file.read_text(encoding="utf-8")
    other = re.sub(r'("surprises": \[)[\d.]+', r"\g<1>99", html)
    file.write_text(other, encoding="utf-8")
    reader.refresh()
    reader.until(lambda: reader.find("#differs").is_displayed())
    assert 90 < float(reader.text_of("#difference")) < 99
    shorter = re.sub('(id="weights">.*).{64}</script>', r"\1</script>", html)
    file.write_text(shorter, encoding="utf-8")
    reader.refresh()
    reader.until(lambda: reader.find("#failed").is_displayed())
    assert "weights" in reader.text_of("#failure")
    reader.problems()  # the same, in the console


def test_settings_are_named_where_they_are_used(here, reader):
    reader.open()
    reader.type_prompt("KING: m")
    reader.value("document.querySelectorAll('.character')[6].click()")
    reader.until(lambda: "prompt" in reader.text_of("#bars .chosen"))
    assert "temperature 1:" in reader.text_of("#readout")
    surprise = float(reader.text_of("#readout").split()[-2])
    for temperature in ("0.30", "1.00"):
        reader.enter("#temperature", temperature)
        reader.value(NEXT_FRAME)
        assert f"temperature {temperature}" in reader.text_of("#bars-title")
        assert abs(sum(reader.bars().values()) - 1) < 1e-4
        same = abs(-math.log(reader.bars()["m"]) - surprise) < 0.006
        assert same == (temperature == "1.00")
        assert float(reader.text_of("#readout").split()[-2]) == surprise
    for name, value in (("top-k", "0"), ("top-k", "2.5"), ("top-p", "1.5"), ("seed", "-1")):
        box = reader.find(f"#{name}")
        reader.enter(f"#{name}", value)  # out of range
        assert box.get_property("validationMessage") and box == reader.switch_to.active_element
        reader.value(NEXT_FRAME)
        assert name not in reader.text_of("#bars-title")
        reader.enter(f"#{name}", "1")
        assert not box.get_property("validationMessage")


def test_head_is_that_of_pytorch_and_is_switched_off(here, reader):
    name, prompt = "blocks.1.attention.query_key_value.weight", "QUEEN: my lord,"
    change_checkpoint(lambda x: x["weights"][name].mul_(20))  # or all heads would be alike
    reader.open()
    reader.type_prompt(prompt)
    reader.click(".heads .layer:nth-child(3) button:nth-of-type(2)")  # layer 2, head 2
    reader.value("document.querySelector('#text').scrollIntoView({block: 'center'})")
    span = reader.find_elements("css selector", ".character")[6]
    webdriver.ActionChains(reader).move_to_element(span).perform()
    shade = "+one.style.getPropertyValue('--shade')"
    reader.until(lambda: reader.characters(shade)[8] == 0 and reader.characters(shade)[6] > 0)
    network, tokenizer = load("out/run/ckpt.pt")
    idx = torch.tensor([tokenizer.encode(prompt)])
    weights = attention_weights(network, idx)[1, 1, 6, :7]
    assert (torch.tensor(reader.characters(shade)[:7]) ** 2 - weights).abs().max() < 2e-3
    assert "layer 2, head 2" in reader.text_of("#readout")

    reader.click("#head-map")
    reader.until(lambda: "layer 2, head 2" in reader.text_of("#head-off"))
    shown = [float(x) for x in re.findall(r"\d\.\d{3}", reader.text_of("#head-off"))]
    with torch.no_grad():
        before = network(idx[:, :-1], idx[:, 1:])[1].item()
        network.blocks[1].attention.projection.weight[:, 8:] = 0  # what reads this head
        without = network(idx[:, :-1], idx[:, 1:])[1].item()
    assert abs(without - before) > 0.003
    assert abs(shown[0] - without) < 1e-3 and abs(shown[1] - before) < 1e-3
    reader.click("#head-map")
    reader.until(lambda: not reader.text_of("#head-off"))
    reader.until(lambda: abs(float(reader.text_of("#mean-loss")) - before) < 0.006)


def test_keyboard_alone_is_enough(here, reader):
    reader.open()
    reached = []
    for _ in range(25):
        reader.switch_to.active_element.send_keys(Keys.TAB)
        active = reader.switch_to.active_element
        reached.append(active.get_attribute("id"))
        assert active.value_of_css_property("outline-style") != "none", reached  # focus is visible
    wanted = ["prompt", "write", "one", "stop", "again", "text", "temperature", "top-k", "seed"]
    assert [name for name in reached if name in wanted] == wanted

    def selected_after(key):
        reader.find("#text").send_keys(key)
        reader.value(NEXT_FRAME)
        return reader.characters("one.ariaSelected === 'true'").index(True)

    last = len(reader.text()) - 1
    assert selected_after(Keys.ARROW_LEFT) == last - 1
    assert selected_after(Keys.ARROW_RIGHT) == last
    assert (selected_after(Keys.HOME), selected_after(Keys.ARROW_RIGHT)) == (0, 1)
    assert "probability" in reader.characters("one.ariaLabel")[1]
    reader.find("#bars button").send_keys(Keys.ENTER)
    reader.until(lambda: len(reader.text()) == 2)


def test_strange_text_is_shown_as_text(here, reader):
    strange = "<script>alert(1)</script>&\"'\u2028\u202e\x00\x1b{{weights}}"
    checkpoint = read_checkpoint("out/run/ckpt.pt")
    meta, letters = checkpoint["meta"], string.ascii_letters + string.digits
    meta["vocab"] = "".join(dict.fromkeys(strange + letters))[: len(meta["vocab"])]
    meta["source"] = checkpoint["config"]["dataset"] = strange
    torch.save(checkpoint, "out/run/ckpt.pt")
    last = read_checkpoint("out/run/last.pt")
    samples = last["state"]["samples"]  # one text, without labels for parts of it:
    samples.update({0: "क्या? हिन्दी", 3: "👩\u200d🚀\n", 6: "a\u202eb", 9: "x\x1b"})
    torch.save(last, "out/run/last.pt")
    reader.open()
    for part in ("<script>alert(1)</script>", "{{weights}}"):
        assert part in reader.text_of("#about")
    assert reader.value("document.scripts.length") == 3
    assert not re.search("[\u2028\u202e\x00\x1b]", reader.value("document.body.innerText"))
    for place, (step, sample) in enumerate(samples.items()):
        reader.enter("#sample-step", place)
        assert reader.text_of("#sample-shown").startswith(f"{step}:")
        shown = sample.replace("\u202e", r"\u202e").replace("\x1b", r"\u001b")
        assert reader.text_of("#sample") == shown
    reader.download_to(here)
    content = "document.querySelector('#{}').textContent"
    reader.value(f"keep(JSON.parse({content.format('data')}), {content.format('weights')})")
    reader.until((here / "my-gpt.html").exists)
    assert (here / "my-gpt.html").read_text(encoding="utf-8").count("</script") == 3
