"""The losses of several checkpoints, measured here: which one is the best?"""

import math

import train
from quill import hardware
from quill.checkpoint import find_checkpoint, network_of
from quill.dataset import open_dataset
from study.folders import FolderOptions, checkpoint_for, of_each, read_folders


def results(arguments):
    """Measure the losses of several checkpoints: python -m study results out/a out/b/last.pt.

    A loss is measured on the validation split that is prepared here, whatever the checkpoint says.
    "With context" leaves out the predictions from less than half a block of context.
    """
    folders, options = read_folders(arguments, FolderOptions, "results")
    data = open_dataset(options.dataset, hardware.pick_device("auto"))
    rows = of_each(folders, measure, data)
    print("loss    with context   parameters   seconds   steps   checkpoint")
    for loss, context, parameters, seconds, step, name in sorted(rows.values(), key=worst_last):
        print(f"{loss:.4f}{context:11.4f}{parameters:16,}{seconds:10.0f}{step:8,}   {name}")


def worst_last(row):
    """The key that sorts by loss: weights that are nan come last."""
    return math.isnan(row[0]), row[0]


def measure(folder, data):
    """Return a checkpoint's validation loss, the same with context, its parameters, seconds of
    training, step and name. The losses are in nats per character."""
    checkpoint, name = checkpoint_for(folder, data), find_checkpoint(folder).as_posix()
    network = network_of(checkpoint)
    dtype = hardware.pick_dtype(checkpoint["config"]["dtype"], data.device)
    hardware.for_training(network, data.device, dtype)
    size, half = checkpoint["config"]["block_size"], checkpoint["config"]["block_size"] // 2
    loss = train.estimate_loss(network, data.val.in_order(size))
    context = train.estimate_loss(network, data.val.in_order(size, overlap=half), skipped=half)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    state = checkpoint["state"]
    return loss, context, parameters, state["seconds"], state["step"], name
