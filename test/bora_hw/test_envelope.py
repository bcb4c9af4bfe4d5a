"""The velocity envelope against the manufacturer's formula, and its promise: who brakes from it stays under it."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bora_common.errors import ConfigError
from bora_common.paths import share
from bora_common.robot import load_robot
from bora_hw.envelope import VelocityEnvelope

ROBOT = load_robot(share() / 'config' / 'robots' / 'fr3_hand12.yaml')
ENVELOPE = VelocityEnvelope(ROBOT)
VELOCITY = (2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26)
ROWS = ((0.30, 12.0), (0.20, 5.17), (0.20, 7.0), (0.30, 8.0), (0.35, 34.0), (0.35, 11.0), (0.35, 34.0))


def posture(share_of_range: float) -> np.ndarray:
    return ROBOT.lower + share_of_range * (ROBOT.upper - ROBOT.lower)


@pytest.mark.parametrize('joint', range(7))
@pytest.mark.parametrize('where', [-0.1, 0.0, 0.001, 0.01, 0.05, 0.3, 0.5, 0.8, 0.97, 0.995, 1.0, 1.1])
def test_law_is_the_fr3s(joint, where):
    q = posture(where)
    c, k = ROWS[joint]
    up = min(VELOCITY[joint], max(0.0, -c + math.sqrt(max(0.0, k * (ROBOT.upper[joint] - q[joint])))))
    down = max(-VELOCITY[joint], min(0.0, c - math.sqrt(max(0.0, k * (q[joint] - ROBOT.lower[joint])))))
    low, high = ENVELOPE.law(q)
    assert high[joint] == pytest.approx(up, abs=1e-12)
    assert low[joint] == pytest.approx(down, abs=1e-12)


def test_hand_has_no_law_but_stops_before_its_ends():
    low, high = ENVELOPE.law(posture(1.0))
    assert np.all(high[7:] == ROBOT.velocity[7:]) and np.all(low[7:] == -ROBOT.velocity[7:])
    low, high = ENVELOPE.stopping(posture(1.0))
    assert np.all(high == 0.0) and np.all(low < 0.0)


@settings(deadline=None, max_examples=60)
@given(where=st.floats(0.0, 1.0), joint=st.integers(0, 18), up=st.booleans())
def test_braking_from_the_envelope_stays_under_law_and_limits(where, joint, up):
    q = posture(where)
    velocity = (ENVELOPE.stopping(q)[1] if up else ENVELOPE.stopping(q)[0])[joint]
    brake = -np.sign(velocity) * ROBOT.acceleration[joint]
    for t in np.linspace(0.0, abs(velocity) / ROBOT.acceleration[joint], 200):
        q[joint] = posture(where)[joint] + velocity * t + brake * t * t / 2
        low, high = ENVELOPE.law(q)
        assert low[joint] - 1e-6 <= velocity + brake * t <= high[joint] + 1e-6
        assert ROBOT.lower[joint] - 1e-9 <= q[joint] <= ROBOT.upper[joint] + 1e-9


def test_law_needs_seven_joints():
    hand_only = replace(ROBOT, groups=(replace(ROBOT.groups[0], joints=ROBOT.groups[0].joints[:6]), ROBOT.groups[1]))
    with pytest.raises(ConfigError, match='arm of 7 joints, found 6'):
        VelocityEnvelope(hand_only)
