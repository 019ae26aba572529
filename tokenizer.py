"""The tokenizer: one character, one token. A character's id is its index in the vocabulary."""


class Tokenizer:
    """Characters to ids and back. `vocab` is a string of distinct characters."""

    def __init__(self, vocab):
        self.vocab = vocab
        self.ids = {character: i for i, character in enumerate(vocab)}

    def encode(self, text):
        """The ids of a string, as a list. ValueError lists the characters that have none."""
        unknown = set(text) - self.ids.keys()
        if unknown:
            raise ValueError(f"not in the vocabulary: {list_characters(unknown)}")
        return [self.ids[character] for character in text]

    def decode(self, ids):
        """The string that a sequence of ids stands for."""
        return "".join(self.vocab[i] for i in ids)


def list_characters(characters):
    """The first ten of a set of characters, for a message: "'a', 'b', ... and 3 more"."""
    more = f" and {len(characters) - 10} more" if len(characters) > 10 else ""
    return ", ".join(repr(character) for character in sorted(characters)[:10]) + more
