"""Get a text, from files, a pipe or addresses, and read its characters."""

import codecs
import io
import os
import re
import sys
from pathlib import Path

from quill.terminal import UserError

PIECE = 1 << 20  # characters at a time, so that a large text needs little memory


def download(url):
    """The bytes at a URL. Up to three tries, with growing pauses."""
    where = without_password(url)
    try:
        import requests  # here, because nothing else needs it
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        retry = Retry(total=2, backoff_factor=1, status_forcelist=[429, 500, 502, 503, 504])
        with requests.Session() as session:
            session.mount("http://", HTTPAdapter(max_retries=retry))
            session.mount("https://", HTTPAdapter(max_retries=retry))
            response = session.get(url, timeout=30)  # seconds, between two packets
            response.raise_for_status()
    except (ImportError, OSError, ValueError) as error:  # requests' own errors are OSErrors
        raise UserError(f"cannot download {where}: {without_password(str(error))}") from error
    if "html" in response.headers.get("Content-Type", ""):  # a login page, say
        advice = "if it is a text all the same, save it, and give the name of the file"
        raise UserError(f"cannot download {where}: it is a web page, not a text; {advice}")
    return response.content


def without_password(url):
    """A URL without the user's name and password."""
    return re.sub("(?<=://)[^/?#]*@", "", url)


def get_text(source):
    """Return the bytes of a text, and its name: a URL, or a file's name without its folders."""
    if source == "-":
        return sys.stdin.buffer.read(), "a pipe"
    if "://" in source:
        if not source.lower().startswith(("http://", "https://")):
            advice = "give an http or https address, or the name of a file"
            raise UserError(f"cannot read {without_password(source)}: {advice}")
        return download(source), without_password(source)
    path = Path(source)
    try:
        name = os.fsencode(path.name).decode("utf-8", "backslashreplace")  # any name is stored
        return path.expanduser().read_bytes(), name
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no such home folder
        has_texts = path.is_dir() and any(path.glob("*.txt"))
        hint = f" (its files: {path / '*.txt'})" if has_texts else ""
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {source or repr(source)}: {reason}{hint}") from error


def join(parts):
    """The bytes of several texts as one. Each begins on a line of its own, unless the one before it
    was cut inside a character."""
    whole = b""
    for part in parts:
        part = part.removeprefix(codecs.BOM_UTF8)
        cut = codecs.getincrementaldecoder("utf-8")("ignore")
        cut.decode(whole[-4:])
        if whole and not whole.endswith((b"\n", b"\r")) and not cut.getstate()[0]:
            whole += b"\n"
        whole = whole + part if whole else part
    return whole


def open_text(content):
    """A reader of the characters of a text in UTF-8. All newlines become \\n."""
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")


def read_pieces(content, name):
    """Yield the text, some characters at a time. UserError if it is not UTF-8."""
    reader = open_text(content)
    try:
        while piece := reader.read(PIECE):
            yield piece
    except UnicodeDecodeError as error:
        advice = "convert it in an editor, or with iconv -f cp1252 -t utf-8"
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            advice = "it looks like UTF-16, as PowerShell's > writes it: iconv -f utf-16 -t utf-8"
        elif min(content) < 9:  # control characters that no text has
            advice = "it looks like an archive, a picture or a word processor's file: save its text"
        where = f"bad byte at offset {bad_byte(content):,} ({error.reason})"
        raise UserError(f"{name} is not UTF-8 text: {where}; {advice}") from error


def read_text(source):
    """The characters of one text, without a byte-order mark."""
    content, name = get_text(source)
    return "".join(read_pieces(join([content]), name))


def bad_byte(content):
    """The offset of the first byte that is not UTF-8: the reader's error only has it in a piece."""
    try:
        return len(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        return error.start
