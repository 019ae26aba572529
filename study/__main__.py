"""Studies: checks before a run, small experiments, and plots of what a network has learned.

    python -m study                                     lists them
    python -m study dry_run config/shakespeare_cpu.py   what will this run cost?
    python -m study attention --help                    the options of one of them

None of them changes a run.
"""

from quill import require_packages

require_packages()

from quill.terminal import UsageError, did_you_mean, run_main
from study import checks, counting, example, plots
from study.compare import compare
from study.context import context
from study.results import results
from study.task import task
from study.without import without

CHECKS = [checks.dry_run, checks.overfit_batch, checks.find_lr, counting.ngrams, example.example]
PLOTS = [plots.attention, plots.embeddings, plots.temperature, plots.runs]
RUNS = [compare, results, context, without, task]
STUDIES = {study.__name__: study for study in CHECKS + PLOTS + RUNS}  # the docstrings are the help


def main(arguments):
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m study NAME [...]; python -m study NAME --help lists its options\n")
        for name, study in STUDIES.items():
            summary = (study.__doc__ or "").split("\n")[0]  # python -OO leaves docstrings out
            print(f"    {name:<14} {summary}")
        return
    name, *rest = arguments
    if name not in STUDIES:
        hint = did_you_mean(name, STUDIES)
        raise UsageError(f"unknown study {name!r}{hint}; python -m study lists them all")
    STUDIES[name](rest)


if __name__ == "__main__":
    run_main(main)
