"""Make one HTML file of a page in docs/, to print, to mail, and to show with a projector.

    python tools/handout.py    makes docs/lecture.html, docs/sheet.html and docs/sheet_key.html

The formulas become MathML and the pictures are inside, so a browser is all that a file needs.
"""

import base64
import mimetypes
import re
from pathlib import Path

from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from mdit_py_plugins.anchors import anchors_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from notebook import COMMENT, FORMULA

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = ("lecture", "sheet", "sheet_key")

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body { max-width: 44em; margin: 2em auto; padding: 0 1em; font: 17px/1.55 Georgia, serif }
h1, h2, h3, nav, button, th { font-family: system-ui, sans-serif; scroll-margin: 0.5em }
h2 { margin-top: 2em; border-bottom: 1px solid #ccc }
code { font: 0.88em/1.4 ui-monospace, Consolas, "DejaVu Sans Mono", monospace }
code, pre { background: #f3f4f6; overflow-x: auto }
pre, details { padding: 0.5em 1em; border-left: 3px solid #ccc }
table { border-collapse: collapse; font-size: 0.92em; margin: 0.8em 0 }
th, td { border: 1px solid #bbb; padding: 0.3em 0.6em; text-align: left }
img { max-width: 100%; display: block; margin: 1em auto }
.slides { max-width: 48em; font-size: 24px }
@media screen {
  section { overflow-x: auto; overflow-wrap: break-word }
  .slides section:not(:has(:target)), .slides nav { display: none }
}
@media print {
  body { font-size: 10.5pt; line-height: 1.4; max-width: none; margin: 0; padding: 0 }
  nav, button, details:not([open]) { display: none }
  a { color: inherit; text-decoration: none }
  h1, h2, h3 { margin: 1em 0 0.5em; break-after: avoid }
  img, tr, math { break-inside: avoid; max-height: 10cm }
  pre { white-space: pre-wrap; orphans: 4; widows: 4 }
  hr { break-after: page; border: 0; margin: 0 }
}
</style>
<button id="slides">One heading per screen (← →)</button>
<button onclick="document.querySelectorAll('details').forEach((one) => one.open = true)">
Open all answers</button>
{body}
<script>
const sections = [...document.querySelectorAll("section")];
const show = (i) => { location.hash = sections.at(i % sections.length).firstElementChild.id; };
document.getElementById("slides").onclick = () => {
  const current = sections.findIndex((section) => section.getBoundingClientRect().bottom > 100);
  if (document.body.classList.toggle("slides")) show(current);
};
addEventListener("keydown", (event) => {
  const by = { ArrowRight: 1, PageDown: 1, ArrowLeft: -1, PageUp: -1 }[event.key];
  const current = sections.findIndex((section) => section.querySelector(":target"));
  if (by && document.body.classList.contains("slides")) show(current + by);
});
</script>
"""


def mathml(formula, options):
    """A formula in TeX as MathML, with a space after "ln" and the like."""
    found = convert(formula.strip(), display="block" if options["display_mode"] else "inline")
    return re.sub("<mi>[a-z]{2,}</mi>", r'\g<0><mspace width="0.17em" />', found)


def with_data(image):
    """The start of an <img> tag, with the picture's bytes in place of its path."""
    data = base64.b64encode((DOCS / image[1]).read_bytes()).decode()
    return f'<img src="data:{mimetypes.guess_type(image[1])[0]};base64,{data}"'


def make(text):
    """The HTML file of a page of Markdown in docs/, as text."""
    markdown = MarkdownIt("commonmark").enable("table").use(anchors_plugin, max_level=3)
    markdown.use(dollarmath_plugin, renderer=mathml)
    body = markdown.render(FORMULA.sub(r"\1$$\n\2\1$$", COMMENT.sub("", text)))
    body = re.sub(r'<img src="([^":]+)"', with_data, body)
    chapters = re.findall(r'<h2 id="(.*?)">(.*?)</h2>', body)
    _, *sections = re.split(r"(?=<h[123] )", body)
    links = (f'<a href="#{name}">{chapter}</a><br>' for name, chapter in chapters)
    sections[0] += f"<nav>{''.join(links)}</nav>"
    body = "\n".join(f"<section>\n{section}\n</section>" for section in sections)
    title = re.search("<h1.*?>(.*)</h1>", body)[1]
    return TEMPLATE.replace("{title}", title).replace("{body}", body)


def main():
    for name in PAGES:
        page = make((DOCS / f"{name}.md").read_text(encoding="utf-8"))
        (DOCS / f"{name}.html").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
