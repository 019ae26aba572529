"""Compile page/kernels.wat to page/kernels.wasm, which the page's file contains.

python tools/kernels.py
"""

from pathlib import Path

from wasmtime import wat2wasm

PAGE = Path(__file__).resolve().parent.parent / "page"


def compiled():
    """kernels.wat as bytes for a browser."""
    return bytes(wat2wasm((PAGE / "kernels.wat").read_text(encoding="utf-8")))


if __name__ == "__main__":
    (PAGE / "kernels.wasm").write_bytes(compiled())
