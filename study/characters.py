"""The kinds of characters, and the plane in which their embeddings differ most."""

import unicodedata

import numpy as np

KINDS = ["vowels", "consonants", "capitals", "punctuation, digits, others"]


def kind_of(character):
    """The one of KINDS that a character belongs to; accents do not matter."""
    plain = unicodedata.normalize("NFD", character)[0]
    if plain.islower():
        return "vowels" if plain in "aeiou" else "consonants"
    return "capitals" if plain.isupper() else KINDS[-1]


def principal_components(vectors):
    """Project vectors (V, C) onto the plane in which they differ most; V and C must be at least 2.

    Returns their positions (V, 2), and the fraction of the variance along each axis (2,).
    Source: Pearson 1901, https://doi.org/10.1080/14786440109462720.
    """
    centred = vectors - vectors.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, :2] * sizes[:2], sizes[:2] ** 2 / (sizes**2).sum()


def spread(positions, room):
    """Move positions (V, 2) apart until hardly any two are nearer to each other than `room`."""
    positions = positions + np.random.default_rng(0).normal(0, room / 1000, positions.shape)
    for _ in range(300):
        steps = positions[:, None] - positions  # (V, V, 2), from each to each
        distances = np.maximum(np.linalg.norm(steps, axis=2, keepdims=True), room / 100)
        push = steps * np.maximum(0, room / distances - 1) / 2
        positions = positions + push.sum(axis=1)
    return positions
