"""What the programs rely on: one module per concern. None of them imports a program.

The programs import it before anything else, for the sake of one line below.
"""

import sys


def quiet_hook(kind, error, trace, usual=sys.excepthook):
    """Report an error as usual, but not Ctrl-C in the seconds in which a program imports torch."""
    if kind is not KeyboardInterrupt:
        usual(kind, error, trace)


sys.excepthook = quiet_hook
