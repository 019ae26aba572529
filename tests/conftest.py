"""What the tests share: the repository on the path, and a small dataset in an empty folder."""

import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# The networks here are so small that sharing a product between threads costs more than it gains.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the programs that the tests start


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty working folder with data/small: 12,000 characters of the bundled text."""
    import prepare_shakespeare

    monkeypatch.chdir(tmp_path)
    text = prepare_shakespeare.BUNDLED.read_text()[:12000]
    (tmp_path / "small.txt").write_text(text)
    prepare_shakespeare.main(["--source", "small.txt", "--dataset", "small"])
    return tmp_path
