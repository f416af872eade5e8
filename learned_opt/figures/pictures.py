"""Figures of pictures."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from learned_opt.figures.style import save


def style_grid(
    problems: Sequence[tuple[ArrayLike, ArrayLike]],
    made: Mapping[str, Sequence[tuple[ArrayLike, ArrayLike]]],
    steps: Sequence[int],
    path: str | os.PathLike,
) -> None:
    """Draws what optimizers have made of content and style, the loss under each picture.

    Each problem has a row for each number of steps; content and style stand on its left.

    Args:
      problems: (content, style) pictures, uint8 `[height, width, 3]`.
      made: label -> for each problem (pictures `[len(steps), height, width, 3]`, their losses
        `[len(steps)]`).
      steps: the numbers of updates.
      path: the PNG file.
    """
    from matplotlib.figure import Figure

    rows, columns = len(problems) * len(steps), 1 + len(made)
    figure = Figure(figsize=(1.55 * columns, 1.72 * rows), dpi=130, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)  # type: ignore
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for n, (content, style) in enumerate(problems):
        top = n * len(steps)
        for row, (name, picture) in enumerate((("content", content), ("style", style))):
            if row < len(steps):
                axes[top + row, 0].imshow(np.asarray(picture))
                axes[top + row, 0].set_title(name, fontsize=9, pad=3)
        for column, (label, found) in enumerate(made.items(), 1):
            pictures, losses = (np.asarray(part) for part in found[n])
            for row, step in enumerate(steps):
                title = f"step {step}: {losses[row]:.3g}"
                axes[top + row, column].imshow(pictures[row])
                axes[top + row, column].set_title(
                    f"{label}\n{title}" if row == 0 else title, fontsize=9, pad=3
                )
    save(figure, path)
