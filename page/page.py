"""Turn a checkpoint into one HTML file in which that network runs.

    python -m page                                    the newest run under out/
    python -m page --out_dir=out/shakespeare_cpu --output=romeo.html
    python -m page --blank                            a network that learns in the browser

Open the file in a browser, mail it, or publish it as it is: it holds the weights (as float16), the
vocabulary, the settings, the run's log and the program, and connects to nothing. page.html is the
page without them, page.js and what it imports are the program: model.js is model.py in JavaScript,
learn.js is the backward pass and the optimizers, and views/ is what the reader sees.
"""

import base64
import copy
import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from prepare_shakespeare import BUNDLED, URL
from quill.checkpoint import PER_CALL, find_checkpoint, network_of, read_checkpoint
from quill.files import replacing
from quill.log import COLUMNS
from quill.settings import read_options, read_settings
from quill.terminal import UsageError, UserError, show
from quill.text import read_text
from train import Config

HERE = Path(__file__).parent
NO_RECIPE = PER_CALL | {"device", "dtype", "compile"}  # settings of a machine, not of a recipe
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
# The networks that a page runs.
RUNS = {"network": ["gpt"], "position": ["learned", "rotary", "none"], "bias": [False]}
PROBED = 64  # characters; enough to see any part of a network that computes something else
IMPORT = re.compile(r'^import \{[^}]*\} from "(.*)";\n', re.MULTILINE)


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
    return asdict(Config(**read_settings(words, Config, "-m page")[0]))


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


def newest_state(checkpoint, folder):
    """How far a checkpoint's run has come: the state in last.pt, if it is in the same folder."""
    last = folder / "last.pt"
    return (read_checkpoint(last) if last.exists() else checkpoint)["state"]


def collect_data(checkpoint, network, folder):
    """All that the page shows and runs, but for the weights, as values that JSON can hold."""
    meta, state, newest = checkpoint["meta"], checkpoint["state"], newest_state(checkpoint, folder)
    return {
        "config": recipe_of(checkpoint["config"]),
        "vocab": list(meta["vocab"]),
        "probe": probe(network),
        "source": "Tiny Shakespeare" if meta["source"] == URL else meta["source"],
        "step": state["step"],
        "val_loss": state["best_val_loss"],
        "log": {name: [row[i] for row in newest["log"]] for i, name in enumerate(COLUMNS)},
        "batches": newest["losses"],
        "samples": list(newest["samples"].items()),
        "learn": {"sizes": [], "tuning": TUNING},
    }


def collect_blank(text):
    """For a page whose network has learned nothing, with a text that it can learn."""
    sizes = [{"name": name, "config": recipe_of(read_recipe(words))} for name, words in SIZES]
    return {
        "untrained": True,
        "config": sizes[0]["config"],
        "vocab": sorted(set(text)),
        "learn": {"sizes": sizes, "tuning": TUNING, "text": text},
    }


# --- The file ---------------------------------------------------------------------------------


def join_modules(path, joined=None):
    """{path: text} of a JavaScript module and of all that it imports, in the order in which they
    can run one after the other in a single script: a page without requests cannot import."""
    joined = {} if joined is None else joined
    text = path.read_text(encoding="utf-8")
    for name in IMPORT.findall(text):
        imported = (path.parent / name).resolve()
        if imported not in joined:
            join_modules(imported, joined)
    joined[path] = re.sub("^export ", "", IMPORT.sub("", text), flags=re.MULTILINE)
    return joined


def read_program(name="page.js"):
    """The program that begins with this module, with the compiled kernels in it."""
    compiled = base64.b64encode((HERE / "kernels.wasm").read_bytes()).decode()
    text = "".join(join_modules(HERE / name).values())
    return '"use strict";\n' + text.replace("{{compiled}}", compiled)


def write_policy(script, style):
    """A Content-Security-Policy that forbids everything but this script, with the WebAssembly in
    it, and this style."""
    script, style = (
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in (script, style)
    )
    return (
        f"default-src 'none'; script-src {script} 'wasm-unsafe-eval'; style-src {style}; "
        "img-src data:; worker-src blob:; base-uri 'none'; form-action 'none'"
    )


def fill_template(data, weights):
    """The page's HTML. data: see collect_data(). weights: base64."""
    template = (HERE / "page.html").read_text(encoding="utf-8")
    style = re.search("<style>(.*?)</style>", template, re.DOTALL).group(1)
    program = read_program()
    parts = {
        "policy": write_policy(program, style),
        "program": program,
        # "<" would be the one way out of a script element, so JSON's escape takes its place.
        "data": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        "weights": weights,
    }
    # In one pass, so that what is inserted is not searched for a name in braces.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], template)


def main(arguments):
    options = read_options(arguments, Options, "-m page", about=__doc__)
    if options.text and not options.blank:
        raise UsageError("--text is for a page whose network learns it: add --blank")
    if options.blank and (options.out_dir or options.checkpoint):
        raise UsageError("a blank page takes no checkpoint: leave out --blank, or the checkpoint")
    if options.blank:
        text = read_text(options.text or str(BUNDLED))
        if not text:
            raise UserError(f"{options.text} is empty: there is nothing to learn")
        return write(Path(options.output or "quillgpt.html"), collect_blank(text), weights="")
    path = find_checkpoint(options.out_dir, options.checkpoint)
    checkpoint = read_checkpoint(path)
    for name, allowed in RUNS.items():
        value = checkpoint["config"][name]
        if value not in allowed:
            raise UserError(f"{path} was trained with --{name}={value}; the page cannot run that")
    network = network_of(checkpoint)
    data = collect_data(checkpoint, network, path.parent)
    write(Path(options.output or path.parent / "page.html"), data, pack_weights(network))


def write(output, data, weights):
    html = fill_template(data, weights)
    with replacing(output) as file:
        file.write(html.encode())
    show(f"{output}: {len(html) / 1e6:.1f} MB; open it in a browser")
