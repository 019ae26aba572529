"""Write a function yourself, and see whether it is right, or what is wrong with it."""

import ast
import contextlib
import copy
import csv
import inspect
import json
import multiprocessing
import os
import re
import runpy
import sys
import traceback
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F

from quill.settings import read_options
from quill.terminal import UsageError, UserError, did_you_mean
from study import solutions
from study.folders import split_arguments
from study.mistakes import MISTAKES

FOLDER = Path("tasks")  # of the learner; git ignores it
SECONDS = 10  # for one file; a right one takes a fraction of a second
HEAD = "import math\n\nimport torch\nimport torch.nn.functional as F\n\n\n"
HINT = re.compile(r"\n\n    Hint: (.*?)(?=\n    \"\"\")", re.DOTALL)  # ends a docstring
SOURCES = {name: inspect.getsource(f) for name, f in vars(solutions).items() if callable(f)}
RESULTS = {"batch_at": "xy", "adamw_step": "wms"}  # the names of several results


@dataclass(frozen=True)
class TaskOptions:
    check: bool = False  # test what is there, with status 0 only if all of it is right
    json: bool = False  # the same, printed as JSON
    hint: bool = False  # print a hint
    solution: bool = False  # print the solution
    grade: str = ""  # a folder with a folder for each student: test them all, and print a CSV


def task(arguments):
    """Write a function yourself, and see whether it is right, or what is wrong with it.

    python -m study task                      lists the tasks
    python -m study task attention            begins one
    python -m study task attention --check    tests what you wrote
    python -m study task --grade FOLDER       tests what a class wrote
    """
    names, rest = split_arguments(arguments)
    options = read_options(rest, TaskOptions, "-m study task [NAME]")
    for name in names:
        if name not in SOURCES:
            hint = did_you_mean(name, SOURCES)
            raise UsageError(f"unknown task {name!r}{hint}; python -m study task lists them")
    if options.grade:
        grade(Path(options.grade))
    elif options.hint:
        for name in names or SOURCES:
            print(" ".join(HINT.search(SOURCES[name])[1].split()))
    elif options.solution:
        for name in names or SOURCES:
            print(SOURCES[name])
    elif names and not (options.check or options.json):
        for name in names:
            begin(name)
    else:
        results = {name: examine(name, FOLDER) for name in names or SOURCES}
        done = list(results.values()).count("done")
        if options.json:
            print(json.dumps(results, indent=4))
        else:
            for name, result in results.items():
                print(f"{name:<18} {result}")
            print(f"{done} of {len(results)} done; python -m study task NAME begins one")
        if done < len(results) and (options.check or options.json):
            sys.exit(1)


def begin(name):
    """Write the file of a task, unless it is there: a signature, a docstring, and no body."""
    path = FOLDER / f"{name}.py"
    if path.exists():
        raise UserError(f"{path} is there already: edit it, or delete it to begin again")
    start, quotes, _ = HINT.sub("", SOURCES[name]).rpartition('"""')
    FOLDER.mkdir(exist_ok=True)
    path.write_text(f"{HEAD}{start}{quotes}\n    raise NotImplementedError\n", encoding="utf-8")
    print(f"{path}: replace its last line, then: python -m study task {name} --check")


def grade(folder):
    """Print a CSV with a row for each student's folder in it: its files, or its FOLDER's."""
    students = [path for path in sorted(folder.glob("[!._]*")) if path.is_dir()]
    if not students:
        raise UserError(f"no folders in {folder}: each student should have one there")
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["student", "done", *SOURCES])
    for student in students:
        place = student / FOLDER if (student / FOLDER).is_dir() else student
        results = [examine(name, place) for name in SOURCES]
        table.writerow([student.name, results.count("done"), *results])
        sys.stdout.flush()


def examine(name, folder):
    """What a learner's file is: "done", "open", or "wrong: " and what is wrong with it."""
    path = folder / f"{name}.py"
    if not path.exists():
        return "open"
    # A fork has torch already, a new Python imports it in seconds; only Linux forks safely.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with context.Pool(1, torch.set_num_threads, [1]) as pool:  # a fork has no other threads
        pool.apply(os.dup2, [2, 1])  # standard output is for the results; now it has started
        try:
            return pool.apply_async(state_of, [name, path]).get(SECONDS)
        except multiprocessing.TimeoutError:
            return f"wrong: no result in {SECONDS} seconds: an endless loop, or an end of Python?"


def state_of(name, path):
    """The same, in the process that runs the file."""
    inputs, found, where = cases(name), [], ""
    try:
        if problem := forbidden_call(name, ast.parse(path.read_bytes())):
            return f"wrong: {problem}"
        function = runpy.run_path(str(path)).get(name)
        if not callable(function):
            return f"wrong: there is no function {name} in {path}"
        for description, arguments in inputs.items():
            where = f"for {description}, "
            found.append(function(*copy.deepcopy(arguments)))
        for (description, arguments), one in zip(inputs.items(), found, strict=True):
            expected = getattr(solutions, name)(*arguments)
            if problem := difference(one, expected, RESULTS.get(name, "")):
                known = known_mistake(name, inputs, found)
                said = f"this is what comes out {known}. For " if known else "for "
                return f"wrong: {said}{description}, {problem}"
        return "done"
    except NotImplementedError:
        return "open"
    except SystemExit:
        return f"wrong: {where}it ends the program: a function should return its result"
    except Exception as error:  # of what the learner wrote, or of an odd tensor that it returned
        return f"wrong: {where}{in_a_sentence(error, path)}"


def forbidden_call(name, tree):
    """A sentence, if the code uses what the docstring forbids."""
    word = re.search(r"Do not call torch's (\w+)", SOURCES[name])
    for node in ast.walk(tree) if word else []:
        used = node.name if isinstance(node, ast.alias) else getattr(node, "attr", "")
        if word[1].replace("_", "") in used.lower().replace("_", ""):
            return f"line {node.lineno}: {used} is what you should write yourself"


def in_a_sentence(error, path):
    """An exception in words, with the line of the learner's file."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    line = lines[-1] if lines else getattr(error, "lineno", None)  # a SyntaxError has its own
    text = f"{type(error).__name__}: {getattr(error, 'msg', error)}".splitlines()[0]
    for needed in HEAD.splitlines():
        if isinstance(error, NameError) and needed.endswith(f" {error.name}"):
            text += f"; write at the top of the file: {needed}"
    return f"line {line}: {text}" if line else text


def known_mistake(name, inputs, found):
    """In words, the mistake, or the two, that make the solution return what was found; or None."""
    mistakes = [mistake for task, *mistake in MISTAKES if task == name]
    for some in [*combinations(mistakes, 1), *combinations(mistakes, 2)]:
        start, quotes, body = SOURCES[name].rpartition('"""')
        for right, wrong, _ in some:
            body = body.replace(right, wrong)
        names = dict(vars(solutions))
        exec(start + quotes + body, names)
        with contextlib.suppress(Exception):  # not every two fit together
            results = [names[name](*copy.deepcopy(arguments)) for arguments in inputs.values()]
            if not any(map(difference, found, results)):
                return ", and ".join(phrase for _, _, phrase in some)


def difference(found, expected, names="123"):
    """In words, the first thing in which a result is not the expected one; or None."""
    if found is None:
        return "it returns None: is a return missing?"
    if isinstance(expected, tuple):
        if not isinstance(found, tuple | list) or len(found) != len(expected):
            return f"it should return {len(expected)} results: {', '.join(names)}"
        problems = map(difference, found, expected)
        return next((f"{names[i]}: {what}" for i, what in enumerate(problems) if what), None)
    try:
        found, expected = torch.as_tensor(found).double(), torch.as_tensor(expected).double()
    except (TypeError, ValueError, RuntimeError):
        return f"a {type(found).__name__} is returned where a tensor should be"
    if found.shape != expected.shape:
        return f"the shape is {tuple(found.shape)} and should be {tuple(expected.shape)}"
    # NaN equals NaN: some mistakes are known by it.
    wrong = ~torch.isclose(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    if not wrong.any():
        return None
    place = tuple(wrong.nonzero()[0].tolist())
    where = f"entry {place}" if place else "the result"
    value = f"{found[place]:.4g}".replace("nan", "nan (from 0 / 0, inf - inf or log(-1))")
    return f"{where} is {value} and should be {expected[place] + 0:.4g}"


def cases(name):
    """Return {description of an input: arguments} for a task."""
    torch.manual_seed(0)
    normal, ids = torch.randn, torch.randint(7, (50,))
    w, g, m, s, zeros = *normal(4, 3, 4), torch.zeros(3, 4)
    equal_and_tiny = torch.cat([torch.full((1, 1, 4), 5.0), normal(1, 2, 4) * 0.001], dim=1)
    return {
        "softmax": {"5 scores": [normal(5)], "4 scores with 1000 added": [normal(4) + 1000]},
        "cross_entropy": {f"{n} answers": [normal(n, 5) * 3, ids[:n] % 5] for n in (6, 1)},
        "bigram_counts": {f"{n} ids": [ids[:n].tolist(), 7] for n in (50, 5)},
        "embed": {f"ids ({n}, 5)": [ids[: n * 5].view(n, 5), normal(7, 3)] for n in (9, 1)},
        "layer_norm": {
            "x (2, 3, 8)": [normal(2, 3, 8) * 5 + 1, normal(8)],
            "a vector of equal entries and two of tiny ones": [equal_and_tiny, normal(4)],
        },
        "rotate": {f"x {shape}": [normal(shape)] for shape in ((5, 8), (30, 2))},
        "attention": {f"q, k, v {shape}": [*normal(3, *shape)] for shape in ((5, 8), (30, 2))},
        "split_into_heads": {f"{n} heads": [normal(2, 5, 24), n] for n in (3, 8)},
        "feed_forward": {"x (5, 3)": [normal(5, 3), normal(12, 3), normal(3, 12)]},
        "batch_at": {f"starts {starts}": [ids, starts, 4] for starts in ([0, 7, 3], [45])},
        "learning_rate": {f"step {i} of 110": [i, 0.3, 10, 110] for i in (0, 5, 9, 10, 60, 109)},
        "adamw_step": {
            "step 1": [w, g, zeros, zeros, 1, 0.01, 0.9, 0.95, 0.1],
            "step 7": [w, g, m, s**2, 7, 0.1, 0.8, 0.99, 0.5],
            "gradients of 1e-8": [w, zeros + 1e-8, zeros, zeros, 1, 0.01, 0.9, 0.95, 0.1],
        },
        "top_k_top_p": {
            f"{n} probabilities, k = {k}, p = {p}": [normal(n).mul(2).softmax(dim=0), k, p]
            for n, k, p in ((5, 3, 0.9), (30, 3, 0.9), (9, 4, 0.6), (30, 9, 0.01))
        },
        "newton_schulz": {f"x {n}": [F.normalize(normal(n), dim=(0, 1))] for n in ((3, 5), (4, 4))},
    }[name]
