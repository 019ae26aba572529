"""Compile page/kernels.wat, and put the result into page/kernels.js.

python tools/kernels.py
"""

import base64
import re
import textwrap
from pathlib import Path

from wasmtime import wat2wasm

PAGE = Path(__file__).resolve().parent.parent / "page"
COMPILED = re.compile(r"(?<=const COMPILED = `).*?(?=`;)", re.DOTALL)


def compiled(text):
    """A WebAssembly text as bytes, in base64, in lines."""
    return "\n".join(textwrap.wrap(base64.b64encode(wat2wasm(text)).decode(), 100))


if __name__ == "__main__":
    program = (PAGE / "kernels.js").read_text(encoding="utf-8")
    text = compiled((PAGE / "kernels.wat").read_text(encoding="utf-8"))
    (PAGE / "kernels.js").write_text(COMPILED.sub(text, program), encoding="utf-8")
