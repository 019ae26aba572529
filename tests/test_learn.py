"""page/learn.js and train.js: a network learns in JavaScript as in PyTorch, and in the browser."""

import json
import math
from dataclasses import asdict

import kernels
import pytest
import torch
from browser import LATER, JavaScript
from conftest import ROOT

import train
from networks import NGrams, build
from page import page
from quill.checkpoint import load

PASTICHE = (ROOT / "data" / "pastiche.txt").read_text(encoding="utf-8")
V = 11  # characters in the vocabulary; the arrays are padded to 16


class Pair:
    """A network of PyTorch, in float32, and the same in JavaScript, which learn the same."""

    def __init__(self, **settings):
        torch.manual_seed(1)
        self.config = train.Config(**{**SMALL, **settings})
        self.network = build(self.config, V)
        with torch.no_grad():
            for parameter in self.network.parameters():
                if parameter.dim() == 1:  # else gains are 1, which hides them
                    parameter.add_(torch.randn_like(parameter) / 10)
        self.js = JavaScript()
        sizes = f"{V}, {self.config.batch_size}"
        self.js.run(f"const config = {json.dumps(asdict(self.config))}")
        self.js.run(f"const {{ parameters, learner, writer }} = new_networks(config, {sizes})")
        self.js.run(TRAIN)
        self.js.run("const of = (name) => parameters.named(name.replace('.weight', ''))")
        for name, parameter in self.network.named_parameters():
            self.js.run(f"of('{name}').weight.set({parameter.flatten().tolist()})")
        self.generator = torch.Generator().manual_seed(2)

    def batch(self):
        """Windows for PyTorch, and the same for JavaScript."""
        shape = self.config.batch_size, self.config.block_size + 1
        windows = torch.randint(V, shape, generator=self.generator)
        return windows, windows.flatten().tolist()


# A run whose batches have two halves of the learner's size. A port answers at once.
TRAIN = """
function train(tokens, helped) {
  const port = { postMessage: (data) => far.onmessage({ data }) };
  const far = { postMessage: (data) => port.onmessage({ data }) };
  const twice = { ...config, batch_size: 2 * config.batch_size };
  help({ config: twice, vocab_size: writer.vocab_size, port: far });
  return new Training(learner, Uint16Array.from(tokens), twice, 5, helped ? port : null);
}
"""
SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16, "batch_size": 4}
SMALL |= {"max_iters": 20, "warmup_iters": 3, "learning_rate": 1e-2, "min_lr": 1e-3}
KINDS = [{"position": position} for position in ("learned", "rotary", "none")]
KINDS += [{"token_shift": True}, {"qk_norm": True}, {"n_head": 4}, {"lr_schedule": "constant"}]
KINDS += [{"optimizer": "muon", "grad_clip": 0.1}, {"grad_clip": 0.0, "lr_schedule": "linear"}]
KINDS += [{"block_size": 72}]  # 288 predictions: more than the kernels add up at once
OFFERED = [{**page.read_recipe(words), "batch_size": 2} for _, words in page.SIZES]
KINDS = [pytest.param(kind, id=str(kind)) for kind in KINDS]
OFFERED = [pytest.param(size, id=f"n_embd={size['n_embd']}") for size in OFFERED]


def test_committed_kernels_are_the_compiled_text():
    assert (ROOT / "page" / "kernels.wasm").read_bytes() == kernels.compiled()


@pytest.mark.parametrize("settings", [*KINDS, *OFFERED])
def test_every_gradient_equals_pytorch(settings):
    pair = Pair(**settings)
    windows, ids = pair.batch()
    _, loss = pair.network(windows[:, :-1], windows[:, 1:])
    loss.backward()
    assert abs(pair.js.value(f"learner.loss({ids})") - loss.item()) < 1e-5
    pair.js.run(f"learner.backward({ids})")
    for name, parameter in pair.network.named_parameters():
        found = pair.js.tensor(f"of('{name}').dweight")[: parameter.numel()]
        difference = (found.view_as(parameter) - parameter.grad).norm()
        assert difference < 1e-4 * parameter.grad.norm(), name


@pytest.mark.parametrize("settings", [*KINDS, OFFERED[0]])
def test_twenty_steps_have_the_losses_of_train(settings):
    pair = Pair(**settings)
    optimizer = train.configure_optimizers(pair.network, pair.config)
    for step in range(20):
        windows, ids = pair.batch()
        optimizer.set_lr(train.lr_factor(step, pair.config))
        loss = train.train_step(pair.network, optimizer, windows, pair.config, step).item()
        assert abs(pair.js.value(f"learner.loss({ids})") - loss) < 1e-3, step
        pair.js.run(f"learner.backward({ids}); update(learner, {step}, config)")
    for name, parameter in pair.network.named_parameters():
        found = pair.js.tensor(f"of('{name}').weight")[: parameter.numel()]
        assert (found.view_as(parameter) - parameter).norm() < 1e-2 * parameter.norm(), name


@pytest.mark.parametrize("settings", [{}, {"optimizer": "muon"}], ids=str)
@pytest.mark.parametrize("name", ["token_embedding", "blocks.1.attention.query_key_value"])
def test_step_that_is_looked_into_has_the_numbers_of_pytorch(name, settings):
    pair = Pair(position="rotary", token_shift=True, qk_norm=True, **settings)
    tokens = torch.randint(V, (900,), generator=pair.generator).tolist()
    pair.js.run(f"const training = train({tokens}, true)")
    windows = pair.js.tensor("training.batch(0)").view(-1, pair.config.block_size + 1)
    pair.js.run(f"training.step_closely('{name}').then((look) => (globalThis.look = look))")
    look = pair.js.value("look")

    def measure():
        """The mean loss, and the probability of each character that comes next."""
        logits, loss = pair.network(windows[:, :-1], windows[:, 1:])
        probabilities = logits.softmax(dim=2).gather(2, windows[:, 1:, None])
        return loss, probabilities[0, :, 0]  # of the first window

    def assert_close(found, expected):
        assert (torch.tensor(found).flatten() - expected.detach().flatten()).abs().max() < 1e-4

    parameter = pair.network.get_parameter(f"{name}.weight")
    size = parameter.numel()
    loss, before = measure()
    loss.backward()
    assert parameter.grad.abs().max() > 1e-3
    assert_close(look["loss"], loss)
    assert_close(look["ids"], windows[0])
    assert_close(look["probabilities"]["before"], before)
    assert_close(look["before"][:size], parameter)
    assert_close(look["gradient"][:size], parameter.grad)
    optimizer = train.configure_optimizers(pair.network, pair.config)
    optimizer.set_lr(train.lr_factor(0, pair.config))
    train.train_step(pair.network, optimizer, windows, pair.config, 0)
    loss, after = measure()
    assert_close(look["after"][:size], parameter)
    assert_close(look["loss_after"], loss)
    assert_close(look["probabilities"]["after"], after)
    assert pair.js.value("training.done") == 1


def test_two_workers_learn_exactly_what_one_learns():
    weights = []
    for helped in ("true", "false"):
        pair = Pair(optimizer="muon", position="rotary")
        tokens = torch.randint(V, (900,), generator=pair.generator).tolist()
        pair.js.run(f"const training = train({tokens}, {helped})")
        pair.js.run("training.step().then(() => training.step())")
        assert pair.js.value("training.done") == 2
        weights.append(pair.js.value("parameters.flat.weight"))
    assert weights[0] == weights[1]


def test_validation_loss_covers_each_whole_window_once():
    pair = Pair()
    ids = torch.randint(V, (1500,), generator=pair.generator)
    windows = ids[1350:1495].unfold(0, 17, 16)  # 9 of the last tenth, for two learners of 4
    with torch.no_grad():
        _, loss = pair.network(windows[:, :-1], windows[:, 1:])
    pair.js.run(f"const training = train({ids.tolist()}, true)")
    pair.js.run("training.estimate_loss(1e9).then((loss) => (globalThis.loss = loss))")
    assert abs(pair.js.value("loss") - loss.item()) < 1e-5


def test_first_weights_are_as_large_as_in_python():
    pair = Pair(n_embd=64)
    pair.js.run("initialize(writer, 5)")
    for name, parameter in build(pair.config, V).named_parameters():
        found = pair.js.tensor(f"of('{name}').weight")
        assert not found[parameter.numel() :].any()  # the padding
        found = found[: parameter.numel()].float()  # gains are whole numbers
        assert abs(found.mean() - parameter.mean()) < 0.003, name
        assert abs(found.std() - parameter.std()) < 0.1 * parameter.std() + 1e-9, name


def test_counted_ngrams_have_the_losses_of_python():
    js, text = JavaScript(), PASTICHE[:6000]
    vocab = sorted(set(text))
    ids = [vocab.index(character) for character in text]
    found = js.value(f"ngram_losses({ids[:5000]}, {ids[5000:]}, {len(vocab)}, 4)")
    counted = NGrams(text[:5000], 4, len(vocab))
    for n in range(1, 5):
        assert abs(found[n - 1] - counted.loss(text[5000:], n)) < 1e-9


def test_packed_weights_are_float16_and_what_stays_in_the_page():
    js, generator = JavaScript(), torch.Generator().manual_seed(0)
    numbers = torch.randn(2000, generator=generator) * 10 ** torch.linspace(-9, 4, 2000)
    numbers = torch.cat([numbers, torch.tensor([0.0, 1.0, -2.0, 65504.0, 2**-14, 0.99999])])
    js.run(f"var a = {{ weight: Float32Array.from({numbers.tolist()}), used: 2006 }}")
    packed = js.value("(globalThis.btoa = (x) => x, pack({ all: [a] }))").encode("latin-1")
    stored = torch.frombuffer(bytearray(packed), dtype=torch.float16).float()
    assert torch.equal(js.tensor("a.weight"), stored)
    assert torch.equal(stored, numbers.half().float())


# --- In the browser ---------------------------------------------------------------------------

BLANK = ROOT / "docs" / "quillgpt.html"


def figure(reader, name):
    """A number of the panel in which the network learns; nan while there is none."""
    shown = reader.text_of(f"#learn-{name}").split()[0]
    return float(shown) if shown != "–" else math.nan


def begin_to_learn(reader, text=None):
    """Open the blank page, and learn a text, or its own, until two steps are made."""
    reader.open_file(BLANK)
    if text:
        reader.enter("#learn-text", text)
    reader.click("#learn")
    reader.until(lambda: figure(reader, "step") >= 2)


def test_committed_page_is_what_the_command_makes(tmp_path):
    page.main(["--blank", f"--output={tmp_path / 'made.html'}"])
    made = (tmp_path / "made.html").read_bytes()
    assert BLANK.read_bytes() == made, "python -m page --blank --output=docs/quillgpt.html"


def test_network_learns_in_the_page_and_is_kept(reader, tmp_path):
    begin_to_learn(reader)
    reader.until(lambda: figure(reader, "loss") < 4.5)
    noise = reader.text_of("#sample")
    # Below the line of counted 2-grams, 2.41 for this text.
    reader.until(lambda: figure(reader, "loss") < 2.4 and reader.text_of("#loss .counted + text"))
    bigram = reader.value("JSON.parse(document.querySelector('#data').textContent).counted")
    assert bigram is None  # the data of the file stay as they were
    reader.click("#learn-pause")
    reader.until(lambda: reader.text_of("#learn-pause") == "Go on")
    reader.value(LATER)
    before = [reader.text_of(f"#learn-{name}") for name in ("seconds", "step")]
    assert reader.text_of("#sample") != noise
    reader.assert_fits_a_phone()

    reader.download_to(tmp_path)
    asks = "!dispatchEvent(new Event('beforeunload', {cancelable: true}))"  # before it is left
    assert reader.value(asks)
    reader.click("#learn-keep")
    kept = tmp_path / "my-gpt.html"
    reader.until(kept.exists)
    assert not reader.value(asks)
    assert [reader.text_of(f"#learn-{name}") for name in ("seconds", "step")] == before
    texts = []
    for path in (None, kept):
        if path:
            reader.open_file(path)
        reader.type_prompt("KING: ")
        reader.click("#write")
        reader.until(lambda: len(reader.text()) == 506)
        texts.append(reader.text())
    assert texts[0] == texts[1]
    assert before[1].split()[0] in reader.text_of("#about")
    reader.enter("#learn-text", PASTICHE)
    reader.click("#learn")  # the kept network goes on learning
    reader.until(lambda: figure(reader, "step") >= 2 and figure(reader, "loss") < 2.6)


REFUSED = {  # a text, and what the page says of it
    "": "0 characters",
    "a" * 2000: "nothing to predict",
    "\n" * 2000: "nothing to predict",
    "\0" * 2000: "UTF-8",
    "".join(chr(0x4E00 + i) for i in range(6000)): "6,000 different",
}
LEARNED = {
    "CRLF": "To be,\r\nor not to be.\r\n" * 100,
    "joined emoji, accents": "👩‍🚀 flies 👨‍👩‍👧 für 𝔘\n" * 100,
    "one damaged character": "To be or \ufffd not.\n" + "To be, or not.\n" * 200,
    "script": "</script><script>alert(1)</script>\n" * 100,
    "5 MB": PASTICHE * 66,
}


@pytest.mark.parametrize("name", LEARNED)
def test_text_of_any_kind_is_learned(reader, name):
    text = LEARNED[name]
    begin_to_learn(reader, text)
    reader.until(lambda: figure(reader, "loss") < 6)
    length = f"{len(text.replace(chr(13), '')):,} characters"
    assert length in reader.text_of("#learn-length")
    if text.isascii():
        reader.type_prompt(text[:3])  # those characters are known


def test_text_that_cannot_be_learned_is_refused_with_the_reason(reader):
    reader.open_file(BLANK)
    for text, reason in REFUSED.items():
        reader.enter("#learn-text", text)
        reader.click("#learn")
        assert reason in reader.text_of("#learn-problem")


def test_run_is_paused_looked_into_and_goes_on(reader):
    begin_to_learn(reader)
    buttons = "Array.from(document.querySelectorAll('.row button'), (one) => one.textContent)"
    names = reader.value(buttons)
    assert len(names) == len(set(names)) and "Learn from scratch" in names
    shown = "parseInt(document.querySelector('#learn-step').textContent)"
    pressed = reader.value(f"(document.querySelector('#learn-pause').click(), {shown})")
    reader.value(LATER)
    step = figure(reader, "step")
    assert step - pressed <= 1
    reader.value(LATER)
    assert figure(reader, "step") == step

    for number in (1, 2):
        reader.click("#look-next")
        reader.until(lambda: reader.find("#look").is_displayed())
        reader.value(LATER)
        assert figure(reader, "step") == step + number
        losses = [float(reader.text_of(f"#look-{name}")) for name in ("loss", "loss-after")]
        assert losses[1] < losses[0]
        assert len(reader.find_elements("css selector", "#look-window li")) == 64
        reader.value("(document.querySelector('#look-matrix').selectedIndex = 2)")
    assert reader.text_of("#look-matrix option:nth-child(3)").endswith("attention.projection")
    assert reader.text_of("#look-optimizer") == "Muon"
    places = set()
    for row, column in ((5, 7), (4, 8), (5, 8)):
        reader.enter("#look-row", row)
        reader.enter("#look-column", column)
        numbers = [reader.text_of(f"#look-{name}") for name in ("value", "change", "new")]
        value, change, new = (float(number.replace("−", "-")) for number in numbers)
        assert abs(value + change - new) < 1e-3 * abs(value) + 1e-7 and change
        places.add(value)
    assert len(places) == 3

    reader.click("#learn-pause")
    reader.until(lambda: figure(reader, "step") > step + 2)  # it goes on
    before, page_tab = figure(reader, "step"), reader.current_window_handle
    reader.switch_to.new_window("tab")
    reader.value(f"{LATER}.then(() => {LATER})")  # the page is in the background
    reader.close()
    reader.switch_to.window(page_tab)
    assert figure(reader, "step") > before + 2


def test_browser_without_simd_is_told_what_it_needs(reader):
    script = {"source": "WebAssembly.validate = () => false;"}
    added = reader.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
    reader.get(BLANK.as_uri())
    reader.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    assert reader.find("#unsupported").is_displayed() and not reader.find("#main").is_displayed()


def test_trained_network_goes_on_learning(here, reader):
    reader.open()
    before = reader.text_of("#about").split(",")[0]
    reader.enter("#learn-text", PASTICHE)
    reader.click("#learn")
    reader.until(lambda: reader.text_of("#learn-step").startswith("300 /"))
    reader.until(lambda: "learned" in reader.text_of("#learn-status"))
    vocab = load("out/run/ckpt.pt")[1].vocab
    known = "".join(one for one in PASTICHE if one in vocab)
    validated = f"the whole validation text, {len(known) - int(0.9 * len(known)):,} characters"
    assert validated in reader.text_of("#learn-status")
    assert reader.text_of("#about").startswith(before)  # as many parameters
