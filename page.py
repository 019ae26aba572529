"""Turn a checkpoint into one HTML file in which that very network runs.

    python page.py                                  the newest run under out/ -> out/<run>/page.html
    python page.py --out_dir=out/shakespeare_cpu --output=romeo.html

Open the file in a browser, mail it, or publish it as it is: it holds the weights (as float16), the
vocabulary, the settings, the run's log and the program, and connects to nothing. page.html is the
page without them; page.js is the program: model.py's network in JavaScript, and what the page shows
of it.
"""

from quill.checkpoint import find_checkpoint, load_checkpoint, network_from
from quill.settings import PER_CALL, SETTINGS
from quill.terminal import Parser, UserError, replacing, run_main

import base64
import hashlib
import inspect
import json
import math
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np

import ancestors
import model
from plots import KINDS, kind_of, principal_components, read_log

HERE = Path(__file__).parent
NO_RECIPE = PER_CALL | {"device", "dtype", "compile"}  # settings of a machine, not of a recipe


def packed_weights(network):
    """A network's parameters as float16, little-endian, in base64. Raises UserError if one is too
    large for float16."""
    parts = []
    for name, parameter in network.named_parameters():
        with np.errstate(over="ignore"):
            numbers = parameter.detach().numpy().astype("<f2")
        if not np.isfinite(numbers).all():
            raise UserError(f"{name} holds weights above 65,504, the largest number of float16")
        parts.append(numbers.tobytes())
    return base64.b64encode(b"".join(parts)).decode()


def log_of(checkpoint, folder):
    """The run's losses as {name of a column: list of numbers}: those of log.csv, or, where the
    checkpoint came without it, those up to the checkpoint. Raises UserError."""
    if (folder / "log.csv").exists():
        log = read_log(folder)
        if not all(math.isfinite(number) for column in log.values() for number in column):
            raise UserError(
                f"{folder / 'log.csv'} is damaged (it holds a number that is not finite)"
            )
        return log
    rows = checkpoint["progress"]["log"]
    return {
        "step": [r[0] for r in rows],
        "seconds": [r[2] for r in rows],
        "train_loss": [r[4] for r in rows],
        "val_loss": [r[5] for r in rows],
    }


def plane_of(network):
    """The characters in the plane of their first two principal components, for the page to plot.
    None if there is no such plane."""
    vectors = next(network.parameters()).detach().numpy()  # (V, C); a bigram's table: (V, V)
    if min(vectors.shape) < 2:
        return None
    positions, fractions = principal_components(vectors)
    return {"positions": positions.round(4).tolist(), "fractions": fractions.tolist()}


def recipe_of(checkpoint):
    """The run's settings: [[name, value, meaning, whether it differs from the default]]."""
    rows = []
    for name, value in checkpoint["config"].items():
        if name in SETTINGS and name not in NO_RECIPE:
            setting = SETTINGS[name]
            rows.append([name, repr(value), setting.metadata["meaning"], value != setting.default])
    return rows


def source_of(module):
    """The source code of a module's functions and classes: {name: text}."""
    own = {n: v for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__}
    return {name: inspect.getsource(value) for name, value in own.items()}


def data_of(checkpoint, network, folder):
    """What the page shows, as plain values. Raises UserError."""
    progress, loss = checkpoint["progress"], checkpoint["progress"]["best_val_loss"]
    plane = plane_of(network)
    if plane:
        vocab = checkpoint["vocab"]
        plane["vowels"] = [i for i, character in enumerate(vocab) if kind_of(character) == KINDS[0]]
    code = {"model.py": source_of(model)}
    if network.config.network != "gpt":
        code["ancestors.py"] = source_of(ancestors)
    return {
        "config": asdict(network.config),
        "tensors": [[name, list(p.shape)] for name, p in network.named_parameters()],
        "vocab": list(checkpoint["vocab"]),
        "run": {
            "source": checkpoint["source"],
            "step": progress["step"],
            "val_loss": loss if math.isfinite(loss) else None,
        },
        "log": log_of(checkpoint, folder),
        "plane": plane,
        "recipe": recipe_of(checkpoint),
        "code": code,
    }


def page_of(data, weights):
    """The page's HTML. data: see data_of(). weights: base64."""
    template = (HERE / "page.html").read_text(encoding="utf-8")
    program = "\n" + (HERE / "page.js").read_text(encoding="utf-8")
    style = re.search("<style>(.*?)</style>", template, re.DOTALL).group(1)
    # JSON between script tags: "<" would be the one way out of them, so it is written as an escape.
    # So is all that is not ASCII, by json.dumps itself.
    parts = {
        "policy": policy(program, style),
        "program": program.removeprefix("\n"),
        "data": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        "weights": weights,
    }
    # In one pass, so that what is inserted is not searched for a name in braces.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], template)


def policy(program, style):
    """The Content-Security-Policy that forbids everything but this program and this style."""
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (program, style)
    ]
    return (
        f"default-src 'none'; connect-src 'none'; script-src 'sha256-{hashes[0]}'; "
        f"style-src 'sha256-{hashes[1]}'; img-src data:; worker-src blob:; base-uri 'none'; "
        "form-action 'none'"
    )


def main(arguments):
    parser = Parser(prog="page.py", description="Make a page in which a trained network runs.")
    parser.add_argument("--out_dir", help="the run (default: the newest under out/)")
    parser.add_argument("--checkpoint", help="the file itself (default: ckpt.pt of that run)")
    parser.add_argument("--output", help="the page (default: page.html in the run's folder)")
    options = parser.parse_args(arguments)
    path = find_checkpoint(options)
    checkpoint = load_checkpoint(path)
    network = network_from(checkpoint)
    html = page_of(data_of(checkpoint, network, path.parent), packed_weights(network))
    output = Path(options.output or path.parent / "page.html")
    with replacing(output) as file:
        file.write(html.encode())
    print(f"{output}: {len(html) / 1e6:.1f} MB; open it in a browser")


if __name__ == "__main__":
    run_main(main)
