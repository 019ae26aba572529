"""What the tests share: the repository on the path, a small dataset, tiny runs and networks."""

import contextlib
import hashlib
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

# The networks here are so small that sharing a product between threads costs more than it gains.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the programs that the tests start

with contextlib.suppress(ModuleNotFoundError):  # selenium, which only the page's tests need
    from browser import chromium, reader  # noqa: F401 (fixtures)

# The programs that the tests start inherit what is ignored here, as Ctrl-C is in a job with `&`.
signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = [
    "--dataset=small",
    "--device=cpu",
    "--dtype=float32",  # whatever the machine is fast in: the tests hold to its digits
    "--n_layer=2",
    "--n_head=2",
    "--n_embd=16",
    "--block_size=16",
    "--batch_size=4",
    "--max_iters=9",
    "--warmup_iters=2",
    "--eval_interval=3",
    "--eval_iters=2",
]


def prepare_small():
    """Make small.txt, 12,000 characters of the bundled text, and data/small in this folder."""
    import prepare_shakespeare

    text = prepare_shakespeare.BUNDLED.read_text()[:12000]
    Path("small.txt").write_text(text)
    prepare_shakespeare.main(["--source", "small.txt", "--dataset", "small"])


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty working folder with data/small."""
    monkeypatch.chdir(tmp_path)
    prepare_small()
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with out/run, trained a little; nothing in it changes during the tests."""
    import train

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare_small()
        train.main(TINY)
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """A folder with a copy of that run, and nothing else."""
    shutil.copytree(trained / "out", tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def without_plots(monkeypatch):
    """A tiny run takes twice the time with its plots."""
    monkeypatch.setattr("quill.log.plot_loss", lambda folder, rows, batches: None)


def tiny_config(*changes):
    """The train.Config of TINY with changes, as words of a command line."""
    import train
    from quill.settings import read_settings

    return train.Config(**read_settings([*TINY, *changes], train.Config, "train.py")[0])


def tiny_training(*changes):
    """Return network, optimizer, data and config of a fresh run with the settings of TINY and
    changes, in a workspace: what the functions of train.py take."""
    import train
    from networks import build
    from quill import hardware
    from quill.dataset import open_dataset

    config, cpu = tiny_config(*changes), torch.device("cpu")
    data = open_dataset(config.dataset)
    torch.manual_seed(config.seed)
    network = build(config, len(data.meta["vocab"]))
    hardware.for_training(network, cpu, hardware.pick_dtype(config.dtype, cpu))
    return network, train.configure_optimizers(network, config), data, config


def contents(path):
    """Return all that a checkpoint holds, with a hash in the place of each tensor; but not how long
    it took, how it was started, and the last learning rate, which follows from the step."""
    from quill.checkpoint import read_checkpoint

    skipped = {"seconds", "log", "out_dir", "init_from", "overwrite", "lr"}

    def hashed(value):
        if isinstance(value, dict):
            return {key: hashed(part) for key, part in value.items() if key not in skipped}
        if isinstance(value, list):
            return [hashed(part) for part in value]
        if isinstance(value, torch.Tensor):
            return hashlib.sha256(value.numpy().tobytes()).hexdigest()
        return value

    return hashed(read_checkpoint(path))


def outcome(folder):
    """All that a run has come to, in values that can be compared: its checkpoints and its log."""
    from quill.log import read_log

    log = {**read_log(folder), "seconds": None}
    return [log, contents(f"{folder}/last.pt"), contents(f"{folder}/ckpt.pt")]


def stop_at(monkeypatch, last, number=signal.SIGINT):
    """Send this process a signal while it draws the batch of step `last`."""
    import train

    draw = train.get_batch

    def draw_and_signal(tokens, config, step):
        if step == last:
            signal.raise_signal(number)
        return draw(tokens, config, step)

    monkeypatch.setattr(train, "get_batch", draw_and_signal)


def small_network(seed=0, scale=4.0, vocab_size=11, **changes):
    """A network of random weights, large enough that every part of it shows in the logits."""
    from networks import build
    from train import Config

    torch.manual_seed(seed)
    shape = {"block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 12}
    network = build(Config(**{**shape, **changes}), vocab_size).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(scale).add_(torch.randn_like(parameter) * 0.1)
    return network


def random_ids(network, rows=3, length=16, seed=1):
    """Token ids that fit a network's vocabulary: (rows, length)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(network.vocab_size, (rows, length), generator=generator)
