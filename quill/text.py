"""Get a text, from a file, a pipe or an address."""

import os
import re
import sys
from pathlib import Path

from quill.terminal import UserError


def download(url):
    """The bytes at a URL."""
    where = without_password(url)
    try:
        import requests  # here, because nothing else needs it

        response = requests.get(url, timeout=30)  # seconds, between two packets
        response.raise_for_status()
    except (ImportError, OSError, ValueError) as error:  # requests' own errors are OSErrors
        reason = str(error).replace(url, where)
        raise UserError(f"cannot download {where}: {reason}") from error
    if "html" in response.headers.get("Content-Type", ""):  # a login page, say
        advice = "if it is a text all the same, save it, and give the name of the file"
        raise UserError(f"cannot download {where}: it is a web page, not a text; {advice}")
    return response.content


def without_password(url):
    """A URL without the user's name and password."""
    return re.sub("(?<=://)[^/?#]*@", "", url)


def get_bytes(source):
    """Return the bytes of a text, and its name: a URL, or a file's name without its folders."""
    if source == "-":
        return sys.stdin.buffer.read(), "a pipe"
    if "://" in source:
        return download(source), without_password(source)
    path = Path(os.path.expanduser(source))
    try:
        content = path.read_bytes()
    except OSError as error:
        hint = f" (its files: {path / '*.txt'})" if path.is_dir() else ""
        raise UserError(f"cannot read {source!r}: {error.strerror}{hint}") from error
    return content, path.name.encode("utf-8", "backslashreplace").decode()  # any name is stored


def read_text(source):
    """Return the characters of a text in UTF-8, and its name as in get_bytes(). A byte-order mark
    is left out, and all newlines become \\n."""
    content, name = get_bytes(source)
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        advice = "convert it in an editor, or with iconv -f cp1252 -t utf-8"
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            advice = "it looks like UTF-16, as PowerShell's > writes it: iconv -f utf-16 -t utf-8"
        elif min(content) < 9:  # control characters that no text has
            advice = "it looks like an archive, a picture or a word processor's file: save its text"
        where = f"bad byte at offset {error.start:,} ({error.reason})"
        raise UserError(f"{name} is not UTF-8 text: {where}; {advice}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n"), name
