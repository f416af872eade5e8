"""One self-contained HTML page of recorded numbers, to play with: the explorer.

The page's own files are in `explorer_page`; nothing there computes an update or a loss. Numbers are
recorded beforehand and travel compressed: coordinates as 16-bit steps of a box about the map, all
else as bfloat16.
"""

import base64
import html
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from learned_opt.figures.style import styles_of
from learned_opt.tasks import Surface

_FOLDER = Path(__file__).parent / "explorer_page"
_OFF = 2**16 - 1  # the code of a point that is outside of the box, or not finite
BOX = 2.0  # the box is as many times as wide and as high as the map
BANDS = 24  # of the map: equally large shares of it
MAP_SIDE = 256  # pixels of the map


def pack_points(points: ArrayLike, window: Any) -> np.ndarray:
    """Points as 16-bit numbers, each axis from 0 to 65534 over a box about the window.

    Args:
      points: `[..., 2]`.
      window: ((x_low, x_high), (y_low, y_high)); the box is `BOX` times as large.

    Returns:
      uint16 `[..., 2]`; 65535 for a coordinate outside of the box.
    """
    p = np.asarray(points, np.float64)
    low, high = box(window)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (p - low) / (high - low) * (_OFF - 1)
        inside = (scaled >= 0) & (scaled <= _OFF - 1)
    return np.where(inside, np.round(np.where(inside, scaled, 0)), _OFF).astype(np.uint16)


def box(window: Any) -> tuple[np.ndarray, np.ndarray]:
    """The lower left and the upper right corner of what is recorded around a map, `[2]` each."""
    low, high = np.asarray(window, np.float64).T
    middle, half = (low + high) / 2, (high - low) / 2
    return middle - BOX * half, middle + BOX * half


def pack_numbers(values: ArrayLike) -> np.ndarray:
    """Numbers as bfloat16, eight binary digits, in the bits of a uint16."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(values, np.float32).astype(jnp.bfloat16).view(np.uint16)


def pack_bytes(arrays: Sequence[np.ndarray]) -> str:
    """Arrays of uint16 or uint8, one after another, compressed, as base64.

    Along the last axis what is kept are differences, modulo 2¹⁶, and low bytes come before high
    ones: both make them shorter.
    """
    parts = []
    for array in arrays:
        if array.dtype == np.uint8:
            parts.append(array.tobytes())
            continue
        steps = np.diff(array, axis=-1, prepend=np.uint16(0))
        steps = np.ascontiguousarray(steps, "<u2")
        parts.append(steps.view(np.uint8).reshape(-1, 2).T.tobytes())
    return base64.b64encode(zlib.compress(b"".join(parts), 9)).decode()


def bands(surface: Surface) -> np.ndarray:
    """The map of a surface: which of `BANDS` equally large shares of it a pixel is in, low to high.

    Returns:
      uint8 `[MAP_SIDE, MAP_SIDE]`, rows from the top down.
    """
    x, y = (np.linspace(*ends, MAP_SIDE) for ends in surface.window)
    values = np.asarray(surface.value(*np.meshgrid(x, y[::-1])))  # type: ignore[arg-type]
    edges = np.quantile(values, np.linspace(0, 1, BANDS + 1)[1:-1])
    return np.searchsorted(edges, values).astype(np.uint8)


def rule_styles(names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """How each rule looks, as in all figures: name -> label, color and dash, in line widths."""
    styles = styles_of(list(names.values()))
    found = {}
    for name, label in names.items():
        color, dash = styles[label]
        lengths = [] if dash == "solid" else list(dash[1])
        found[name] = {"label": label, "color": color, "dash": lengths}
    return found


def write_page(data: Mapping[str, Any], path: str | os.PathLike, *, title: str) -> None:
    """Puts the page's files and the data into one file.

    Args:
      data: what `page.js` reads; see `experiments.common.explorer_data`.
      path: the HTML file.
      title: of the page.
    """
    text = (_FOLDER / "page.html").read_text(encoding="utf-8")
    written = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    pieces = {
        "TITLE": html.escape(title),
        "STYLE": (_FOLDER / "page.css").read_text(encoding="utf-8"),
        "DATA": written.replace("</", "<\\/"),
        "SCRIPT": (_FOLDER / "page.js").read_text(encoding="utf-8"),
    }
    for name, piece in pieces.items():
        text = text.replace(f"{{{{{name}}}}}", piece)
    Path(path).write_text(text, encoding="utf-8")
