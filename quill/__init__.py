"""What the programs rely on, a module per concern. None of them imports a program."""

import os
import sys
from importlib.util import find_spec

if not find_spec("numpy") or not find_spec("torch"):
    advice = "activate the environment (. .venv/bin/activate), or pip install -r requirements.txt"
    sys.exit(f"error: numpy or torch is not installed for {sys.executable}: {advice}")
