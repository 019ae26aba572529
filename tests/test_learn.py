"""page/learn.js and train.js: a network learns in JavaScript as in PyTorch, and in the browser."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from browser import DRAG, LATER, JavaScript, on_a_laptop, on_a_phone
from conftest import ROOT

import train
from networks import NGrams, build
from page import page
from quill.checkpoint import load
from quill.muon import Muon

sys.path.append(str(ROOT / "tools"))

import kernels

V = 11  # characters in the vocabulary; the arrays are padded to 16


@pytest.fixture(scope="module")
def js():
    return JavaScript()


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
OFFERED = [{**page.read_recipe(words), "batch_size": 2} for _, words in page.SIZES]
KINDS = [pytest.param(kind, id=str(kind)) for kind in KINDS]
OFFERED = [pytest.param(size, id=f"n_embd={size['n_embd']}") for size in OFFERED]


def test_committed_kernels_are_the_compiled_text():
    assert (ROOT / "page" / "kernels.wasm").read_bytes() == kernels.compiled()


def test_products_equal_pytorch():
    js, generator = JavaScript(), torch.Generator().manual_seed(0)
    for M, N, K, transposed in ((4, 8, 1, False), (12, 24, 300, True), (8, 16, 257, False)):
        a = torch.randn(M, K, generator=generator)
        b = torch.randn(K, N, generator=generator)
        js.run(f"var memory = new Memory({4 * (M * K + K * N + M * N)})")
        for name, matrix in {"a": a.mT if transposed else a, "b": b, "c": torch.ones(M, N)}.items():
            values = matrix.flatten().tolist()
            js.run(f"var {name} = memory.array({len(values)}); {name}.set({values})")
        js.run(f"memory.product(a, b, {M}, {N}, {K}, c, {json.dumps(transposed)})")
        assert torch.allclose(js.tensor("c").view(M, N), a @ b, atol=1e-4)


@pytest.mark.parametrize("columns", [1, 15, 16, 37])
def test_matrix_times_vector_equals_pytorch(columns):
    js, generator = JavaScript(), torch.Generator().manual_seed(0)
    matrix, x = torch.randn(9, columns, generator=generator), torch.randn(columns)
    js.run(f"const memory = new Memory(1000); const m = memory.array({9 * columns})")
    js.run(f"const x = memory.array({columns + 1}), y = memory.array(11)")
    js.run(f"m.set({matrix.flatten().tolist()}); x.set({[0.0, *x.tolist()]})")
    js.run(f"memory.multiply(m, 9, {columns}, x, 1, y, 2)")
    expected = torch.cat([torch.zeros(2), matrix @ x])
    assert torch.allclose(js.tensor("y"), expected, atol=1e-5)


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


@pytest.mark.parametrize("shape", [(32, 96), (96, 32), (32, 32)])
def test_muons_step_equals_that_of_python(js, shape):
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(shape, generator=generator))
    optimizer = Muon([weight], torch.float32, lr=0.1, momentum=0.9, weight_decay=0.2)
    size = weight.numel()
    js.run(f"var memory = new Memory({20 * size}), work = range(3).map(() => memory.array({size}))")
    js.run(f"var [weight, average, dweight] = range(3).map(() => memory.array({size}))")
    js.run(f"var parameter = {{ weight, average, dweight, shape: {list(shape)} }}")
    js.run(f"weight.set({weight.flatten().tolist()})")
    for _ in range(2):
        weight.grad = torch.randn(shape, generator=generator)
        optimizer.step()
        js.run(f"dweight.set({weight.grad.flatten().tolist()})")
        js.run("muon(parameter, 0.1, 0.2, 0.9, work, memory)")
    assert torch.allclose(js.tensor("weight").view(shape), weight, atol=1e-4)


def test_network_that_learns_is_the_one_that_writes():
    pair = Pair(position="rotary", qk_norm=True, token_shift=True)
    windows, _ = pair.batch()
    pair.js.run(f"writer.forward({windows[0, :-1].tolist()})")
    logits = pair.js.tensor("writer.logits").view(-1, 16)[:, :V]
    assert torch.allclose(logits, pair.network(windows[:1, :-1])[0][0], atol=1e-4)


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


def test_counted_ngrams_have_the_losses_of_python(js):
    text = (ROOT / "data" / "pastiche.txt").read_text(encoding="utf-8")[:6000]
    vocab = sorted(set(text))
    ids = [vocab.index(character) for character in text]
    found = js.value(f"ngram_losses({ids[:5000]}, {ids[5000:]}, {len(vocab)}, 4)")
    counted = NGrams(text[:5000], 4, len(vocab))
    for n in range(1, 5):
        assert abs(found[n - 1] - counted.loss(text[5000:], n)) < 1e-9


def test_packed_weights_are_float16_and_what_stays_in_the_page(js):
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(2000, generator=generator) * 10 ** torch.linspace(-9, 4, 2000)
    numbers = torch.cat([numbers, torch.tensor([0.0, 1.0, -2.0, 65504.0, 2**-14, 0.99999])])
    js.run(f"var a = {{ weight: Float32Array.from({numbers.tolist()}), used: 2006 }}")
    packed = js.value("(globalThis.btoa = (x) => x, pack({ all: [a] }))").encode("latin-1")
    stored = torch.frombuffer(bytearray(packed), dtype=torch.float16).float()
    assert torch.equal(js.tensor("a.weight"), stored)
    assert torch.equal(stored, numbers.half().float())


# --- In the browser ---------------------------------------------------------------------------

PASTICHE = (ROOT / "data" / "pastiche.txt").read_text(encoding="utf-8")


def open_blank(reader):
    reader.get((ROOT / "docs" / "quillgpt.html").as_uri())
    reader.until(lambda: "Wrote 200" in reader.text_of("#status"))


def put_text(reader, text):
    box = "(document.querySelector('#learn-text'))"
    reader.value(f"({box}.value = arguments[0], {box}.dispatchEvent(new Event('input')))", text)


def step_of(reader):
    shown = reader.text_of("#learn-step").split()[0]
    return int(shown) if shown != "–" else 0


def loss_of(reader):
    shown = reader.text_of("#learn-loss")
    return float(shown) if shown != "–" else 9.0


def test_committed_page_is_what_the_command_makes(tmp_path):
    page.main(["--blank", f"--output={tmp_path / 'made.html'}"])
    committed = ROOT / "docs" / "quillgpt.html"
    made = (tmp_path / "made.html").read_bytes()
    assert committed.read_bytes() == made, "python -m page --blank --output=docs/quillgpt.html"


@on_a_laptop
def test_network_learns_in_the_page_pauses_and_is_kept(reader, tmp_path):
    open_blank(reader)
    reader.click("#learn")
    reader.until(lambda: loss_of(reader) < 4.5)
    noise = reader.text_of("#sample")
    # Below the line of counted 2-grams, 2.41 for this text.
    reader.until(lambda: loss_of(reader) < 2.4 and reader.text_of("#loss .counted + text"))
    bigram = reader.value("JSON.parse(document.querySelector('#data').textContent).counted")
    assert bigram is None  # the data of the file stay as they were
    reader.click("#learn-pause")
    reader.until(lambda: reader.text_of("#learn-pause") == "Go on")
    reader.value(LATER)
    seconds, step = reader.text_of("#learn-seconds"), reader.text_of("#learn-step")
    assert reader.text_of("#sample") != noise
    assert reader.value("document.documentElement.scrollWidth <= innerWidth")

    folder = {"behavior": "allow", "downloadPath": str(tmp_path)}
    reader.execute_cdp_cmd("Browser.setDownloadBehavior", folder)
    asks = "!dispatchEvent(new Event('beforeunload', {cancelable: true}))"  # before it is left
    assert reader.value(asks)
    reader.click("#learn-keep")
    kept = tmp_path / "my-gpt.html"
    reader.until(kept.exists)
    assert not reader.value(asks)
    assert (reader.text_of("#learn-seconds"), reader.text_of("#learn-step")) == (seconds, step)
    texts = []
    for address in (None, kept.as_uri()):
        if address:
            reader.get(address)
            reader.until(lambda: "Wrote 200" in reader.text_of("#status"))
        reader.type_prompt("KING: ")
        reader.click("#write")
        reader.until(lambda: len(reader.text()) == 506)
        texts.append(reader.text())
    assert texts[0] == texts[1]
    assert step.split()[0] in reader.text_of("#about")
    put_text(reader, PASTICHE)
    reader.click("#learn")  # the kept network goes on learning
    reader.until(lambda: step_of(reader) >= 2 and loss_of(reader) < 2.6)


@on_a_phone
def test_paused_run_goes_on(reader):
    open_blank(reader)
    reader.click("#learn")
    reader.until(lambda: step_of(reader) >= 2)
    reader.click("#learn-pause")
    reader.value(LATER)
    step = reader.text_of("#learn-step")
    reader.value(LATER)
    assert reader.text_of("#learn-step") == step
    assert reader.value("document.documentElement.scrollWidth <= innerWidth")
    reader.click("#learn-pause")
    reader.until(lambda: reader.text_of("#learn-step") != step)


TEXTS = {  # and what the page says of it, or None if it learns
    "empty": ("", "0 characters"),
    "one character": ("a", "1 characters. It needs"),
    "the same character": ("a" * 2000, "nothing to predict"),
    "only newlines": ("\n" * 2000, "nothing to predict"),
    "binary": ("\0" * 2000, "UTF-8"),
    "too many characters": ("".join(chr(0x4E00 + i) for i in range(6000)), "6,000 different"),
    "CRLF": ("To be,\r\nor not to be.\r\n" * 100, None),
    "joined emoji": ("👩‍🚀 flies 👨‍👩‍👧 far\n" * 100, None),
    "accents and astral letters": ("Ünïcödé 𝔘 wörds\n" * 200, None),
    "one damaged character": ("To be or \ufffd not.\n" + "To be, or not.\n" * 200, None),
    "script": ("</script><script>alert(1)</script>\n" * 100, None),
    "5 MB": (PASTICHE * 66, None),
}


@on_a_laptop
@pytest.mark.parametrize("name", TEXTS)
def test_text_is_learned_or_the_page_says_why_not(reader, name):
    text, problem = TEXTS[name]
    open_blank(reader)
    put_text(reader, text)
    reader.click("#learn")
    if problem:
        assert problem in reader.text_of("#learn-problem")
        return
    reader.until(lambda: step_of(reader) >= 2)
    reader.until(lambda: loss_of(reader) < 6)
    assert not reader.text_of("#learn-problem")
    length = f"{len(text.replace(chr(13), '')):,} characters"
    assert length in reader.text_of("#learn-length")
    if text.isascii():
        reader.type_prompt(text[:3])  # those characters are known


@on_a_laptop
def test_next_step_makes_one_and_shows_it(reader):
    open_blank(reader)
    reader.click("#learn")
    reader.until(lambda: step_of(reader) >= 2)
    reader.click("#learn-pause")
    reader.value(LATER)
    step = step_of(reader)
    for number in (1, 2):
        reader.click("#look-next")
        reader.until(lambda: reader.find("#look").is_displayed())
        reader.value(LATER)
        assert step_of(reader) == step + number
        losses = [float(reader.text_of(f"#look-{name}")) for name in ("loss", "loss-after")]
        assert losses[1] < losses[0]
        assert len(reader.find_elements("css selector", "#look-window li")) == 64
        reader.value("(document.querySelector('#look-matrix').selectedIndex = 2)")
    assert reader.text_of("#look-matrix option:nth-child(3)").endswith("attention.projection")
    places = set()
    for row, column in ((5, 7), (4, 8), (5, 8)):
        reader.value(DRAG, reader.find("#look-row"), row)
        reader.value(DRAG, reader.find("#look-column"), column)
        numbers = [reader.text_of(f"#look-{name}") for name in ("value", "change", "new")]
        value, change, new = (float(number.replace("−", "-")) for number in numbers)
        assert abs(value + change - new) < 1e-3 * abs(value) + 1e-7 and change
        places.add(value)
    assert len(places) == 3
    assert reader.text_of("#look-optimizer") == "Muon"


@on_a_laptop
def test_pause_takes_effect_within_a_step(reader):
    open_blank(reader)
    reader.click("#learn")
    reader.until(lambda: step_of(reader) >= 3)
    shown = "+document.querySelector('#learn-step').textContent.split(' ')[0]"
    pressed = f"(document.querySelector('#learn-pause').click(), {shown})"
    step = reader.value(pressed)
    reader.value(LATER)
    assert reader.value(shown) - step <= 1


@on_a_laptop
def test_run_goes_on_while_its_tab_is_in_the_background(reader):
    open_blank(reader)
    reader.click("#learn")
    reader.until(lambda: step_of(reader) >= 2)
    page_tab = reader.current_window_handle
    reader.switch_to.new_window("tab")
    reader.value(f"{LATER}.then(() => {LATER})")
    reader.close()
    reader.switch_to.window(page_tab)
    before = step_of(reader)
    assert before > 4
    reader.until(lambda: step_of(reader) > before)


@on_a_laptop
def test_no_two_buttons_have_the_same_name(reader):
    open_blank(reader)
    reader.click("#learn")
    reader.until(lambda: step_of(reader) >= 2)
    buttons = "Array.from(document.querySelectorAll('.row button'), (one) => one.textContent)"
    names = reader.value(buttons)
    assert len(names) == len(set(names)) and "Learn from scratch" in names


@on_a_laptop
def test_browser_without_simd_is_told_what_it_needs(reader):
    script = {"source": "WebAssembly.validate = () => false;"}
    added = reader.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
    reader.get((ROOT / "docs" / "quillgpt.html").as_uri())
    reader.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    assert reader.find("#unsupported").is_displayed() and not reader.find("#main").is_displayed()


@on_a_laptop
def test_trained_network_goes_on_learning(here, reader):
    reader.open()
    before = reader.text_of("#about").split(",")[0]
    put_text(reader, PASTICHE)
    reader.click("#learn")
    reader.until(lambda: reader.text_of("#learn-step").startswith("300 /"))
    reader.until(lambda: "learned" in reader.text_of("#learn-status"))
    vocab = load("out/run/ckpt.pt")[1].vocab
    known = "".join(one for one in PASTICHE if one in vocab)
    validated = f"the whole validation text, {len(known) - int(0.9 * len(known)):,} characters"
    assert validated in reader.text_of("#learn-status")
    assert reader.text_of("#about").startswith(before)  # as many parameters
    assert Path("out/run/ckpt.pt").exists()
