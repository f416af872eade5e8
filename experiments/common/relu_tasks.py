"""The task with RNNprop's two tricks: random scales of coordinates, and a convex term."""

import math
from typing import Any

from learned_opt.tasks import WithConvexTerm, image_classifier
from learned_opt.tasks.rescaled import Rescaled


def with_tricks(
    dataset: str = "digits",
    *,
    log_range: float = 3.0,
    convex_log_range: float = 1.0,
    data_dir: str | None = None,
    **settings: Any,
) -> WithConvexTerm:
    """An image classifier with every coordinate scaled by e^U(−3, 3), plus a convex term."""
    task = image_classifier(dataset, data_dir=data_dir, **settings)
    return WithConvexTerm(
        Rescaled(task, log_range / math.log(10), "coordinate"), log_range=convex_log_range
    )
