"""A few of each of the faults of tools/faults.py."""

import subprocess
import sys

import pytest
from conftest import ROOT

FEW = ["--kills=1", "--fills=1", "--flips=10", "--every=120"]


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and sets limits, as on Linux")
def test_no_run_is_lost_and_no_damage_is_accepted():
    program = [sys.executable, ROOT / "tools" / "faults.py", *FEW]
    ended = subprocess.run(program, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("| 0 | 0 |") == 11
