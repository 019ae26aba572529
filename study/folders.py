"""Runs that a command line names by their folders: python -m study STUDY out/a out/b --name=value.

A folder that cannot be read stops no other.
"""

import itertools
from dataclasses import dataclass

from quill.checkpoint import check_same_data, find_checkpoint, network_of, read_checkpoint
from quill.settings import DASHES, read_options
from quill.terminal import UsageError, UserError, show


@dataclass(frozen=True)
class FolderOptions:
    dataset: str = "shakespeare_char"  # folder under data/: what the losses are measured on


def split_arguments(arguments):
    """The words of a command line before the first option, and the rest."""
    words = list(itertools.takewhile(lambda word: not word.startswith(tuple(DASHES)), arguments))
    return words, arguments[len(words) :]


def read_folders(arguments, options_class, study):
    """Return the folders of a command line, and its options."""
    folders, rest = split_arguments(arguments)
    program = f"-m study {study} out/a out/b"
    options = read_options(rest, options_class, program)
    if not folders:
        raise UsageError(f"name the folders of runs, as in python {program}")
    return folders, options


def of_each(folders, read, *given):
    """{folder: read(folder, *given)} of those that can be read, with a note on each other one.
    UserError if none can be."""
    found, problems = {}, []
    for folder in folders:
        try:
            found[folder] = read(folder, *given)
        except UserError as error:
            problems.append(f"{folder}: {error}")
    if not found:
        raise UserError("; ".join(problems))
    for problem in problems:
        show(f"note: {problem}")
    return found


def checkpoint_for(folder, data):
    """The checkpoint of a run whose vocabulary is that of the dataset."""
    checkpoint = read_checkpoint(find_checkpoint(folder))
    check_same_data(checkpoint, data.meta, resume=False)
    return checkpoint


def network_for(folder, data):
    """The network of a run, to be measured on whole windows of the dataset's validation split."""
    checkpoint = checkpoint_for(folder, data)
    size, length = checkpoint["config"]["block_size"], len(data.val)
    if length <= size:
        raise UserError(f"block_size is {size}, but the validation split has {length} characters")
    return network_of(checkpoint)
