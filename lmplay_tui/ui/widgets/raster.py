"""Lines as dots of braille cells: two by four dots a cell, found with numpy, many times faster than point by point."""

import numpy as np
from numpy.typing import NDArray

from lmplay_tui.run.series import Floats

_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], dtype=np.uint8)
_HAIR = 1e-6  # of a dot: what lies between two falls on the same one, whatever the last bit of its float is
BRAILLE_SIGNS = np.array([chr(0x2800 + bits) for bits in range(256)])


def raster(  # noqa: PLR0917
    x: Floats, y: Floats, x_range: tuple[float, float], y_range: tuple[float, float], width: int, height: int
) -> NDArray[np.uint8]:
    """The line through the points, in `height` x `width` cells: each cell's braille dots as bits.

    `x` rises. All points of a dot column become one vertical stroke, so that no extreme is lost.
    """
    (first, last), (low, high) = x_range, y_range
    columns, rows = 2 * width, 4 * height
    inside = np.isfinite(x) & np.isfinite(y)
    column = np.rint((x[inside] - first) / (last - first) * (columns - 1)).astype(np.int64)
    values = y[inside]
    seen = (column >= 0) & (column < columns)
    if not seen.any():
        return np.zeros((height, width), np.uint8)
    least = np.full(columns, np.inf)
    greatest = np.full(columns, -np.inf)
    np.minimum.at(least, column[seen], values[seen])
    np.maximum.at(greatest, column[seen], values[seen])
    _join(least, greatest)
    scale = (rows - 1) / (high - low)
    top = np.clip(np.rint((high - greatest) * scale + _HAIR), 0, rows - 1)
    bottom = np.clip(np.rint((high - least) * scale + _HAIR), 0, rows - 1)
    row = np.arange(rows)[:, None]
    dots = (row >= top) & (row <= bottom) & np.isfinite(greatest)
    bits = dots.view(np.uint8).reshape(height, 4, columns) * np.tile(_BITS, width)
    by_column = np.bitwise_or.reduce(bits, axis=1)
    packed: NDArray[np.uint8] = by_column[:, 0::2] | by_column[:, 1::2]
    return packed


def _join(least: Floats, greatest: Floats) -> None:
    """Fill the columns between points along a straight line, and let neighbours touch; in place."""
    used = np.flatnonzero(np.isfinite(greatest))
    between = np.arange(used[0], used[-1] + 1)
    low = np.interp(between, used, least[used])
    high = np.interp(between, used, greatest[used])
    # Where a column lies wholly above or below its neighbour, both reach out to the middle of the gap.
    up = np.maximum(low[1:] - high[:-1], 0) / 2
    down = np.maximum(low[:-1] - high[1:], 0) / 2
    high[:-1] += up
    low[1:] -= up
    low[:-1] -= down
    high[1:] += down
    least[between], greatest[between] = low, high
