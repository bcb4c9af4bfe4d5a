"""Episodes written down by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for by_hand

from by_hand import Episode, at


@pytest.fixture
def episode():
    return Episode


@pytest.fixture
def instant():
    return at
