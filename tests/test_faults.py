"""The short form of faults.py: a few kills and flips, each file, a disk that refuses to write."""

import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits")
def test_no_run_is_lost_and_no_damage_passes():
    ended = subprocess.run(
        [sys.executable, ROOT / "tests" / "faults.py", "--kills=2", "--fills=1", "--flips=20"],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
