import dataclasses

import numpy as np
import pytest

from bora_common.types import ArbiterState, InterventionEvent, Observation
from bora_policy.pacing import EpochLog, Mailbox


def event(stamp_ns, epoch):
    return InterventionEvent(stamp_ns, ArbiterState.HUMAN, ArbiterState.AUTONOMOUS, 0.0, epoch, '')


def seen(stamp_ns, episode='e'):
    return Observation(stamp_ns, np.zeros((1, 1, 1, 3), np.uint8), ('left',), np.zeros(1), '', episode)


def test_the_epoch_is_the_one_in_force_when_the_observation_was_taken():
    log = EpochLog()
    assert log.at(100) == 0
    for stamp, epoch in ((10, 1), (20, 2), (20, 3), (30, 4)):
        log.add(event(stamp, epoch))
    log.add(event(20, 3))  # repeated to a late joiner
    assert [log.at(t) for t in (5, 10, 19, 20, 29, 30, 99)] == [0, 1, 1, 3, 3, 4, 4]


def test_an_arbiter_that_started_anew_is_followed():
    log = EpochLog()
    log.add(event(10, 7))
    log.add(event(50, 1))
    assert log.at(60) == 1


def test_only_the_newest_observation_is_taken():
    box = Mailbox(max_rate=10)
    for stamp in (0, 1, 2):
        box.offer(seen(stamp))
    assert box.take().stamp_ns == 2 and box.skipped == 2 and box.take() is None


def test_the_rate_is_limited_in_ros_time():
    box = Mailbox(max_rate=15)
    taken = []
    for i in range(60):  # 30 Hz for 2 s
        box.offer(seen(round(i / 30 * 1e9)))
        taken += [box.take()]
    assert len([t for t in taken if t is not None]) == 30


def test_a_clock_that_was_set_back_does_not_silence_the_policy():
    box = Mailbox(max_rate=15)
    box.offer(seen(10**12))
    assert box.take() is not None
    box.offer(seen(0))
    assert box.take() is not None


@pytest.mark.parametrize('waiting', [False, True])
def test_outside_an_episode_nothing_is_proposed(waiting):
    box = Mailbox(max_rate=15)
    if waiting:
        box.offer(seen(0))
    box.offer(dataclasses.replace(seen(1), episode=''))
    assert box.take() is None
