"""Smooth, low-dimensional chunks: a clamped B-spline basis over a chunk's steps."""

from __future__ import annotations

import numpy as np

from bora_common.errors import ConfigError


def spline_basis(steps: int, knots: int, degree: int = 2) -> np.ndarray:
    """Clamped uniform B-spline basis [steps, knots].

    Rows are not negative and add up to 1, so a chunk lies within the range of its control values: what bounds them bounds the chunk.
    """
    if not 1 <= knots <= steps:
        raise ConfigError(f'chunk basis: {knots} knots for {steps} steps, expected 1 to {steps}')
    degree = min(degree, knots - 1)
    inner = np.linspace(0.0, 1.0, knots - degree + 1)
    vector = np.concatenate([np.zeros(degree), inner, np.ones(degree)])
    t = np.linspace(0.0, 1.0, steps)
    # order 0: the span each t lies in; the last span is closed, so that t = 1 belongs to it
    span = np.clip(np.searchsorted(inner, t, side='right') - 1, 0, len(inner) - 2) + degree
    basis = np.zeros((steps, len(vector) - 1))
    basis[np.arange(steps), span] = 1.0
    for order in range(1, degree + 1):
        count = len(vector) - 1 - order
        raised = np.zeros((steps, count))
        for i in range(count):
            left, right = vector[i + order] - vector[i], vector[i + order + 1] - vector[i + 1]
            if left > 0:
                raised[:, i] += (t - vector[i]) / left * basis[:, i]
            if right > 0:
                raised[:, i] += (vector[i + order + 1] - t) / right * basis[:, i + 1]
        basis = raised
    return basis


def projection(basis: np.ndarray) -> np.ndarray:
    """Least-squares projection [knots, steps] of a chunk onto a basis [steps, knots]."""
    return np.linalg.pinv(basis)
