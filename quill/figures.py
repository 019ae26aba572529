"""One look for every plot. Afterwards, the user's own settings of matplotlib are as before."""

import contextlib
import importlib.util
import logging
import warnings
from pathlib import Path

from quill.files import replacing
from quill.terminal import UserError, show

# Okabe and Ito's colors, which the color-blind can tell apart.
COLORS = ["#000000", "#d55e00", "#0072b2", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "0.5"]
LOOK = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "font.size": 12,
    "axes.titlesize": 11,
    "figure.titlesize": 14,
    "grid.color": "0.92",
    "text.parse_math": False,  # show a $ as it is
}


def matplotlib_installed():
    """Whether plots can be made; everything else works without it."""
    return importlib.util.find_spec("matplotlib") is not None


def import_matplotlib():
    """Return matplotlib, imported. UserError if it cannot be."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # hides notes, as on a read-only folder
    try:
        import matplotlib.font_manager
    except ImportError as error:
        raise UserError(f"cannot plot: {error}; for plots: pip install matplotlib") from error
    except (OSError, ValueError) as error:  # of a folder that it needs, or of its matplotlibrc
        raise UserError(f"cannot plot: {error}") from error
    return matplotlib


def new_figure(width, height, title, fonts=()):
    """An empty matplotlib Figure, measured in inches. fonts: for what the usual one lacks."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams["font.family"] = ["DejaVu Sans", *fonts]
    # The class itself, not pyplot, which would look for a window system and keep every figure.
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title)
    return figure


def save_figure(path, draw, *arguments):
    """Write the figure that draw(*arguments) returns, which calls new_figure(), as a PNG."""
    matplotlib = import_matplotlib()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(), warnings.catch_warnings(), replacing(path) as file:
        warnings.simplefilter("ignore")  # of a character that no font has
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(LOOK)
        draw(*arguments).savefig(file, format="png", dpi=100)


@contextlib.contextmanager
def optional(what):
    """Go on if a log or a plot cannot be written, with a line that says why: no run ends for it."""
    try:
        yield
    except Exception as error:  # of matplotlib, or of the file system
        reason = str(error).split("\n")[0][:120] or type(error).__name__
        show(f"note: {what} could not be written: {reason}")
