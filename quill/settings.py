"""Read a recipe and a command line into the fields of any dataclass.

A field is a setting: its annotation is the type, its default the default, and the comment at the
end of its line is what --help says about it. A recipe is a file of `name = value` lines in Python's
syntax, such as config/shakespeare_cpu.py. It is parsed and checked, never executed.
"""

import argparse
import ast
import inspect
import math
import os
import re
import sys
import types
import typing
from dataclasses import fields
from pathlib import Path

from quill.terminal import UsageError, did_you_mean, show

DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2212"  # some of them instead of "--"
KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}


def comments(cls):
    """Return {name of a field: the comment at the end of its line}, also of base classes."""
    found = {}
    for part in reversed(cls.__mro__[:-1]):
        found.update(re.findall(r"(?m)^    (\w+): .*?  # (.*)$", inspect.getsource(part)))
    return found


def type_of(field):
    """Return the type of a setting's value, whether it takes several, and its choices or None."""
    kind = field.type
    if isinstance(kind, types.UnionType):  # int | None
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is typing.Literal:
        return str, False, typing.get_args(kind)
    if typing.get_origin(kind) is tuple:  # tuple[float, ...]
        return typing.get_args(kind)[0], True, None
    return kind, False, None


def checked(cls, field, value):
    """The value of a setting, converted and checked. ValueError says what is wrong with it."""
    kind, several, choices = type_of(field)
    if several:
        value = tuple(as_kind(field.name, kind, one) for one in value)
    elif value is not None or field.default is not None:
        value = as_kind(field.name, kind, value)
    if choices and value not in choices:
        raise ValueError(f"{field.name} must be one of {', '.join(choices)}, not {value!r}")
    cls(**{field.name: value})  # thrown away: __post_init__ checks the limits of each value
    return value


def as_kind(name, kind, value):
    """The value, if it is of this kind: an int also passes as a float."""
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise ValueError(f"{name} must be {KINDS[kind]}, not {value!r}")
    if kind is str and value.startswith("~/"):  # after "--name=", a shell leaves it as it is
        value = os.path.expanduser(value)
    return value


def from_text(kind, text):
    """'3' -> 3, 'true' -> True: what a word of the command line means, or else the word itself."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text


def parse_recipe(path, cls, ignored):
    """Return the settings of a recipe file as a dict, and the names in it that are ignored."""
    known = {field.name: field for field in fields(cls)}
    try:
        tree = ast.parse(Path(path).read_bytes(), path)
    except OSError as error:
        recipes = [recipe.stem for recipe in Path("config").glob("*.py")]
        hint = did_you_mean(Path(path.strip()).stem, recipes, "config/{}.py")
        raise UsageError(f"cannot read the recipe {path!r}: {error.strerror}{hint}") from error
    except SyntaxError as error:
        raise UsageError(f"{path}, line {error.lineno or 1}: {error.msg}") from error
    except ValueError as error:  # a NUL, as in UTF-16
        raise UsageError(f"{path} is not a recipe: {error}") from error

    values, lines, skipped = {}, {}, []
    for statement in tree.body:
        where = f"{path}, line {statement.lineno}"
        match statement:
            case ast.Expr(value=ast.Constant(value=str())):
                continue  # a docstring
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case _:
                raise UsageError(f"{where}: a recipe holds only lines of the form name = value")
        if name in ignored:
            skipped.append(name)
            continue
        if name not in known:
            raise UsageError(f"{where}: unknown name {name!r}{did_you_mean(name, known)}")
        if name in values:
            raise UsageError(f"{where}: {name} is set twice (first in line {lines[name]})")
        try:
            value = ast.literal_eval(value)
        except (ValueError, TypeError) as error:  # TypeError: {[1]: 2}
            raise UsageError(f"{where}: {name} must be a plain value, not a formula") from error
        try:
            values[name] = checked(cls, known[name], value)
        except ValueError as error:
            raise UsageError(f"{where}: {error}") from error
        lines[name] = statement.lineno
    return values, skipped


class Parser(argparse.ArgumentParser):
    """An argparse parser that takes options by their full names and reports errors in one line."""

    def _parse_optional(self, word):  # "-ROMEO" is the value of --start
        option = word[:2] == "--" or word == "-h"
        return super()._parse_optional(word) if option else None

    def error(self, message):
        raise UsageError(f"{message}; usage: {self.usage}; --help lists all options")


def split_words(arguments, start):
    """A command line, in which a word such as "--name=value" is two words."""
    result = []
    for word in arguments:
        result += [start[:-1], word[len(start) :]] if word.startswith(start) else [word]
    return result


def parse(arguments, cls, usage, ignored, about, recipe):
    """Return the words of a command line as a dict: {name: a word, or a list of words}."""
    meanings = comments(cls)
    about = (about or "").split("\n")[0]  # python -OO leaves docstrings out
    parser = Parser(usage=usage, description=about, allow_abbrev=False)
    parser.argument_default = argparse.SUPPRESS
    if recipe:
        parser.add_argument("recipe", nargs="?", help="a file of `name = value` lines, see config/")
    for field in fields(cls):
        kind, several, choices = type_of(field)
        options = {"nargs": "+", "action": "extend"} if several else {}
        if kind is bool:
            options = {"nargs": "?", "const": "True"}  # --compile is --compile=True
        if several:  # "--name=a b" is "--name a b"
            arguments = split_words(arguments, f"--{field.name}=")
        wanted = "|".join(choices or [kind.__name__])
        default = " ".join(map(str, field.default)) if several else repr(field.default)
        help_text = f"{meanings[field.name]} (default: {default})".replace("%", "%%")
        parser.add_argument(f"--{field.name}", metavar=wanted, help=help_text, **options)
    for name in ignored:
        parser.add_argument(f"--{name}", nargs="?", help=argparse.SUPPRESS)
    namespace, unknown = parser.parse_known_args(arguments)
    names, word = [f"--{field.name}" for field in fields(cls)], getattr(namespace, "recipe", "")
    option = word[:1] in tuple(DASHES) or f"--{word.split('=')[0]}" in names  # and no recipe
    if option or unknown:
        name = (word if option else unknown[0]).split("=")[0]
        hint = did_you_mean(f"--{name.strip(DASHES)}", names)
        parser.error(f"unknown argument {name!r}{hint}")
    return vars(namespace)


def read_settings(arguments, cls, program, ignored=(), about="", recipe=True):
    """Return what a command line, and the recipe that it names, set in a dataclass: as a dict, and
    the name of the recipe's file without its folder and ending, "" if there is none.

    cls: has one field for each setting. program: as it is typed, "train.py". ignored: names that
    are skipped, with a line that says so. about: its first line heads --help. recipe: whether the
    first argument may be a recipe.
    """
    usage = f"python {program} {'[RECIPE] ' if recipe else ''}[--name=value ...]"
    texts = parse(arguments, cls, usage, ignored, about, recipe)
    values, path = {}, texts.pop("recipe", "")
    skipped = [name for name in ignored if texts.pop(name, None) is not None]
    for field in fields(cls):
        if field.name in texts:
            kind, several, _ = type_of(field)
            text = texts[field.name]
            if several and kind is not str:  # "0.2,0.8" is two numbers; a path may have a comma
                text = ",".join(text).split(",")
            value = [from_text(kind, t) for t in text] if several else from_text(kind, text)
            try:
                values[field.name] = checked(cls, field, value)
            except ValueError as error:
                raise UsageError(f"--{error}; usage: {usage}; --help lists all options") from error
    if path:
        recipe_values, more = parse_recipe(path, cls, ignored)
        values, skipped = recipe_values | values, more + skipped
    if skipped:
        show(f"ignored, as they mean nothing here: {', '.join(skipped)}", file=sys.stderr)
    return values, Path(path).stem


def read_options(arguments, cls, program, ignored=(), about=""):
    """Return a command line without a recipe as an instance of a dataclass."""
    values, _ = read_settings(arguments, cls, program, ignored, about, recipe=False)
    return cls(**values)


def check_limits(settings, at_least_one=(), below_one=(), at_most_one=()):
    """Raise ValueError at a number that is out of range. None may be below 0; the names list those
    with other limits. A dataclass of settings calls this in its __post_init__(). That must not
    compare two settings, because checked() tests each alone, with the others at their defaults."""
    for name, value in vars(settings).items():
        least = 1 if name in at_least_one else 0
        for number in value if isinstance(value, tuple) else [value]:
            if not isinstance(number, (int, float)):
                continue
            if number < least:
                raise ValueError(f"{name} must be at least {least}, not {number}")
            if number > 1 and name in at_most_one:
                raise ValueError(f"{name} must be at most 1, not {number}")
            if number >= 1 and name in below_one:
                raise ValueError(f"{name} must be below 1, not {number}")
