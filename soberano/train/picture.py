"""The loss of a run as a picture, for the person who waits."""

import json
from pathlib import Path

from soberano.core import durable


def picture(log: Path, out: Path) -> None:
    """Draw loss.jsonl as a PNG: the loss of each step, and of what is held out. Raises OSError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no window system, and no state of pyplot
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in log.read_text().splitlines()]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss, nats per token")
    for key, label, style in (("loss", "learnt", "-"), ("held_out_loss", "held out", "o-")):
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1.2, markersize=4)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    part = out.with_name(f".{out.name}.part")
    FigureCanvasAgg(figure).print_png(str(part))
    durable.rename(part, out)
