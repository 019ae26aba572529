"""page/learn.js: a network learns in JavaScript as it does in PyTorch, and in the browser."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from ancestors import NGrams, build
from browser import HELPERS, PROGRAM, SCRIPTS, on_a_laptop, on_a_phone
from conftest import ROOT
from py_mini_racer import MiniRacer

import train
from page import page
from quill.muon import Muon
from study.characters import principal_components

sys.path.append(str(ROOT / "tools"))

import kernels

V = 11  # characters in the vocabulary; the arrays are padded to 16


class JavaScript:
    """The page's program in V8. plain: without WebAssembly."""

    def __init__(self, plain=False):
        self.engine = MiniRacer()
        before = "WebAssembly.Module = null;" if plain else ""
        self.engine.eval(f"{before} {PROGRAM} {HELPERS}; 0")

    def run(self, statements):
        self.engine.eval(f"{statements}; 0")

    def value(self, expression):
        convert = "(_, x) => ArrayBuffer.isView(x) ? Array.from(x) : x"
        return json.loads(self.engine.eval(f"JSON.stringify({expression}, {convert})"))

    def tensor(self, expression):
        return torch.tensor(self.value(expression))


@pytest.fixture(scope="module")
def js():
    return JavaScript()


class Pair:
    """A network of PyTorch, in float32, and the same in JavaScript, which learn the same."""

    def __init__(self, plain=False, **settings):
        torch.manual_seed(1)
        self.config = train.Config(**{**SMALL, **settings})
        self.network = build(self.config, V)
        with torch.no_grad():
            for parameter in self.network.parameters():
                if parameter.dim() == 1:  # else gains are 1, which hides them
                    parameter.add_(torch.randn_like(parameter) / 10)
        self.js = JavaScript(plain)
        sizes = f"{V}, {self.config.batch_size}"
        self.js.run(f"const config = {json.dumps(asdict(self.config))}")
        self.js.run(f"const net = new_learner(config, {sizes})")
        for name, parameter in self.network.named_parameters():
            self.js.run(f"net.weights['{name}'].set({parameter.flatten().tolist()})")
        self.generator = torch.Generator().manual_seed(2)

    def batch(self):
        """Windows for PyTorch, and the same for JavaScript."""
        shape = self.config.batch_size, self.config.block_size + 1
        windows = torch.randint(V, shape, generator=self.generator)
        return windows, windows.flatten().tolist()


SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16, "batch_size": 4}
SMALL |= {"max_iters": 20, "warmup_iters": 3, "learning_rate": 1e-2, "min_lr": 1e-3}
KINDS = [{"position": position} for position in ("learned", "sinusoidal", "rotary", "none")]
KINDS += [{"token_shift": True}, {"qk_norm": True}, {"n_head": 4}, {"lr_schedule": "constant"}]
KINDS += [{"optimizer": "muon", "grad_clip": 0.1}, {"grad_clip": 0.0, "lr_schedule": "linear"}]
OFFERED = [{**page.read_recipe(words), "batch_size": 2} for _, words in page.SIZES]
KINDS = [pytest.param(kind, id=str(kind)) for kind in KINDS]
OFFERED = [pytest.param(size, id=f"n_embd={size['n_embd']}") for size in OFFERED]


def test_committed_program_is_the_compiled_text():
    text = (ROOT / "page" / "kernels.wat").read_text(encoding="utf-8")
    assert kernels.COMPILED.search(SCRIPTS["kernels"])[0] == kernels.compiled(text)


@pytest.mark.parametrize("plain", [False, True])
def test_products_equal_pytorch(plain):
    js, generator = JavaScript(plain), torch.Generator().manual_seed(0)
    assert js.value("new Memory(1).fast") != plain
    for M, N, K, transposed in ((4, 8, 1, False), (12, 24, 300, True), (8, 16, 257, False)):
        a = torch.randn(M, K, generator=generator)
        b = torch.randn(K, N, generator=generator)
        js.run(f"memory = new Memory({4 * (M * K + K * N + M * N)})")
        for name, matrix in {"a": a.mT if transposed else a, "b": b, "c": torch.ones(M, N)}.items():
            values = matrix.flatten().tolist()
            js.run(f"var {name} = memory.array({len(values)}); {name}.set({values})")
        js.run(f"memory.product(a, b, {M}, {N}, {K}, c, {json.dumps(transposed)})")
        assert torch.allclose(js.tensor("c").view(M, N), a @ b, atol=1e-4)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("columns", [1, 15, 16, 37])
def test_matrix_times_vector_equals_pytorch(plain, columns):
    js, generator = JavaScript(plain), torch.Generator().manual_seed(0)
    matrix, x = torch.randn(9, columns, generator=generator), torch.randn(columns)
    js.run(f"memory = new Memory({9 * columns}, 40); const m = memory.array({9 * columns})")
    js.run(f"m.set({matrix.flatten().tolist()}); const y = new Float32Array(11)")
    vector = f"Float32Array.from({[0.0, *x.tolist()]})"
    js.run(f"memory.multiply(m, 9, {columns}, {vector}, 1, y, 2)")
    expected = torch.cat([torch.zeros(2), matrix @ x])
    assert torch.allclose(js.tensor("y"), expected, atol=1e-5)


@pytest.mark.parametrize("settings", [*KINDS, *OFFERED])
def test_every_gradient_equals_pytorch(settings):
    pair = Pair(**settings)
    windows, ids = pair.batch()
    _, loss = pair.network(windows[:, :-1], windows[:, 1:])
    loss.backward()
    assert abs(pair.js.value(f"forward(net, {ids})") - loss.item()) < 1e-5
    pair.js.run(f"backward(net, {ids})")
    for name, parameter in pair.network.named_parameters():
        found = pair.js.tensor(f"net.gradients['{name}']")[: parameter.numel()]
        difference = (found.view_as(parameter) - parameter.grad).norm()
        assert difference < 1e-4 * parameter.grad.norm(), name


@pytest.mark.parametrize("settings", [*KINDS, OFFERED[0]])
def test_twenty_steps_have_the_losses_of_train(settings):
    pair = Pair(**settings)
    optimizers = train.configure_optimizers(pair.network, pair.config)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for step in range(20):
        windows, ids = pair.batch()
        train.set_lr(optimizers, train.get_lr(step, pair.config))
        loss = train.train_step(pair.network, optimizers, scaler, windows, pair.config).item()
        assert abs(pair.js.value(f"forward(net, {ids})") - loss) < 1e-3, step
        pair.js.run(f"backward(net, {ids}); update(net, {step}, config)")
    for name, parameter in pair.network.named_parameters():
        found = pair.js.tensor(f"net.weights['{name}']")[: parameter.numel()]
        assert (found.view_as(parameter) - parameter).norm() < 1e-2 * parameter.norm(), name


@pytest.mark.parametrize("shape", [(32, 96), (96, 32), (32, 32)])
def test_muons_step_equals_that_of_python(js, shape):
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(shape, generator=generator))
    optimizer = Muon([weight], torch.float32, lr=0.1, momentum=0.9, weight_decay=0.2)
    size = weight.numel()
    js.run(f"memory = new Memory({20 * size}); var w = memory.array({size})")
    js.run(f"var momentum = memory.array({size}); w.set({weight.flatten().tolist()})")
    js.run(f"var work = [1, 2, 3, 4].map(() => memory.array({size}))")
    for _ in range(2):
        weight.grad = torch.randn(shape, generator=generator)
        optimizer.step()
        gradient = f"Float32Array.from({weight.grad.flatten().tolist()})"
        js.run(f"muon(w, {gradient}, momentum, {shape[0]}, {shape[1]}, 0.1, 0.2, 0.9, work)")
    assert torch.allclose(js.tensor("w").view(shape), weight, atol=1e-4)


def test_learning_works_without_webassembly():
    pair = Pair(plain=True)
    windows, ids = pair.batch()
    _, loss = pair.network(windows[:, :-1], windows[:, 1:])
    assert abs(pair.js.value(f"forward(net, {ids})") - loss.item()) < 1e-5


def test_network_that_learns_is_the_one_that_writes():
    pair = Pair(position="rotary", qk_norm=True, token_shift=True)
    windows, _ = pair.batch()
    pair.js.run(f"const written = build(config, {V}, unpadded(net))")
    logits = pair.js.tensor(f"written.forward({windows[0, :-1].tolist()})")
    assert torch.allclose(logits.view(-1, V), pair.network(windows[:1, :-1])[0][0], atol=1e-4)


def test_validation_loss_covers_each_whole_window_once():
    pair = Pair()
    ids = torch.randint(V, (150,), generator=pair.generator)  # 9 windows of 16, in batches of 4
    windows = ids[:145].unfold(0, 17, 16)
    with torch.no_grad():
        _, loss = pair.network(windows[:, :-1], windows[:, 1:])
    found = pair.js.value(f"estimate_loss(net, Uint16Array.from({ids.tolist()}), 1e9)")
    assert abs(found - loss.item()) < 1e-5


def test_first_weights_are_as_large_as_in_python():
    pair = Pair(n_embd=64)
    pair.js.run("initialize(net, 5)")
    for name, parameter in build(pair.config, V).named_parameters():
        found = pair.js.tensor(f"net.weights['{name}']")
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


def test_plane_is_that_of_the_principal_components(js):
    vectors = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    vectors *= torch.tensor([5.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    found = js.value(f"principal_components({vectors.flatten().tolist()}, 20, 6)")
    positions, fractions = principal_components(vectors.numpy())
    for axis in (0, 1):
        column, expected = torch.tensor(found["positions"])[:, axis], positions[:, axis]
        signed = column * torch.sign((column * torch.tensor(expected)).sum())
        assert torch.allclose(signed, torch.tensor(expected), atol=1e-3)
    assert torch.allclose(torch.tensor(found["fractions"]), torch.tensor(fractions[:2]), atol=1e-4)


def test_labels_of_the_plane_do_not_overlap(js):
    positions = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)) / 10
    positions = torch.cat([positions, positions[:5], torch.tensor([[1.0, 1.0]])])  # some twice
    moved = js.tensor(f"spread({positions.tolist()})")
    room = (positions.amax(dim=0) - positions.amin(dim=0)).max() / 25
    distances = torch.pdist(moved)
    assert distances.min() > 0.6 * room
    assert torch.pdist(positions).min() == 0


def test_packed_weights_are_float16_and_what_stays_in_the_page(js):
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(2000, generator=generator) * 10 ** torch.linspace(-9, 4, 2000)
    numbers = torch.cat([numbers, torch.tensor([0.0, 1.0, -2.0, 65504.0, 2**-14, 0.99999])])
    js.run(f"var w = {{ a: Float32Array.from({numbers.tolist()}) }}; var btoa = (text) => text")
    packed = js.value("pack(w, [['a', [2006]]])").encode("latin-1")
    stored = torch.frombuffer(bytearray(packed), dtype=torch.float16).float()
    assert torch.equal(js.tensor("w.a"), stored)
    assert torch.equal(stored, numbers.half().float())


# --- In the browser ---------------------------------------------------------------------------

LATER = "new Promise((done) => setTimeout(done, 500))"  # a step has ended
PASTICHE = (ROOT / "data" / "pastiche.txt").read_text(encoding="utf-8")


def open_blank(reader):
    reader.get((ROOT / "docs" / "quillgpt.html").as_uri())
    reader.until(lambda: "Wrote 200" in reader.text_of("#status"))


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
    reader.click("#hold")
    reader.until(lambda: reader.text_of("#hold") == "Go on")
    reader.value(LATER)
    seconds, step = reader.text_of("#learn-seconds"), reader.text_of("#learn_step")
    assert reader.text_of("#sample") != noise
    assert reader.value("document.documentElement.scrollWidth <= innerWidth")

    folder = {"behavior": "allow", "downloadPath": str(tmp_path)}
    reader.execute_cdp_cmd("Browser.setDownloadBehavior", folder)
    reader.click("#keep")
    kept = tmp_path / "my-gpt.html"
    reader.until(kept.exists)
    assert (reader.text_of("#learn-seconds"), reader.text_of("#learn_step")) == (seconds, step)
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


@on_a_phone
def test_paused_run_goes_on(reader):
    open_blank(reader)
    reader.click("#learn")
    reader.until(lambda: reader.text_of("#learn_step").startswith("2 /"))
    reader.click("#hold")
    reader.value(LATER)
    step = reader.text_of("#learn_step")
    reader.value(LATER)
    assert reader.text_of("#learn_step") == step
    assert reader.value("document.documentElement.scrollWidth <= innerWidth")
    reader.click("#hold")
    reader.until(lambda: reader.text_of("#learn_step") != step)


@on_a_laptop
def test_another_text_is_learned_and_a_bad_one_is_named(reader):
    open_blank(reader)
    put = "(document.querySelector('#learn_text').value = arguments[0])"
    for text, fact in (("too short", "9 characters"), ("\0" * 2000, "UTF-8")):
        reader.value(put, text)
        reader.click("#learn")
        assert fact in reader.text_of("#learn_problem")
    many = "".join(chr(0x4E00 + i) for i in range(6000))
    reader.value(put, many)
    reader.click("#learn")
    assert "6,000 different" in reader.text_of("#learn_problem")
    reader.value(put, "Ünïcödé 𝔘 wörds\n" * 200)
    reader.click("#learn")
    reader.until(lambda: loss_of(reader) < 2.5)
    assert not reader.text_of("#learn_problem")
    assert "𝔘" in reader.text_of("#plane")


@on_a_laptop
def test_trained_network_goes_on_learning(here, reader):
    reader.open()
    before = reader.text_of("#parameters")
    reader.value("(document.querySelector('#learn_text').value = arguments[0])", PASTICHE)
    reader.click("#learn")
    reader.until(lambda: reader.text_of("#learn_step").startswith("300 /"))
    reader.until(lambda: "learned" in reader.text_of("#learn_status"))
    assert reader.text_of("#parameters") == before
    assert Path("out/run/ckpt.pt").exists()
