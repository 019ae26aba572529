"""What the programs rely on, a module per concern. None of them imports a program."""

import os
import sys
from importlib.util import find_spec

if not find_spec("numpy") or not find_spec("torch"):
    advice = "activate the environment (. .venv/bin/activate), or pip install -r requirements.txt"
    sys.exit(f"error: numpy or torch is not installed for {sys.executable}: {advice}")

# PyTorch's threads wait for each other by spinning: 300,000 rounds, unless GOMP_SPINCOUNT says
# otherwise when torch is imported. On a busy machine, a thread that spins keeps the thread that it
# waits for from running. docs/speed.md has the times of a step with other numbers of rounds.
if "OMP_WAIT_POLICY" not in os.environ:  # GOMP_SPINCOUNT would overrule the user's policy
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
