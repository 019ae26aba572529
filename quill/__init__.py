"""What the programs rely on, a module per concern. None of them imports a program."""

import sys
from importlib.util import find_spec


def require_packages():
    """Each program calls this before it imports what may be missing. It ends the program with one
    line if Python is too old, or if numpy or PyTorch is not installed."""
    if sys.version_info < (3, 10):
        version = "%d.%d" % sys.version_info[:2]
        sys.exit("error: Python 3.10 or newer is needed, and this is Python " + version)
    if not find_spec("numpy") or not find_spec("torch"):
        sys.exit(
            "error: numpy or torch is not installed for %s: activate the environment "
            "(. .venv/bin/activate), or pip install -r requirements.txt" % sys.executable
        )
