"""The short form of faults.py: a few of each of its faults."""

import subprocess
import sys

import pytest
from conftest import ROOT

FEW = ["--kills=1", "--fills=1", "--flips=10", "--every=50", "--altered=30", "--outputs=1"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits")
def test_no_run_is_lost_and_no_damage_passes():
    program = [sys.executable, "-W", "ignore", ROOT / "tests" / "faults.py", *FEW]
    ended = subprocess.run(program, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
