"""Write text with a trained network, one character at a time.

    python sample.py --temperature=0.8                     from the newest checkpoint under out/
    python sample.py --start "ROMEO:" --num_samples=5      five continuations of a prompt
    python sample.py --start FILE:prompt.txt > poem.txt    the prompt from a file, output to a file
    python sample.py --temperature 0.2 0.8 1.5             one text for each temperature

The text goes to standard output, everything else to standard error. The same seed writes the same
text. Below 1, the temperature makes likely characters more likely; above 1, all become alike; at 0
the most likely one is always taken.
"""

from quill import require_packages

require_packages()

import sys
import time
import unicodedata
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch

from model import generate, stream
from quill import hardware
from quill.checkpoint import find_checkpoint, network_of, read_checkpoint
from quill.settings import check_limits, read_options
from quill.terminal import UserError, on_terminal, run_main, show
from quill.text import read_text
from tokenizer import Tokenizer


@dataclass(frozen=True)
class Options:
    """The command line."""

    out_dir: str = ""  # the run to sample from; empty: the newest under out/
    checkpoint: str = ""  # the checkpoint file itself; empty: ckpt.pt of that run
    start: str = ""  # the prompt, or FILE:path; empty: a newline, as before a new speech
    num_samples: int = 1  # how many texts
    max_new_tokens: int = 500  # characters in each
    temperature: tuple[float, ...] = (0.8,)  # 0: always the most likely; several: a text for each
    top_k: int | None = None  # draw only from the k most likely characters
    top_p: float | None = None  # draw only from the most likely ones that together reach p
    init_from: str = "resume"  # nanoGPT's: from a checkpoint; GPT-2's weights cannot be loaded here
    seed: int = 1337  # of the random draws: another seed, another text
    device: str = "auto"  # auto (the fastest there is), cpu, cuda, cuda:1, mps
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # number format of products

    def __post_init__(self):
        if self.init_from != "resume":
            raise ValueError("init_from: GPT-2 cannot be loaded here; --checkpoint names a file")
        check_limits(self, ["num_samples", "max_new_tokens", "top_k"], at_most_one=["top_p"])


def read_prompt(start, tokenizer):
    """Return the prompt's text, and its ids as a tensor (1, T)."""
    prompt = start
    if not start:
        prompt = "\n" if "\n" in tokenizer.vocab else tokenizer.vocab[0]
    elif start.startswith("FILE:"):
        prompt = read_text(start.removeprefix("FILE:"))
        if not prompt:
            raise UserError(f"--start: {start} is empty")
    # A shell passes "\n" on as two characters. An accented letter is one character or two.
    typed = prompt is start and "\\n" in start
    tries = [prompt, prompt.replace("\\n", "\n") if typed else prompt]
    tries += [unicodedata.normalize(form, tries[1]) for form in ("NFC", "NFD")]
    prompt = next((text for text in tries if set(text) <= tokenizer.ids.keys()), tries[1])
    if typed:
        read = "two characters, as in the text" if prompt is start else "a newline"
        show(f"note: \\n in --start is read as {read}", file=sys.stderr)
    try:
        return prompt, torch.tensor([tokenizer.encode(prompt)])  # (1, T)
    except ValueError as error:
        known = f"the network knows {len(tokenizer.vocab)} characters: {tokenizer.vocab[:200]!r}"
        raise UserError(f"--start: {error}; {known}") from error


def write_samples(network, tokenizer, prompt, idx, temperature, options):
    """Print the texts. One is printed while it is generated; several are generated as one batch."""
    settings = {"temperature": temperature, "top_k": options.top_k, "top_p": options.top_p}
    settings["generator"] = torch.Generator(idx.device).manual_seed(options.seed)
    shown = prompt if options.start else ""
    if options.num_samples == 1:
        print(shown, end="", flush=True)
        for token in stream(network, idx, options.max_new_tokens, **settings):  # (1, 1)
            print(on_terminal(tokenizer.decode(token[0].tolist())), end="", flush=True)
        print()
        return
    idx = idx.repeat(options.num_samples, 1)  # (1, T) -> (num_samples, T)
    samples = generate(network, idx, options.max_new_tokens, **settings)
    for number, sample in enumerate(samples[:, idx.shape[1] :].tolist(), start=1):
        print(f"--- sample {number} of {options.num_samples} ---", file=sys.stderr, flush=True)
        print(on_terminal(shown + tokenizer.decode(sample)), flush=True)


def main(arguments):
    options = read_options(arguments, Options, "sample.py", ["compile"], __doc__)  # nanoGPT's
    path = find_checkpoint(options.out_dir, options.checkpoint)
    checkpoint = read_checkpoint(path)
    tokenizer = Tokenizer(checkpoint["meta"]["vocab"])
    prompt, idx = read_prompt(options.start, tokenizer)
    device = hardware.pick_device(options.device)
    network = hardware.for_sampling(network_of(checkpoint), device, options.dtype)
    state, source = checkpoint["state"], checkpoint["meta"]["source"]
    age = timedelta(seconds=max(0, round(time.time() - path.stat().st_mtime)))
    about = f"validation loss {state['best_val_loss']:.4f}, step {state['step']}, {age} old"
    print(f"{path}: {about}, trained on {source}", file=sys.stderr, flush=True)

    started = time.monotonic()
    for temperature in options.temperature:
        if len(options.temperature) > 1:
            print(f"--- temperature {temperature:g} ---", file=sys.stderr, flush=True)
        write_samples(network, tokenizer, prompt, idx.to(device), temperature, options)
    seconds = time.monotonic() - started
    count = len(options.temperature) * options.num_samples * options.max_new_tokens
    dtype = str(network.dtype).removeprefix("torch.")
    print(f"{count} characters, {count / seconds:,.0f} per second, in {dtype}", file=sys.stderr)


if __name__ == "__main__":
    run_main(main)
