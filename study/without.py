"""What each part of a Transformer contributes: the loss without it."""

import torch

import train
from model import GPT
from quill.dataset import open_dataset
from quill.terminal import UserError
from study.folders import FolderOptions, network_for, of_each, read_folders

MEASURED_ON = 256  # windows of the validation split, spread evenly


def without(arguments):
    """Switch off each head and each feed-forward: python -m study without out/a.

    What a part adds to the residual stream is a product with a matrix. Here, the matrix, or the
    columns of it that belong to a head, are zeros for a moment.
    """
    folders, options = read_folders(arguments, FolderOptions, "without")
    data = open_dataset(options.dataset)
    of_each(folders, print_losses, data)


@torch.no_grad()
def print_losses(folder, data):
    """Print the loss of a run's network, and its losses without each of its parts."""
    network = network_for(folder, data)
    if not isinstance(network, GPT):
        raise UserError(f"a {type(network).__name__} has no heads: only a GPT has")
    windows = list(data.val.spread(network.config.block_size, MEASURED_ON))
    whole, parts = train.estimate_loss(network, windows), {}
    for i, block in enumerate(network.blocks, 1):
        projection = block.attention.projection.weight  # (C, C): C / n_head columns a head
        heads = projection.split(block.attention.head_size, dim=1)
        parts |= {f"layer {i}, head {j}": columns for j, columns in enumerate(heads, 1)}
        parts[f"layer {i}, all heads"] = projection
        parts[f"layer {i}, feed-forward"] = block.feed_forward.projection.weight
    print(f"{whole:.3f}           {folder}")
    for part, weights in parts.items():
        kept = weights.clone()
        weights.zero_()
        loss = train.estimate_loss(network, windows)
        weights.copy_(kept)
        print(f"{loss:.3f}  {loss - whole:+.3f}   without {part}")
