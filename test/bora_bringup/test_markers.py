"""Markers against the kinematics they are drawn from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bora_bringup import markers
from bora_common.kinematics import LINKS, forward, fr3_hand12, rotation_rpy
from bora_common.types import ArbiterState

LOWER, UPPER = fr3_hand12().limits()


def chunk(k=32, seed=0):
    start, end = np.random.default_rng(seed).uniform(LOWER, UPPER, (2, 19))
    return np.linspace(start, end, k)


@pytest.mark.parametrize(('k', 'points'), [(32, 9), (1, 1), (5, 2), (6, 3)])
def test_a_path_begins_at_the_first_step_and_ends_at_the_last(k, points):
    positions = chunk(k)
    for frame, path in markers.frame_paths(positions).items():
        assert path.shape == (points, 3)
        np.testing.assert_allclose(path[0], forward(positions[0])[frame][:3, 3])
        np.testing.assert_allclose(path[-1], forward(positions[-1])[frame][:3, 3])


def test_proposed_and_corrected_chunk_have_paths_of_palm_and_every_tip():
    paths = markers.chunk_paths(chunk(), chunk() + 0.01)
    assert {(p.namespace, p.number) for p in paths} == {(n, i) for n in ('proposed', 'corrected') for i in range(6)}
    assert not np.allclose(paths[0].points, paths[6].points)


@pytest.mark.parametrize('state', ArbiterState)
def test_every_state_has_its_colour_and_name(state):
    labels = markers.state_labels(state, 'because', 0.5, (0.25, 0.8), 'hardware RUN', '', ['training'])
    assert labels[0].colour == labels[1].colour == markers.STATE_COLOURS[state]
    assert state.name in labels[1].text and 'because' in labels[1].text
    assert any('risk 80%' in label.text for label in labels)
    assert len({(x.namespace, x.number) for x in labels}) == len(labels)


def test_without_value_and_arbiter_there_is_still_a_state():
    labels = markers.state_labels(None, '', 0.0, None, '', '', [])
    assert [x.namespace for x in labels] == ['state', 'state'] and 'no arbiter' in labels[1].text


@given(st.floats(-2, 3))
def test_risk_goes_from_green_to_red_within_the_colour_range(risk):
    red, green, blue, alpha = markers.risk_colour(risk)
    assert all(0 <= v <= 1 for v in (red, green, blue, alpha))
    assert (red >= green) == (risk >= 0.5) or abs(risk - 0.5) < 0.1


def test_transforms_chain_back_to_the_kinematics():
    q = chunk()[3]
    found, world = markers.transforms(q, {link.name: link.parent for link in LINKS if link.parent}), forward(q)
    for frame, (parent, pose) in found.items():
        np.testing.assert_allclose(world[parent] @ pose, world[frame], atol=1e-9)


@given(st.tuples(*[st.sampled_from([-np.pi, -np.pi / 2, 0.0, 0.3, np.pi / 2, np.pi])] * 3))
def test_a_quaternion_turns_as_its_matrix_does(rpy):
    matrix = rotation_rpy(rpy)
    x, y, z, w = markers.quaternion(matrix)
    assert np.isclose(x * x + y * y + z * z + w * w, 1.0, atol=1e-6)
    back = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
    np.testing.assert_allclose(back, matrix, atol=1e-5)
