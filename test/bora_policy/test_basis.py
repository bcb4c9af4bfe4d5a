import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bora_common.errors import ConfigError
from bora_policy.basis import projection, spline_basis


@given(st.integers(1, 40), st.data())
def test_rows_are_convex_weights(steps, data):
    knots = data.draw(st.integers(1, steps))
    basis = spline_basis(steps, knots)
    assert basis.shape == (steps, knots)
    assert np.all(basis >= 0)
    assert np.allclose(basis.sum(1), 1)


@given(st.integers(2, 40), st.data())
def test_the_ends_are_the_first_and_last_knot(steps, data):
    knots = data.draw(st.integers(2, steps))
    basis = spline_basis(steps, knots)
    assert np.allclose(basis[0], np.eye(knots)[0])
    assert np.allclose(basis[-1], np.eye(knots)[-1])


def test_a_parabola_survives_projection():
    t = np.linspace(-1, 1, 32)
    basis = spline_basis(32, 6)
    curve = 0.3 * t**2 - t + 0.2
    assert np.allclose(basis @ projection(basis) @ curve, curve)


@pytest.mark.parametrize('knots', [0, 9])
def test_impossible_sizes_are_named(knots):
    with pytest.raises(ConfigError, match='knots'):
        spline_basis(8, knots)
