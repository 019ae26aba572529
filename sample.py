"""Write text with a trained network, one character at a time.

    python sample.py --temperature=0.8                     from the newest checkpoint under out/
    python sample.py --start "ROMEO:" --num_samples=5      five continuations of a prompt
    python sample.py --start FILE:prompt.txt > poem.txt    the prompt from a file, output to a file
    python sample.py --temperatures 0.2,0.8,1.5            one text per temperature, side by side

The text goes to standard output, everything else to standard error. The same seed writes the same
text. Below 1, the temperature makes likely characters likelier; above 1, all become alike; at 0
the likeliest is always taken.
"""

from quill import hardware
from quill.checkpoint import find_checkpoint, load_checkpoint, network_from
from quill.terminal import Parser, UserError, run_main

import argparse
import math
import shutil
import sys
import textwrap
import time
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch

from model import generate, stream
from prepare_shakespeare import Tokenizer

MOST_TEMPERATURES = 10  # side by side, in text or in a plot


def temperatures(text):
    """'0.2,0.8' -> [0.2, 0.8], for a parser; raises ArgumentTypeError."""
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(0 <= number < math.inf for number in numbers):
        raise argparse.ArgumentTypeError(f"{text}: give numbers of 0 or above, as in 0.2,0.8,1.5")
    if len(numbers) > MOST_TEMPERATURES:
        raise argparse.ArgumentTypeError(f"{len(numbers)} are too many: {MOST_TEMPERATURES} fit")
    return numbers


def read_options(arguments):
    """The command line as a namespace; raises UserError where a value makes no sense."""
    parser = Parser(prog="sample.py", description="Write text with a trained network.")
    add = parser.add_argument
    add("--out_dir", help="the run to sample from (default: the newest under out/)")
    add("--checkpoint", help="the checkpoint file itself (default: ckpt.pt of that run)")
    add("--start", help="the prompt, or FILE:path (default: a line end, as before a new speech)")
    add("--num_samples", type=int, default=1, help="how many texts (default: 1)")
    add("--max_new_tokens", type=int, default=500, help="characters in each (default: 500)")
    add("--temperature", type=float, default=0.8, help="0: always the likeliest (default: 0.8)")
    add("--temperatures", type=temperatures, metavar="T,T,...", help="one text each, side by side")
    add("--top_k", type=int, help="draw from the k likeliest characters only (default: all)")
    add("--top_p", type=float, help="draw from the likeliest that sum to p only (default: all)")
    add("--seed", type=int, default=1337, help="another seed, another text (default: 1337)")
    add("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    dtypes = ["auto", "float32", "bfloat16", "float16"]
    add("--dtype", default="auto", choices=dtypes, help="of weights and arithmetic (default: auto)")
    options = parser.parse_args(arguments)
    for name, valid, wanted in (
        ("num_samples", options.num_samples >= 1, "at least 1"),
        ("max_new_tokens", options.max_new_tokens >= 1, "at least 1"),
        ("temperature", 0 <= options.temperature < math.inf, "0 or above"),
        ("top_k", options.top_k is None or options.top_k >= 1, "at least 1"),
        ("top_p", options.top_p is None or 0 < options.top_p <= 1, "above 0 and at most 1"),
        ("seed", 0 <= options.seed < 2**63, "0 or above"),
    ):
        if not valid:
            raise UserError(f"--{name} must be {wanted}, not {getattr(options, name)}")
    if options.temperatures and options.num_samples > 1:
        raise UserError("--temperatures writes one text for each: leave --num_samples out")
    return options


def read_prompt(start, tokenizer):
    """(the prompt's text, its ids as a tensor (1, T)); raises UserError."""
    prompt = start
    if start is None:
        prompt = "\n" if "\n" in tokenizer.vocab else tokenizer.vocab[0]
    elif start.startswith("FILE:"):
        path = start.removeprefix("FILE:")
        try:
            prompt = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--start: cannot read {path}: {error}") from error
    if not prompt:
        raise UserError("--start: the prompt is empty; leave --start out to begin a new speech")
    try:
        ids = tokenizer.encode(prompt)
    except ValueError as error:
        known = f"the network knows {tokenizer.vocab_size} characters: {tokenizer.vocab[:200]!r}"
        raise UserError(f"--start: {error}; {known}") from error
    return prompt, torch.from_numpy(ids.astype(np.int64))[None]  # (T,) -> (1, T)


def short_sample(run):
    """A few lines that the network of a run in training generates now; the same at each call."""
    _, idx = read_prompt(None, run.tokenizer)  # (1, 1)
    generator = torch.Generator(run.device).manual_seed(0)
    run.network.eval()
    with run.autocast():
        idx = generate(run.network, idx.to(run.device), 100, temperature=0.8, generator=generator)
    run.network.train()
    return run.tokenizer.decode(idx[0].cpu()).strip()


def write(network, tokenizer, prompt, idx, options):
    """Print the texts. One is printed while it is generated; several are generated as one batch."""
    names = ("max_new_tokens", "temperature", "top_k", "top_p")
    settings = {name: getattr(options, name) for name in names}
    settings["generator"] = torch.Generator(idx.device).manual_seed(options.seed)
    shown = "" if options.start is None else prompt
    if options.temperatures:
        texts = []
        for temperature in options.temperatures:
            settings["temperature"] = temperature
            settings["generator"].manual_seed(options.seed)
            sample = generate(network, idx, **settings)[0, idx.shape[1] :]
            text = shown + tokenizer.decode(sample.cpu())
            texts.append((f"temperature {temperature:g}", text))
        print(side_by_side(texts, shutil.get_terminal_size().columns))
    elif options.num_samples == 1:
        print(shown, end="", flush=True)
        for token in stream(network, idx, **settings):  # (1, 1)
            print(tokenizer.decode(token[0].cpu()), end="", flush=True)
        print()
    else:
        samples = generate(network, idx.repeat(options.num_samples, 1), **settings)
        for number, sample in enumerate(samples[:, idx.shape[1] :].cpu(), start=1):
            print(f"--- sample {number} of {options.num_samples} ---", file=sys.stderr, flush=True)
            print(shown + tokenizer.decode(sample), flush=True)


def side_by_side(texts, width):
    """[(title, text), ...] as columns of one text that is `width` characters wide."""
    column = max(16, (width + 3) // len(texts) - 3)  # " | " stands between two
    columns = []
    for title, text in texts:
        lines = [title, ""]
        for line in text.splitlines():
            lines += textwrap.wrap(line, column) or [""]
        columns.append(lines)
    rows = zip_longest(*columns, fillvalue="")
    return "\n".join(" | ".join(cell.ljust(column) for cell in row).rstrip() for row in rows)


def main(arguments):
    options = read_options(arguments)
    path = find_checkpoint(options)
    checkpoint = load_checkpoint(path)
    tokenizer = Tokenizer(checkpoint["vocab"])
    prompt, idx = read_prompt(options.start, tokenizer)
    device = hardware.pick_device(options.device)
    attention = hardware.pick_attention(checkpoint["config"].get("attention", "auto"), device)
    network = network_from(checkpoint, attention=attention).eval()
    network = hardware.speed_up_sampling(network, options.dtype, device, options.num_samples)
    progress, source = checkpoint["progress"], checkpoint["source"]
    about = f"validation loss {progress['best_val_loss']:.4f}, step {progress['step']}"
    print(f"{path}: {about}, trained on {source}", file=sys.stderr, flush=True)

    started = time.monotonic()
    with hardware.errors_explained():
        write(network, tokenizer, prompt, idx.to(device), options)
    seconds = time.monotonic() - started
    tokens = len(options.temperatures or range(options.num_samples)) * options.max_new_tokens
    dtype = str(next(network.parameters()).dtype).removeprefix("torch.")
    print(f"{tokens} characters, {tokens / seconds:,.0f} per second, in {dtype}", file=sys.stderr)


if __name__ == "__main__":
    run_main(main)
