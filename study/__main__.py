"""Studies: checks before a run, small experiments, and plots of what a network has learned.

    python -m study                                     lists them
    python -m study dry_run config/shakespeare_cpu.py   what will this run cost?
    python -m study attention --help                    the options of one of them

None of them changes a run.
"""

import quill  # noqa: F401 (before torch, which reads what it sets)
from quill.hardware import errors_explained
from quill.processes import WORLD
from quill.terminal import UsageError, UserError, did_you_mean, run_main
from study import checks, counting, example, plots

STUDIES = {
    "dry_run": (checks.dry_run, "what a run costs: parameters, operations, time"),
    "overfit_batch": (checks.overfit_batch, "whether the network can memorize a single batch"),
    "find_lr": (checks.find_lr, "the loss while the learning rate rises, and a proposal"),
    "ngrams": (counting.ngrams, "how far does counting get you?"),
    "example": (example.example, "a tiny network, with every number in it"),
    "attention": (plots.attention, "plot where two heads look, or all of them"),
    "embeddings": (plots.embeddings, "plot the characters, similar ones near each other"),
    "temperature": (plots.temperature, "plot what the next character is drawn from"),
    "runs": (plots.runs, "plot the losses of several runs, to compare them"),
}


def main(arguments):
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m study NAME [...]; python -m study NAME --help lists its options\n")
        for name, (_, meaning) in STUDIES.items():
            print(f"    {name:<14} {meaning}")
        return
    name, *rest = arguments
    if name not in STUDIES:
        hint = did_you_mean(name, STUDIES)
        raise UsageError(f"unknown study {name!r}{hint}; python -m study lists them all")
    if WORLD > 1:
        raise UsageError("a study is for one process: leave torchrun out")
    study, _ = STUDIES[name]
    try:
        with errors_explained():
            study(rest)
    except ModuleNotFoundError as error:  # matplotlib, the only one that is optional
        raise UserError(f"{error.name} is missing: pip install {error.name}") from error


if __name__ == "__main__":
    run_main(main)
