"""docs/lecture.html and the sheet are what their tool makes: one file, with everything inside."""

import re

import handout as tool

from study.example import example

TEXTS = {name: (tool.DOCS / f"{name}.md").read_text(encoding="utf-8") for name in tool.PAGES}


def test_committed_files_are_what_the_tool_makes():
    for name, text in TEXTS.items():
        assert tool.make(text) == (tool.DOCS / f"{name}.html").read_text(encoding="utf-8"), name


def test_file_has_everything_inside_and_loses_nothing():
    text, page = TEXTS["lecture"], tool.make(TEXTS["lecture"])
    assert set(re.findall(r'src="(.{11})', page)) == {"data:image/"} and "<link" not in page
    assert page.count("<img") == text.count("![") and page.count("</details>") > 10
    assert page.count('display="block"') == text.count("```math") > 5
    assert "$" not in re.sub("<code.*?</code>|<script.*?</script>", "", page, flags=re.DOTALL)
    names = re.findall(r'id="(.*?)"', page)
    assert len(names) == len(set(names)) and set(re.findall('href="#(.*?)"', page)) <= set(names)


def test_slides_show_one_heading_at_a_time(chromium, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(tool.make("# A\n\none\n\n## B\n\ntwo\n\n## C\n\nthree\n"), encoding="utf-8")
    chromium.get(path.as_uri())
    chromium.find_element("id", "slides").click()
    right, left = "\ue014", "\ue012"  # the keys
    for word, key in (("one", right), ("two", right), ("three", left), ("two", left)):
        shown = [part.text for part in chromium.find_elements("tag name", "section") if part.text]
        assert len(shown) == 1 and word in shown[0]
        chromium.switch_to.active_element.send_keys(key)


def test_numbers_of_the_sheet_are_those_of_the_example(capsys):
    example([])
    printed = {f"{float(x):.2f}" for x in re.findall(r"-?\d\.\d+", capsys.readouterr().out)}
    found = re.findall(r"-?\d\.\d\d", TEXTS["sheet"].split("## 5")[1])
    assert len(found) > 15 and set(found) <= printed
