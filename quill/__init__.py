"""What the programs rely on: one module per concern. None of them imports a program.

The programs import it before anything else, for the sake of the settings below.
"""

import gc
import os
import sys

# PyTorch's threads wait for each other by spinning: 300,000 rounds, unless GOMP_SPINCOUNT says
# otherwise when torch is imported. Beside a busy program they spin while the thread that they wait
# for cannot run. docs/speed.md has the times of a step with other numbers of rounds.
if "OMP_WAIT_POLICY" not in os.environ:  # GOMP_SPINCOUNT would overrule the user's policy
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# Importing torch makes 180,000 objects, and nearly all of them stay. By default Python searches
# them for garbage 400 times, which takes 0.1 of 0.9 seconds. Training makes few such objects.
gc.set_threshold(100_000)


def quiet_hook(kind, error, trace, usual=sys.excepthook):
    """Report an error as usual, but not Ctrl-C in the seconds in which a program imports torch."""
    if kind is not KeyboardInterrupt:
        usual(kind, error, trace)


sys.excepthook = quiet_hook
