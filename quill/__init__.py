"""What the programs rely on, a module per concern. None of them imports a program."""

import importlib.util
import os
import sys

for name in ("numpy", "torch"):
    if importlib.util.find_spec(name) is None:
        sys.exit(
            f"error: {name} is not installed for {sys.executable}: activate the environment "
            "(. .venv/bin/activate), or pip install -r requirements.txt"
        )

# PyTorch's threads wait for each other by spinning: 300,000 rounds, unless GOMP_SPINCOUNT says
# otherwise when torch is imported. On a busy machine, a thread that spins keeps the thread that it
# waits for from running. docs/speed.md has the times of a step with other numbers of rounds.
if "OMP_WAIT_POLICY" not in os.environ:  # GOMP_SPINCOUNT would overrule the user's policy
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
