"""One world for the tests of a process."""

from __future__ import annotations

import pytest

from bora_sim.world import SimWorld


@pytest.fixture(scope='session')
def shared_world() -> SimWorld:
    return SimWorld('press_button')


@pytest.fixture
def world(shared_world: SimWorld) -> SimWorld:
    shared_world.reset(0)
    return shared_world
