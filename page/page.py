"""Turn a checkpoint into one HTML file in which that network runs.

    python -m page                                    the newest run under out/
    python -m page --out_dir=out/shakespeare_cpu --output=romeo.html

Open the file in a browser, mail it, or publish it as it is: it holds the weights (as float16), the
vocabulary, the settings, the run's log and the program, and connects to nothing. page.html is the
page without them, network.js is model.py in JavaScript, and page.js is what the reader sees.
"""

import base64
import hashlib
import inspect
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import ancestors
import model
from quill.checkpoint import PER_CALL, find_checkpoint, network_of, read_checkpoint
from quill.files import replacing
from quill.log import COLUMNS, read_log
from quill.settings import comments, read_settings
from quill.terminal import UserError, show
from study.characters import KINDS, kind_of, principal_components
from train import Config

HERE = Path(__file__).parent
NO_RECIPE = PER_CALL | {"device", "dtype", "compile"}  # settings of a machine, not of a recipe


@dataclass(frozen=True)
class Options:
    """The command line."""

    out_dir: str = ""  # the run; empty: the newest under out/
    checkpoint: str = ""  # the checkpoint file itself; empty: ckpt.pt of that run
    output: str = ""  # the page; empty: page.html in the run's folder


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


def find_log(checkpoint, folder):
    """The run's log as {column: list of numbers}: log.csv, or, where the checkpoint came without
    it, what the checkpoint knows, which ends with itself."""
    if (folder / "log.csv").exists():
        return read_log(folder)
    rows = checkpoint["state"]["log"]
    return {name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)}


def project_characters(network, meta):
    """The most frequent characters in the plane in which their embeddings differ most; None if
    there is none."""
    ids = [i for i, character in enumerate(meta["vocab"]) if character in meta["most_frequent"]]
    vectors = next(network.parameters()).detach().numpy()[ids]  # (V, C); a bigram's table: (V, V)
    if min(vectors.shape) < 2:
        return None
    positions, fractions = principal_components(vectors)
    return {
        "ids": ids,
        "positions": positions.round(4).tolist(),
        "fractions": fractions.tolist(),
        "vowels": [i for i in ids if kind_of(meta["vocab"][i]) == KINDS[0]],
    }


def describe_recipe(config):
    """Settings as rows for the page: [name, value, meaning, whether it differs from the default].
    config: {name: value}."""
    meanings, defaults = comments(Config), asdict(Config())
    return [
        [name, repr(value), meanings[name], value != defaults[name]]
        for name, value in config.items()
    ]


def read_source(module):
    """The source code of a module's functions and classes: {name: text}."""
    parts = vars(module).items()
    own = {name: x for name, x in parts if getattr(x, "__module__", None) == module.__name__}
    return {name: inspect.getsource(part) for name, part in own.items()}


def collect_data(checkpoint, network, folder):
    """All that the page shows and runs, but for the weights, as values that JSON can hold."""
    meta, state = checkpoint["meta"], checkpoint["state"]
    config = {name: x for name, x in checkpoint["config"].items() if name not in NO_RECIPE}
    code = {"model.py": read_source(model)}
    if config["network"] != "gpt":
        code["ancestors.py"] = read_source(ancestors)
    return {
        "config": config,
        "vocab": list(meta["vocab"]),
        "tensors": [[name, list(tensor.shape)] for name, tensor in network.named_parameters()],
        "source": meta["source"],
        "step": state["step"],
        "val_loss": state["best_val_loss"],
        "log": find_log(checkpoint, folder),
        "plane": project_characters(network, meta),
        "recipe": describe_recipe(config),
        "code": code,
    }


# --- The file ---------------------------------------------------------------------------------


def write_policy(scripts, style):
    """A Content-Security-Policy that forbids everything but these scripts and this style."""
    *scripts, style = (
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in [*scripts, style]
    )
    return (
        f"default-src 'none'; connect-src 'none'; script-src {' '.join(scripts)}; "
        f"style-src {style}; img-src data:; worker-src blob:; base-uri 'none'; form-action 'none'"
    )


def fill_template(data, weights):
    """The page's HTML. data: see collect_data(). weights: base64."""
    names = ["page.html", "network.js", "page.js"]
    template, network, page = [(HERE / name).read_text(encoding="utf-8") for name in names]
    style = re.search("<style>(.*?)</style>", template, re.DOTALL).group(1)
    parts = {
        "policy": write_policy([network, page], style),
        "network": network,
        "page": page,
        # "<" would be the one way out of a script element, so JSON's escape takes its place.
        "data": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        "weights": weights,
    }
    # In one pass, so that what is inserted is not searched for a name in braces.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], template)


def main(arguments):
    options = Options(**read_settings(Options, arguments, "-m page", about=__doc__))
    path = find_checkpoint(options.out_dir, options.checkpoint)
    checkpoint = read_checkpoint(path)
    network = network_of(checkpoint)
    data = collect_data(checkpoint, network, path.parent)
    html = fill_template(data, pack_weights(network))
    output = Path(options.output or path.parent / "page.html")
    with replacing(output) as file:
        file.write(html.encode())
    show(f"{output}: {len(html) / 1e6:.1f} MB; open it in a browser")
