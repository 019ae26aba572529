"""Every picture. The only file that knows matplotlib, which the program runs without.

loss.png, drawn by train.py at each evaluation: both losses over the steps, the learning rate below.
"""

import importlib.util


def available():
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_loss(columns, rows, file):
    """Draw the rows of log.csv (lists in the order of `columns`) as a PNG into an open file."""
    # The class itself, not pyplot: no window system, no state that outlives the picture.
    from matplotlib.figure import Figure

    table = {name: [row[i] for row in rows] for i, name in enumerate(columns)}
    steps, val_loss = table["step"], table["val_loss"]
    best = min(range(len(rows)), key=val_loss.__getitem__)

    figure = Figure(figsize=(7, 5), layout="constrained")
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    losses.fill_between(steps, table["train_loss"], val_loss, color="0.9")
    losses.plot(
        steps, table["train_loss"], color="0.5", linestyle="--", marker=".", label="training"
    )
    losses.plot(steps, val_loss, color="tab:blue", marker=".", label="validation")
    losses.plot(steps[best], val_loss[best], color="tab:blue", marker="o", markersize=9)
    losses.annotate(
        f"best {val_loss[best]:.4f}",
        (steps[best], val_loss[best]),
        xytext=(0, 12),
        textcoords="offset points",
        ha="right",
    )
    losses.set_ylabel("loss (nats a character)")
    losses.legend(frameon=False)
    rates.plot(steps, table["learning_rate"], color="0.3", marker=".")
    rates.set_ylabel("learning rate")
    rates.set_ylim(bottom=0)
    rates.set_xlabel("step")
    for axes in (losses, rates):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, format="png", dpi=120)
