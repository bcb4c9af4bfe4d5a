"""Robot and task of the tests, and an arbiter with a clock."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bora_common.robot import load_robot, load_task

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).resolve().parent))  # for hil_bench

from hil_bench import Bench  # noqa: E402


@pytest.fixture(scope='session')
def robot():
    return load_robot(ROOT / 'config/robots/fr3_hand12.yaml')


@pytest.fixture(scope='session')
def task(robot):
    return load_task(ROOT / 'config/tasks/press_button.yaml', robot)


@pytest.fixture
def bench(robot, task):
    return Bench(robot, task)
