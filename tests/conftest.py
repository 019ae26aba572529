"""What the tests share: the repository on the path, a small dataset, tiny runs and networks."""

import csv
import math
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# The networks here are so small that sharing a product between threads costs more than it gains.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the programs that the tests start

# The programs that the tests start inherit what is ignored here, as it is under nohup or with `&`.
for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), handler)

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

# Settings of a network that neither a recipe nor the command line nor a checkpoint may hold, and
# what the error says of them. (How settings fit each other is model.NetworkConfig's to check.)
IMPOSSIBLE = [
    ("block_size", 0, "block_size must be at least 1, not 0"),
    ("n_layer", 0, "n_layer must be at least 1, not 0"),
    ("n_head", -2, "n_head must be at least 1, not -2"),
    ("n_head", 0, "n_head must be at least 1, not 0"),
    ("n_embd", 0, "n_embd must be at least 1, not 0"),
    ("n_hidden", 0, "n_hidden must be at least 1, not 0"),
    ("dropout", 1.0, "dropout must be below 1.0, not 1.0"),
    ("dropout", -0.1, "dropout must be at least 0.0, not -0.1"),
    ("dropout", math.nan, "dropout must be "),
    ("position", "none of these", "position must be one of learned, sinusoidal, rotary, none"),
    ("network", "rnn", "network must be one of bigram, mlp, gpt"),
    ("attention", "flash", "attention must be one of auto, written_out, fused"),
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
def signals_as_they_were():
    """train.main() catches Ctrl-C and SIGTERM from then on."""
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in names}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def tiny_run(*changes):
    """A train.Run with the settings of TINY and `changes`, at its first step."""
    import train

    config, _ = train.parse_command_line([*TINY, *changes])
    return train.Run(config, None, torch.device("cpu"))


def log_rows(folder):
    """The rows of a run's log.csv, as dicts of strings."""
    with open(Path(folder) / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def stop_at(monkeypatch, step, number=signal.SIGINT):
    """Send this process a signal while it draws the batch of that step."""
    import train

    draw = train.training_windows

    def draw_and_signal(run):
        if run.progress.step == step:
            os.kill(os.getpid(), number)
        return draw(run)

    monkeypatch.setattr(train, "training_windows", draw_and_signal)


def small_network(seed=0, scale=4.0, **changes):
    """A network of random weights, large enough that every part of it shows in the logits."""
    from ancestors import build
    from model import NetworkConfig

    torch.manual_seed(seed)
    shape = {"vocab_size": 11, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 12}
    network = build(NetworkConfig(**{**shape, **changes})).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(scale).add_(torch.randn_like(parameter) * 0.1)
    return network


def random_ids(network, rows=3, length=16, seed=1):
    """Token ids that fit a network's vocabulary: (rows, length)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(network.config.vocab_size, (rows, length), generator=generator)
