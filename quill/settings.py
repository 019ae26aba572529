"""Read a recipe and a command line into the fields of any dataclass.

A field is a setting: its annotation is the type, its default the default, and the comment at the
end of its line is what --help says about it. A recipe is a file of `name = value` lines in Python's
syntax, such as config/shakespeare_cpu.py. It is parsed and checked, never executed.
"""

import ast
import inspect
import math
import os
import re
import sys
import typing
from dataclasses import fields
from pathlib import Path

from quill.terminal import UsageError, did_you_mean, show

KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}
BOOLEANS = {"true": True, "false": False}


def comments(cls):
    """Return {name of a field: the comment at the end of its line}, also of base classes."""
    found = {}
    for part in reversed(cls.__mro__[:-1]):
        found.update(re.findall(r"(?m)^    (\w+): .*?  # (.*)$", inspect.getsource(part)))
    return found


def type_of(field):
    """Return the type of a setting's value and its choices. One whose default is a tuple takes
    several values of the type."""
    parts = typing.get_args(field.type)  # of Literal["a", "b"], int | None or tuple[float, ...]
    if typing.get_origin(field.type) is typing.Literal:
        return str, parts
    return (parts or [field.type])[0], ()


def print_help(cls, usage, about):
    """Print every setting with its comment and its default."""
    first = (about or "").split("\n")[0]  # python -OO leaves docstrings out
    print(f"usage: {usage}\n\n{first}\n")
    meanings = comments(cls)
    for field in fields(cls):
        kind, choices = type_of(field)
        several = isinstance(field.default, tuple)
        default = " ".join(map(str, field.default)) if several else repr(field.default)
        print(f"  --{field.name}={'|'.join(choices or [kind.__name__])}")
        print(f"      {meanings[field.name]} (default: {default})")


# --- From words to values ---------------------------------------------------------------------


def read_words(arguments, cls):
    """Return the options of a command line as pairs of a name and its words, and the other words.

    "--name=value" is "--name value", and "--name" of a bool is True.
    """
    known = {field.name: field for field in fields(cls)}
    options, others = [], []
    for word in arguments:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            options.append((name, [value] if equals else []))
        elif options and takes_another(known.get(options[-1][0]), options[-1][1], word):
            options[-1][1].append(word)
        else:
            others.append(word)
    return options, others


def takes_another(field, words, word):
    """Whether a setting that has these words takes one more. An unknown one has no field."""
    if field and isinstance(field.default, tuple):
        return True
    return not words and (not field or field.type is not bool or word.lower() in BOOLEANS)


def value_of(name, kind, word):
    """What a word means: '3' -> 3, 'true' -> True. ValueError if it is of another kind."""
    if kind is str:  # after "--name=", a shell leaves a tilde as it is
        return os.path.expanduser(word) if word.startswith("~/") else word
    try:
        value = BOOLEANS[word.lower()] if kind is bool else kind(word)
        if math.isfinite(value):
            return value
    except (KeyError, ValueError):
        pass
    raise ValueError(f"{name} must be {KINDS[kind]}, not {word!r}")


def checked(cls, name, words):
    """The value of a setting from its words. ValueError says what is wrong with them."""
    known = {field.name: field for field in fields(cls)}
    if name not in known:
        raise ValueError(f"{name} is not a setting{did_you_mean(name, known)}")
    kind, choices = type_of(known[name])
    if not words and kind is not bool:
        raise ValueError(f"{name} needs a value")
    if isinstance(known[name].default, tuple):
        if kind is not str:  # "0.2,0.8" is two numbers; a path may have a comma
            words = ",".join(words).split(",")
        value = tuple(value_of(name, kind, word) for word in words)
    else:
        value = value_of(name, kind, words[0] if words else "true")
    if choices and value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    cls(**{name: value})  # thrown away: __post_init__ checks the limits of each value
    return value


def parse_recipe(path, cls):
    """Return [(where it is, name, words)] of the lines of a recipe."""
    try:
        tree = ast.parse(Path(path).read_bytes(), path)
    except OSError as error:
        known = [recipe.as_posix() for recipe in Path("config").glob("*.py")]
        known += [f"--{field.name}" for field in fields(cls)]  # "-max_iters=20" comes here, too
        hint = did_you_mean(path.split("=")[0], known)
        reason = f"{error.strerror}{hint}; a setting is given as --name=value"
        raise UsageError(f"cannot read the recipe {path!r}: {reason}") from error
    except (SyntaxError, ValueError) as error:  # ValueError: a NUL
        raise UsageError(f"{path} is not a recipe: {error}") from error
    lines = []
    for statement in tree.body:
        where = f"{path}, line {statement.lineno}: "
        match statement:
            case ast.Expr(value=ast.Constant(value=str())):
                continue  # a docstring
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case _:
                raise UsageError(f"{where}a recipe holds only lines of the form name = value")
        try:
            lines.append((where, name, [str(ast.literal_eval(value))]))
        except (ValueError, TypeError) as error:  # TypeError: {[1]: 2}
            raise UsageError(f"{where}{name} must be a plain value, not a formula") from error
    return lines


def read_settings(arguments, cls, program, ignored=(), about="", recipe=True):
    """Return what a command line, and the recipe that it names, set in a dataclass: as a dict, and
    the name of the recipe's file without its folder and ending, "" if there is none.

    cls: has one field for each setting. program: as it is typed, "train.py". ignored: names that
    are skipped, with a line that says so. about: its first line heads --help. recipe: whether an
    argument may be a recipe.
    """
    usage = f"python {program} {'[RECIPE] ' if recipe else ''}[--name=value ...]"
    if "--help" in arguments or "-h" in arguments:
        print_help(cls, usage, about)
        sys.exit()
    options, others = read_words(arguments, cls)
    if len(others) > recipe:
        raise UsageError(f"unknown argument {others[-1]!r}; usage: {usage}; see also --help")
    path, values = others[0] if others else "", {}
    typed = [("--", name, words) for name, words in options]
    lines = parse_recipe(path, cls) if path else []
    for where, name, words in lines + typed:
        if name in ignored:
            continue
        try:
            value = checked(cls, name, words)
        except ValueError as error:
            raise UsageError(f"{where}{error}; see python {program} --help") from error
        several = isinstance(value, tuple)  # "--name=1 --name=2" are two values
        values[name] = values.get(name, ()) + value if several else value
    if skipped := [name for _, name, _ in lines + typed if name in ignored]:
        show(f"ignored, as they mean nothing here: {', '.join(skipped)}", file=sys.stderr)
    return values, Path(path).stem


def read_options(arguments, cls, program, ignored=(), about=""):
    """Return a command line without a recipe as an instance of a dataclass."""
    values, _ = read_settings(arguments, cls, program, ignored, about, recipe=False)
    return cls(**values)


def check_limits(settings, at_least_one=(), at_most_one=()):
    """Raise ValueError at a number that is out of range. None may be below 0; the names list those
    with other limits. A dataclass of settings calls this in its __post_init__()."""
    for name, value in vars(settings).items():
        least = 1 if name in at_least_one else 0
        for number in value if isinstance(value, tuple) else [value]:
            if isinstance(number, (int, float)) and number < least:
                raise ValueError(f"{name} must be at least {least}, not {number}")
            if isinstance(number, (int, float)) and number > 1 and name in at_most_one:
                raise ValueError(f"{name} must be at most 1, not {number}")
