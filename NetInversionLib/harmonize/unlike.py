"""Where a brain is unlike the target's people, and whether a field is there all the same.

A lesion or a resection is unlike them.

A field multiplies every tissue of a neighbourhood, and is seen from its neighbours; a lesion
changes one tissue in one place. So two things are asked of the linear model in which an explanation
ended (``fitting.Linear``):

- Which blocks are unlike the people, if each may be, at a price? They are found one after the other
  (greedily), grown by their six neighbours, and left out of every explanation.
- How much better does a field foretell blocks that it has not seen? A block's quantiles are
  foretold from all blocks but it and its 26 neighbours; no block counts for more than ``CLIP``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from ..networks.corrector import CONTROL, LEVELS

if TYPE_CHECKING:
    from .fitting import Linear
    from .statistics import Target

# What a block may deviate by (standard deviation, scaled units) if it is unlike the people, and the
# logarithm of the odds against it.
UNLIKE_DEVIATION, PRICE = 0.1, 1.0
CLIP = 3.0
# A lesion moves neighbouring quantiles of a block together.
_APART = np.subtract.outer(np.arange(len(LEVELS)), np.arange(len(LEVELS)))
WIDE = UNLIKE_DEVIATION**2 * (np.exp(-0.5 * (_APART / 12.0) ** 2) + 1e-3 * np.eye(len(LEVELS)))


class _Blocks:
    """A linear model block by block; the people's joint deviations are further unknowns.

    Attributes:
        design: (blocks, 17, n).
        observed: (blocks, 17).
        inverse: (blocks, 17, 17) of what is left of the covariance; 0 in a block left out.
    """

    def __init__(self, linear: Linear, target: Target):
        levels, count = len(LEVELS), len(linear.observed) // len(LEVELS)
        joint = np.concatenate([linear.jacobian, target.deviations.T], 1)
        self.design = joint.reshape(levels, count, -1).transpose(1, 0, 2)
        self.observed = linear.observed.reshape(levels, count).T
        variance = target.precision[0].reshape(levels, count).T
        self.inverse = np.eye(levels) / variance[:, :, None]
        unknowns = len(linear.mean)
        self.precision = np.eye(joint.shape[1])
        self.precision[:unknowns, :unknowns] = linear.precision
        self.pulled = np.zeros(joint.shape[1])
        self.pulled[:unknowns] = linear.precision @ linear.mean
        self.weighed = self.inverse @ self.design
        self.hessians = self.design.transpose(0, 2, 1) @ self.weighed
        self.gradients = np.einsum("bln,bl->bn", self.weighed, self.observed)

    def widen(self, block: int, sign: int) -> None:
        """Let a block deviate by ``WIDE`` (sign 1), or no longer (-1)."""
        own = np.linalg.inv(np.linalg.inv(self.inverse[block]) + sign * WIDE)
        self.inverse[block] = own
        self.weighed[block] = own @ self.design[block]
        self.hessians[block] = self.design[block].T @ self.weighed[block]
        self.gradients[block] = self.weighed[block].T @ self.observed[block]


def unlike_blocks(linear: Linear, target: Target) -> np.ndarray:
    """The blocks that are unlike the target's people, of those in use.

    Each may deviate by ``UNLIKE_DEVIATION`` besides what people do, at ``PRICE``. The block that
    gains most is taken, or given back, until none gains.

    Args:
        linear: Where an explanation ended.
        target: What is known of the people; blocks that it leaves out are not judged.

    Returns:
        Boolean, of shape (blocks,).
    """
    blocks = _Blocks(linear, target)
    judged = blocks.inverse.any((1, 2))
    found = np.zeros(len(judged), bool)
    for _ in range(2 * len(judged)):  # each turn gains, so it ends by itself; a bound all the same
        gain = np.where(judged, _gains(blocks, found), -np.inf)
        best = int(np.argmax(gain))
        if not gain[best] > 0:
            break
        found[best] = ~found[best]
        blocks.widen(best, 1 if found[best] else -1)
    return found


def not_foretold(linear: Linear, target: Target, unlike: np.ndarray) -> np.ndarray:
    """The unlike blocks that stay so under another explanation.

    It has to foretell a block from those neither unlike nor beside such: one that has seen a lesion
    explains a part of it.

    Args:
        linear: Where the other explanation ended.
        target: What is known of the people, all of their blocks.
        unlike: Boolean, of shape (blocks,).

    Returns:
        Boolean, of shape (blocks,).
    """
    blocks, seen = _Blocks(linear, target), ~grown(unlike, target.used)
    covariance = np.linalg.inv(blocks.hessians[seen].sum(0) + blocks.precision)
    middle = covariance @ (blocks.gradients[seen].sum(0) + blocks.pulled)
    design = blocks.design[unlike]
    spread = design @ covariance @ design.transpose(0, 2, 1) + np.linalg.inv(blocks.inverse[unlike])
    left = blocks.observed[unlike] - design @ middle
    stays = unlike.copy()
    stays[unlike] = _log_normal(left, spread + WIDE) - PRICE > _log_normal(left, spread)
    return stays


def _gains(blocks: _Blocks, found: np.ndarray) -> np.ndarray:
    """What it gains (log evidence) to change one's mind about each block, (blocks,)."""
    covariance = np.linalg.inv(blocks.hessians.sum(0) + blocks.precision)
    middle = covariance @ (blocks.gradients.sum(0) + blocks.pulled)
    pull = np.einsum("bkl,bl->bk", blocks.inverse, blocks.observed - blocks.design @ middle)
    # The inverse of a block's part of the whole inverse covariance is its covariance given all
    # other blocks; with it comes what the others do not foretell.
    held = blocks.inverse - blocks.weighed @ covariance @ blocks.weighed.transpose(0, 2, 1)
    held[~held.any((1, 2))] = np.eye(len(LEVELS))
    now = np.linalg.inv(held)
    left = np.einsum("bkl,bl->bk", now, pull)
    sign = np.where(found, -1.0, 1.0)
    then = now + sign[:, None, None] * WIDE
    return _log_normal(left, then) - _log_normal(left, now) - sign * PRICE


def _log_normal(x: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Log density of rows (n, d) under covariances (n, d, d), but for a constant."""
    weighed = np.linalg.solve(covariance, x[:, :, None])[:, :, 0]
    return -0.5 * (np.einsum("nd,nd->n", x, weighed) + np.linalg.slogdet(covariance)[1])


def grown(blocks: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Blocks and their six neighbours.

    Args:
        blocks: Boolean, of those in use, (blocks,).
        used: Boolean, which of all are in use, (288,).

    Returns:
        Boolean, (blocks,).
    """
    whole = np.zeros(used.shape, bool)
    whole[used] = blocks
    return ndimage.binary_dilation(whole.reshape(CONTROL)).ravel()[used]


def on_template(blocks: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Unlike blocks in the template's box: 2 where they are, 1 beside them, 0 elsewhere.

    Args:
        blocks: Boolean, of those in use, (blocks,).
        used: Boolean, which of all are in use, (288,).

    Returns:
        uint8, of shape (6, 8, 6).
    """
    whole = np.zeros(used.shape, np.uint8)
    whole[used] = grown(blocks, used).astype(np.uint8) + blocks
    return whole.reshape(CONTROL)


def foretold(linear: Linear, target: Target) -> np.ndarray:
    """Log likelihood of every block's quantiles, given those neither in it nor beside it.

    Args:
        linear: Where an explanation ended.
        target: What is known of the people.

    Returns:
        Of shape (blocks,); 0 where the target leaves a block out.
    """
    blocks = _Blocks(linear, target)
    places = np.stack(np.unravel_index(np.flatnonzero(target.used), CONTROL), 1)
    hessian, gradient = blocks.hessians.sum(0) + blocks.precision, blocks.gradients.sum(0)
    found = np.zeros(len(places))
    for n, place in enumerate(places):
        if not blocks.inverse[n].any():
            continue
        near = np.abs(places - place).max(1) <= 1
        covariance = np.linalg.inv(hessian - blocks.hessians[near].sum(0))
        middle = covariance @ (gradient - blocks.gradients[near].sum(0) + blocks.pulled)
        design = blocks.design[n]
        spread = design @ covariance @ design.T + np.linalg.inv(blocks.inverse[n])
        left = blocks.observed[n] - design @ middle
        found[n] = -0.5 * (left @ np.linalg.solve(spread, left) + np.linalg.slogdet(spread)[1])
    return found


def foresight(field: Linear, tone: Linear, target: Target) -> float:
    """By how much an explanation with fields foretells unseen blocks better than a tone curve."""
    gain = foretold(field, target) - foretold(tone, target)
    return float(np.clip(gain, -CLIP, CLIP).sum())
