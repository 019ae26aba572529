"""Write a function yourself, and see whether it is right."""

import ast
import inspect
import re
import runpy
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F

import model
import train
from quill import hardware, muon
from quill.settings import read_settings
from quill.terminal import UsageError, UserError, did_you_mean
from study import solutions

FOLDER = Path("exercises")  # of the learner; git ignores it
HEAD = "import math\n\nimport torch\n\n\n"
HINT = re.compile(r"\n\n    Hint: (.*?)(?=\n    \"\"\")", re.DOTALL)  # ends a docstring
# {name: source of the solution}, in the lecture's order.
SOURCES = {
    name: inspect.getsource(function)
    for name, function in vars(solutions).items()
    if inspect.isfunction(function)
}


@dataclass(frozen=True)
class ExerciseOptions:
    check: bool = False  # test what is there, and print a table
    hint: bool = False  # print a hint
    solution: bool = False  # print the solution


def exercise(arguments):
    """Write a function yourself, and see whether it is right.

    python -m study exercise                      lists them
    python -m study exercise attention            begins one
    python -m study exercise attention --check    tests what you wrote
    """
    names = [word for word in arguments if not word.startswith("-")]
    rest = [word for word in arguments if word.startswith("-")]
    options = ExerciseOptions(**read_settings(ExerciseOptions, rest, "-m study exercise [NAME]"))
    for name in names:
        if name not in SOURCES:
            hint = did_you_mean(name, SOURCES)
            raise UsageError(
                f"unknown exercise {name!r}{hint}; python -m study exercise lists them"
            )
    if (options.hint or options.solution) and not names:
        raise UsageError("name the exercise: python -m study exercise attention --hint")
    if options.hint or options.solution:
        for name in names:
            source = SOURCES[name]
            print(" ".join(HINT.search(source)[1].split()) if options.hint else source)
    elif names and not options.check:
        for name in names:
            begin(name)
    else:
        states = {name: state_of(name) for name in names or SOURCES}
        for name, state in states.items():
            print(f"{name:<18} {state}")
        done = sum(state == "done" for state in states.values())
        print(f"{done} of {len(states)} done; python -m study exercise NAME begins one")


def begin(name):
    """Write the file of an exercise, unless it is there: a signature, a docstring, and no body."""
    path = FOLDER / f"{name}.py"
    if path.exists():
        raise UserError(f"{path} is there already: edit it, or delete it to begin anew")
    source = HINT.sub("", SOURCES[name])
    end = ast.parse(source).body[0].body[0].end_lineno  # of the docstring
    kept = "\n".join(source.splitlines()[:end])
    FOLDER.mkdir(exist_ok=True)
    path.write_text(f"{HEAD}{kept}\n    raise NotImplementedError\n", encoding="utf-8")
    print(f"{path}: replace its last line, then: python -m study exercise {name} --check")


def state_of(name):
    """What is to be said about an exercise: open, done, or what is wrong with it."""
    path = FOLDER / f"{name}.py"
    if not path.exists():
        return "open"
    try:
        written = runpy.run_path(str(path))[name]
        for arguments in cases(name):
            copies = [x.clone() if isinstance(x, torch.Tensor) else x for x in arguments]
            problem = difference(written(*copies), reference(name)(*arguments))
            if problem:
                return f"wrong: {problem}"
    except NotImplementedError:
        return "open"
    except Exception as error:  # of what the learner wrote
        return f"wrong: {type(error).__name__}: {error}".splitlines()[0]
    return "done"


def difference(found, expected):
    """The first number in which a result differs from the expected one, in words; or None."""
    if isinstance(expected, tuple):
        if not isinstance(found, tuple) or len(found) != len(expected):
            return f"it should return {len(expected)} results"
        return next(filter(None, map(difference, found, expected)), None)
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    if found.shape != expected.shape:
        return f"the shape is {tuple(found.shape)} and should be {tuple(expected.shape)}"
    wrong = ~torch.isclose(found.double(), expected.double(), rtol=1e-4, atol=1e-5)
    if not wrong.any():
        return None
    place = tuple(wrong.nonzero()[0].tolist())
    where = f"entry {place}" if place else "the result"
    return f"{where} is {found[place].item():.4g} and should be {expected[place].item():.4g}"


# --- What each result is compared with: PyTorch's function, or the project's own ---------------


def reference(name):
    """The function that an exercise is compared with."""

    def rotated(x):
        return model.rotate(x, *model.rotary_tables(*x.shape))

    def rate(step, peak, warmup_iters, max_iters):
        names = {"lr_schedule": "linear", "min_lr": 0.0, "learning_rate": peak}
        config = train.Config(warmup_iters=warmup_iters, max_iters=max_iters, **names)
        return peak * train.get_lr(step, config)

    def adamw(w, g, m, s, step, lr, beta1, beta2, weight_decay):
        hardware.unwrap_optimizers()  # else the first step takes seconds
        w = w.clone().requires_grad_()
        w.grad = g
        settings = {"lr": lr, "betas": (beta1, beta2), "weight_decay": weight_decay}
        optimizer = torch.optim.AdamW([w], **settings)
        state = {"step": torch.tensor(float(step - 1)), "exp_avg": m.clone()}
        optimizer.state[w] = state | {"exp_avg_sq": s.clone()}
        optimizer.step()
        return w.detach(), optimizer.state[w]["exp_avg"], optimizer.state[w]["exp_avg_sq"]

    def one_iteration(x):
        before, muon.ITERATIONS = muon.ITERATIONS, 1
        result = muon.nearly_orthogonal(x[None], torch.float32)[0]
        muon.ITERATIONS = before
        return result

    def of_attention(q, k, v):
        return F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]

    def heads(x, n_head):
        return model.split_heads(torch.cat([x, x, x], dim=2), n_head)[0]

    def cut(probabilities, k, p):
        return model.next_probabilities(probabilities.log()[None], top_k=k, top_p=p)[0]

    others = {
        "softmax": lambda z: F.softmax(z, dim=0),
        "cross_entropy": F.cross_entropy,
        "embed": F.embedding,
        "layer_norm": lambda x, gains: F.layer_norm(x, x.shape[2:], gains),
        "rotate": rotated,
        "attention": of_attention,
        "split_into_heads": heads,
        "feed_forward": lambda x, a, b: F.linear(F.gelu(F.linear(x, a)), b),
        "learning_rate": rate,
        "adamw_step": adamw,
        "top_k_top_p": cut,
        "newton_schulz": one_iteration,
    }
    return others.get(name) or getattr(solutions, name)


def cases(name):
    """Arguments for an exercise, of several shapes."""
    torch.manual_seed(0)
    normal = torch.randn
    ids = torch.randint(7, (50,))
    probabilities = [normal(n).mul(2).softmax(dim=0) for n in (5, 9, 30)]
    unit = [x / torch.linalg.matrix_norm(x) for x in (normal(3, 5), normal(4, 4), normal(2, 9))]
    step = SimpleNamespace(w=normal(3, 4), g=normal(3, 4), m=normal(3, 4), s=normal(3, 4) ** 2)
    zeros = torch.zeros(3, 4)
    return {
        "softmax": [[normal(5) * 3], [normal(65)], [normal(4) + 1000]],
        "cross_entropy": [[normal(6, 5), ids[:6] % 5], [normal(1, 9) * 3, ids[:1]]],
        "bigram_counts": [[ids.tolist(), 7], [[0, 0, 0, 1], 2]],
        "embed": [[ids.view(5, 10), normal(7, 3)], [ids[:1, None], normal(7, 8)]],
        "layer_norm": [[normal(2, 3, 8) * 5 + 1, normal(8)], [normal(4, 1, 6), normal(6)]],
        "rotate": [[normal(5, 8)], [normal(30, 2)], [normal(3, 32)]],
        "attention": [[normal(4, 8), normal(4, 8), normal(4, 8)], [normal(9, 2)] * 3],
        "split_into_heads": [[normal(2, 5, 12), 3], [normal(1, 4, 8), 8]],
        "feed_forward": [[normal(5, 3), normal(12, 3), normal(3, 12)]],
        "batch_at": [[ids, [0, 7, 3], 4], [ids, [41], 8]],
        "learning_rate": [[i, 0.3, 10, 110] for i in (0, 5, 9, 10, 11, 60, 109)],
        "adamw_step": [
            [step.w, step.g, zeros, zeros, 1, 0.01, 0.9, 0.95, 0.1],
            [step.w, step.g, step.m, step.s, 7, 0.1, 0.8, 0.99, 0.5],
        ],
        "top_k_top_p": [
            [x, k, p] for x in probabilities for k, p in ((3, 1.0), (4, 0.6), (9, 0.01))
        ],
        "newton_schulz": [[x] for x in unit],
    }[name]
