"""What the programs rely on: one module per concern. None of them imports a program.

The programs import it before anything else, for the sake of the settings below.
"""

import gc
import os
import sys

# PyTorch's threads wait for each other by spinning, 300,000 rounds by default (GNU OpenMP reads the
# variable when torch is imported). Beside a busy program they spin while the thread that they wait
# for cannot run. On 2 cores, a step of 4 layers, 128 wide, takes 15 ms alone and 110 ms beside one
# busy program; with 10,000 rounds 16 and 68 ms; with 2,000 rounds 22 and 36 ms.
if "OMP_WAIT_POLICY" not in os.environ:  # which would otherwise be overruled
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# Importing torch makes 180,000 objects, and nearly all of them stay. By default Python searches them
# for garbage 400 times, which takes 0.1 of 0.9 seconds.
gc.set_threshold(100_000)


def quiet_hook(kind, error, trace, usual=sys.excepthook):
    """Report an error as usual, but not Ctrl-C in the seconds in which a program imports torch."""
    if kind is not KeyboardInterrupt:
        usual(kind, error, trace)


sys.excepthook = quiet_hook
