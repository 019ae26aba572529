"""Studies: checks before a run, baselines and examples, and plots of what a run has learned.

    python -m study                                     lists them
    python -m study dry_run config/shakespeare_cpu.py   what will this run cost?
    python -m study attention --help                    the options of one study
"""

import quill  # noqa: F401 (before torch, which reads what it sets)
from quill.hardware import errors_explained
from quill.processes import WORLD
from quill.terminal import UsageError, did_you_mean, run_main
from study import checks, counting, example, plots

STUDIES = [checks.dry_run, checks.overfit_batch, checks.find_lr, counting.ngrams, example.example]
STUDIES += [plots.attention, plots.embeddings, plots.temperature, plots.runs]


def main(arguments):
    studies = {study.__name__: study for study in STUDIES}
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m study NAME [...], or python -m study NAME --help; NAME is one of\n")
        for name, study in studies.items():
            print(f"    {name:<14} {study.__doc__}")
        return
    name, *rest = arguments
    if name not in studies:
        hint = did_you_mean(name, studies)
        raise UsageError(f"unknown study {name!r}{hint}; python -m study lists them all")
    if WORLD > 1:
        raise UsageError("a study is for one process: leave torchrun out")
    with errors_explained():
        studies[name](rest)


if __name__ == "__main__":
    run_main(main)
