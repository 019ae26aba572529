"""Measure the table of docs/settings.md: train the plain recipe with each of its changes.

    python tools/settings_table.py    an hour and a half on two cores; Ctrl-C and the same goes on

The changes are those in the first column. The two columns with losses are made again; the remarks
are yours: read them afterwards, and see whether they still follow from the figures.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the project's modules

from quill.log import read_log
from study.compare import SEEDS, train_all, verdict, with_error

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
RECIPE = "config/shakespeare_plain.py"
FOLDER = Path("out/settings")
ROW = re.compile(r"(?m)^\| (none|`--.*?`) \| .*? \| .*? \| (.*) \|$")  # a change, ..., a remark


def main():
    page = PAGE.read_text(encoding="utf-8")
    changes = [change.strip("`") for change, _ in ROW.findall(page)]
    variants = {change: [RECIPE, *change.removeprefix("none").split()] for change in changes}
    train_all(FOLDER, variants, SEEDS)

    def losses(change):
        logs = [read_log(FOLDER / change / f"seed{seed}") for seed in range(1, SEEDS + 1)]
        return [min(log["val_loss"]) for log in logs]

    def measured(row):
        change, remark = row[1].strip("`"), row[2]
        differences = [a - b for a, b in zip(losses(change), losses("none"), strict=True)]
        shown = "0" if change == "none" else with_error(differences, "+")
        print(f"{change}: {shown} {verdict(differences)}")
        return f"| {row[1]} | {with_error(losses(change), '')} | {shown} | {remark} |"

    PAGE.write_text(ROW.sub(measured, page), encoding="utf-8")


if __name__ == "__main__":
    main()
