"""Turn a checkpoint into one HTML file in which that network runs.

    python -m page                                    the newest run under out/
    python -m page --out_dir=out/shakespeare_cpu --output=romeo.html
    python -m page --blank                            a network that learns in the browser

Open the file in a browser, mail it, or publish it as it is: it holds the weights (as float16), the
vocabulary, the settings, the run's log and the program, and connects to nothing. page.html is the
page without them, network.js is model.py in JavaScript, learn.js is train.py, kernels.js has the
products of matrices, and page.js is what the reader sees.
"""

import base64
import copy
import hashlib
import inspect
import json
import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import ancestors
import numpy as np
import torch
import torch.nn.functional as F

import model
from prepare_shakespeare import BUNDLED, MOST_FREQUENT, URL, decode, get_text
from quill.checkpoint import PER_CALL, find_checkpoint, fingerprint, network_of, read_checkpoint
from quill.files import replacing
from quill.log import COLUMNS
from quill.settings import comments, read_settings
from quill.terminal import UserError, show
from train import Config

HERE = Path(__file__).parent
NO_RECIPE = PER_CALL | {"device", "dtype", "compile"}  # settings of a machine, not of a recipe
# Settings that mean something for one kind of network only, and those that mean nothing for it.
OF_GPT = {"n_layer", "n_head", "position", "qk_norm", "token_shift", "bias"}
MEANINGLESS = {
    "gpt": {"n_hidden"},
    "mlp": OF_GPT,
    "bigram": OF_GPT | {"n_hidden", "n_embd", "dropout"},
}
# The fingerprints of the modules that network.js computes. If a change of one of them changes what
# the network computes, change network.js first, and then the fingerprint.
IN_JAVASCRIPT = {"model": "921a1535bf76d711", "ancestors": "ba8b2a4196c73253"}
# The networks that a page trains, from quickly to well.
FAST = "config/shakespeare_fast.py"
LONGER = ["--n_layer=3", "--block_size=128", "--batch_size=16", "--max_iters=800"]
SIZES = [
    ("seconds", [FAST]),
    ("a minute", [FAST, "--n_layer=2", "--max_iters=400"]),
    ("some minutes", [FAST, *LONGER]),
]
# How a page goes on to train a network: config/finetune.py, in smaller batches, for less memory.
TUNING = {"optimizer": "adamw", "batch_size": 4, "max_iters": 300, "learning_rate": 3e-4}
TUNING |= {"warmup_iters": 10, "min_lr": 3e-5, "lr_decay_iters": 0}
PROBED = 64  # characters; enough to see any part of a network that computes something else


@dataclass(frozen=True)
class Options:
    """The command line."""

    out_dir: str = ""  # the run; empty: the newest under out/
    checkpoint: str = ""  # the checkpoint file itself; empty: ckpt.pt of that run
    output: str = ""  # the page; empty: page.html in the run's folder
    blank: bool = False  # a page whose network learns in the browser, without a checkpoint
    text: str = ""  # for a blank page: a text to learn from; empty: the bundled one


def read_recipe(words):
    """The settings of a command line of train.py, as a dict."""
    given = read_settings(Config, words, "-m page", recipe=True)
    return asdict(Config(**{name: x for name, x in given.items() if name != "recipe"}))


def recipe_of(config):
    """The settings among those of a run that belong to its recipe."""
    return {name: x for name, x in config.items() if name not in NO_RECIPE}


# --- What the page shows ----------------------------------------------------------------------


def pack_weights(network):
    """A network's parameters as float16, little-endian, in base64."""
    parts = []
    for name, parameter in network.named_parameters():
        with np.errstate(over="ignore"):
            values = parameter.detach().numpy().astype("<f2")
        if not np.isfinite(values).all():
            raise UserError(f"{name} holds weights above 65,504, the largest number of float16")
        parts.append(values.tobytes())
    return base64.b64encode(b"".join(parts)).decode()


@torch.no_grad()
def probe(network):
    """A text of random characters, and how much each surprises this network in Python, with its
    weights as pack_weights() rounds them: the page checks that its program computes the same."""
    network = copy.deepcopy(network)
    for parameter in network.parameters():
        parameter.copy_(parameter.half())
    length = min(PROBED, network.config.block_size)
    ids = np.random.default_rng(0).integers(network.vocab_size, size=length + 1)
    idx = torch.from_numpy(ids)[None]  # (1, length + 1)
    logits, _ = network(idx[:, :-1])  # (1, length, V)
    surprises = F.cross_entropy(logits[0].float(), idx[0, 1:], reduction="none")
    return {"ids": ids.tolist(), "surprises": surprises.tolist()}


def describe_settings(kind):
    """The settings that mean something for a kind of network: [name, default, meaning]."""
    meanings, defaults = comments(Config), asdict(Config())
    left_out = NO_RECIPE | MEANINGLESS[kind]
    return [[name, x, meanings[name]] for name, x in defaults.items() if name not in left_out]


def read_source(module):
    """The source code of a module's functions and classes: {name: text}."""
    parts = vars(module).items()
    own = {name: x for name, x in parts if getattr(x, "__module__", None) == module.__name__}
    return {name: inspect.getsource(part) for name, part in own.items()}


def read_code(kind):
    """{file: {name: source}} of what a network of that kind runs."""
    code = {"model.py": read_source(model)}
    if kind == "gpt":
        return code
    generation = {name: code["model.py"][name] for name in ("next_probabilities", "stream")}
    own = read_source(ancestors)
    name = ancestors.NETWORKS[kind].__name__
    return {
        "ancestors.py": {part: own[part] for part in (name, "with_loss")},
        "model.py": generation,
    }


def newest_state(checkpoint, folder):
    """How far the run of a checkpoint has come: the state in last.pt, if it lies beside it."""
    last = folder / "last.pt"
    return (read_checkpoint(last) if last.exists() else checkpoint)["state"]


def collect_data(checkpoint, network, folder):
    """All that the page shows and runs, but for the weights, as values that JSON can hold."""
    meta, state, newest = checkpoint["meta"], checkpoint["state"], newest_state(checkpoint, folder)
    config = recipe_of(checkpoint["config"])
    return {
        "config": config,
        "vocab": list(meta["vocab"]),
        "frequent": [i for i, one in enumerate(meta["vocab"]) if one in meta["most_frequent"]],
        "tensors": [[name, list(tensor.shape)] for name, tensor in network.named_parameters()],
        "probe": probe(network),
        "source": "Tiny Shakespeare" if meta["source"] == URL else meta["source"],
        "step": state["step"],
        "val_loss": state["best_val_loss"],
        "log": {name: [row[i] for row in newest["log"]] for i, name in enumerate(COLUMNS)},
        "batches": newest["losses"],
        "samples": list(newest["samples"].items()),
        "settings": describe_settings(config["network"]),
        "code": read_code(config["network"]),
        "learn": {"sizes": [], "tuning": TUNING},
    }


def collect_blank(text):
    """The same for a page whose network has learned nothing, with a text that it can learn."""
    sizes = [{"name": name, "config": recipe_of(read_recipe(words))} for name, words in SIZES]
    vocab = sorted(set(text))
    frequent = dict(Counter(text).most_common(MOST_FREQUENT))
    return {
        "untrained": True,
        "config": sizes[0]["config"],
        "vocab": vocab,
        "frequent": [i for i, one in enumerate(vocab) if one in frequent],
        "source": "",
        "step": 0,
        "val_loss": None,
        "log": {name: [] for name in COLUMNS},
        "batches": [],
        "samples": [],
        "settings": describe_settings("gpt"),
        "code": read_code("gpt"),
        "learn": {"sizes": sizes, "tuning": TUNING, "text": text},
    }


# --- The file ---------------------------------------------------------------------------------


def write_policy(scripts, style):
    """A Content-Security-Policy that forbids everything but these scripts, with the WebAssembly in
    them, and this style."""
    *scripts, style = (
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in [*scripts, style]
    )
    return (
        f"default-src 'none'; connect-src 'none'; "
        f"script-src {' '.join(scripts)} 'wasm-unsafe-eval'; style-src {style}; "
        "img-src data:; worker-src blob:; base-uri 'none'; form-action 'none'"
    )


def fill_template(data, weights):
    """The page's HTML. data: see collect_data(). weights: base64."""
    template = (HERE / "page.html").read_text(encoding="utf-8")
    style = re.search("<style>(.*?)</style>", template, re.DOTALL).group(1)
    names = ["kernels", "network", "learn", "page"]
    scripts = {name: (HERE / f"{name}.js").read_text(encoding="utf-8") for name in names}
    parts = {
        "policy": write_policy(scripts.values(), style),
        **scripts,
        # "<" would be the one way out of a script element, so JSON's escape takes its place.
        "data": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        "weights": weights,
    }
    # In one pass, so that what is inserted is not searched for a name in braces.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], template)


def main(arguments):
    options = Options(**read_settings(Options, arguments, "-m page", about=__doc__))
    if options.blank:
        text = decode(*get_text(options.text or str(BUNDLED)))
        return write(Path(options.output or "quillgpt.html"), collect_blank(text), weights="")
    path = find_checkpoint(options.out_dir, options.checkpoint)
    checkpoint = read_checkpoint(path)
    network = network_of(checkpoint)
    module = type(network).__module__
    if fingerprint(module) != IN_JAVASCRIPT[module]:
        show(f"note: {module}.py was changed, and page/network.js, which computes the same in the")
        show("page, was not; if the network now computes something else, the page says so")
    data = collect_data(checkpoint, network, path.parent)
    write(Path(options.output or path.parent / "page.html"), data, pack_weights(network))


def write(output, data, weights):
    html = fill_template(data, weights)
    with replacing(output) as file:
        file.write(html.encode())
    show(f"{output}: {len(html) / 1e6:.1f} MB; open it in a browser")
