"""python -m page: see page.py."""

from quill import require_packages

require_packages()

from page.page import main
from quill.terminal import run_main

if __name__ == "__main__":
    run_main(main)
