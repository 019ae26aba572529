"""python -m page: see page.py."""

import quill  # noqa: F401, I001 (before torch, which may not be installed)
from page.page import main
from quill.terminal import run_main

if __name__ == "__main__":
    run_main(main)
