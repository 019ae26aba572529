"""How far does counting get you? The losses of counted n-grams, the baseline of every network."""

import random
from dataclasses import dataclass

from networks import NGrams
from quill.dataset import open_dataset
from quill.settings import read_options
from quill.terminal import on_terminal
from tokenizer import Tokenizer

LONGEST = 8  # characters; in a text of a megabyte, most longer strings occur only once
SAMPLE_LENGTH = 200  # characters
MOST_COUNTED = 2_000_000  # characters of a split: counts take 1 GB for each million


@dataclass(frozen=True)
class CountingOptions:
    dataset: str = "shakespeare_char"  # folder under data/
    seed: int = 1337  # of the sample


def count_dataset(data):
    """Return the NGrams of a dataset's training split, and the text of its validation split."""
    vocab = data.meta["vocab"]
    splits = [tokens.ids[:MOST_COUNTED] for tokens in (data.train, data.val)]
    text, validation = map(Tokenizer(vocab).decode, splits)
    if len(text) < len(data.train):
        print(f"of the training text, the first {MOST_COUNTED:,} characters are counted")
    return NGrams(text, LONGEST, len(vocab)), validation


def ngrams(arguments):
    """Print how far counting gets you: the loss of n-grams for each n, and a sample."""
    options = read_options(arguments, CountingOptions, "-m study ngrams")
    data = open_dataset(options.dataset)
    model, validation = count_dataset(data)
    vocab, losses = data.meta["vocab"], {}
    print(" n   different strings   of them once   new in validation   validation loss")
    for n in range(1, LONGEST + 1):
        counts = [count for string, count in model.count.items() if len(string) == n]
        strings = [validation[i : i + n] for i in range(len(validation) - n + 1)]
        once = counts.count(1) / max(1, len(counts))  # the text may be shorter
        new = sum(string not in model.count for string in strings) / max(1, len(strings))
        losses[n] = model.loss(validation, n)
        print(f"{n:2}{len(counts):20,}{once:15.0%}{new:20.1%}{losses[n]:18.3f}", flush=True)

    best, sample, generator = min(losses, key=losses.get), "\n", random.Random(options.seed)
    for _ in range(SAMPLE_LENGTH):
        context = sample[max(0, len(sample) - best + 1) :]
        probabilities = [model.probability(character, context) for character in vocab]
        sample += generator.choices(vocab, probabilities)[0]
    print(f"\na text by n = {best}:{on_terminal(sample)}")
