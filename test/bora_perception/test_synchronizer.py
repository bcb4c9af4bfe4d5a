"""The synchroniser: which images and joint positions make one observation, and what is never one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bora_perception.synchronizer import Synchronizer, SyncSettings

MS = 1_000_000
T0 = 5_000 * MS
CAMERAS = ('left', 'front', 'right')
SETTINGS = SyncSettings(
    max_rate=30.0, max_skew=0.02, max_age=0.25, max_joint_gap=0.1, camera_timeout=1.0, startup_timeout=5.0
)  # fmt: skip


class Rig:
    def __init__(self, **settings):
        self.sync = Synchronizer(CAMERAS, SyncSettings(**(SETTINGS.__dict__ | settings)), 0)
        self.steady = 0

    def image(self, camera, ms, item=None):
        return self.sync.offer_image(camera, T0 + int(ms * MS), item or (camera, ms), self.steady)

    def joints(self, ms, value=None):
        return self.sync.offer_joints(T0 + int(ms * MS), np.full(2, ms if value is None else value), self.steady)

    def take(self, ms):
        return self.sync.take(T0 + int(ms * MS))


def test_the_last_arrival_completes_a_set_with_joints_at_the_oldest_image():
    rig = Rig()
    rig.joints(0)
    rig.joints(10)
    rig.image('right', 4)
    rig.image('left', 8)
    assert rig.take(9) is None
    rig.image('front', 6)
    found = rig.take(9)
    assert found.stamp_ns == T0 + 4 * MS
    assert found.images == (('left', 8), ('front', 6), ('right', 4))
    assert np.allclose(found.proprio, 4.0)
    assert found.skew == pytest.approx(0.004)


def test_a_set_is_taken_once_however_similar_the_next_is():
    rig = Rig()
    for ms in (0, 40):
        rig.joints(ms)
        for camera in CAMERAS:
            rig.image(camera, ms, item='the same pixels')
        assert rig.take(ms) is not None
        assert rig.take(ms) is None


def test_images_of_one_tick_are_not_mixed_with_those_of_the_one_before():
    rig = Rig(max_skew=1.0)
    rig.joints(0)
    for camera in CAMERAS:
        rig.image(camera, 0)
    assert rig.take(0).stamp_ns == T0
    rig.joints(66)
    for camera in CAMERAS[:2]:
        rig.image(camera, 66)
        assert rig.take(66) is None
    rig.image(CAMERAS[2], 66)
    assert rig.take(66).skew == 0.0


def test_the_nearest_image_of_a_faster_camera_is_chosen():
    rig = Rig(max_skew=0.03)
    rig.joints(0)
    rig.joints(60)
    for ms in (0, 11, 22, 33, 44):
        rig.image('left', ms)
    rig.image('front', 20)
    rig.image('right', 24)
    found = rig.take(60)
    assert found.images[0] == ('left', 22) and found.stamp_ns == T0 + 20 * MS


def test_images_further_apart_than_max_skew_wait():
    rig = Rig()
    for ms in (0, 100):
        rig.joints(ms)
    rig.image('left', 0)
    rig.image('front', 10)
    rig.image('right', 40)
    assert rig.take(50) is None
    rig.image('left', 38)
    rig.image('front', 39)
    assert rig.take(50).stamp_ns == T0 + 38 * MS


def test_joint_positions_wait_for_the_state_after_the_image():
    rig = Rig()
    rig.joints(0)
    for camera in CAMERAS:
        rig.image(camera, 5)
    assert rig.take(5) is None
    rig.joints(20)
    assert np.allclose(rig.take(20).proprio, 5.0)


@pytest.mark.parametrize('states, reason', [((10, 20), 'no joint states from before the image'), ((0, 150), 'joint states too far apart')])
def test_an_image_without_joint_states_around_it_is_dropped_and_counted(states, reason):
    rig = Rig()
    for ms in states:
        rig.joints(ms)
    for camera in CAMERAS:
        rig.image(camera, 5)
    assert rig.take(150) is None and rig.sync.dropped[reason] == 1
    assert rig.take(150) is None and rig.sync.dropped[reason] == 1  # once


def test_an_old_set_is_dropped_and_counted():
    rig = Rig()
    rig.joints(0)
    for camera in CAMERAS:
        rig.image(camera, 0)
    assert rig.take(251) is None
    assert rig.sync.dropped['older than max_age'] == 1


def test_late_and_repeated_messages_are_counted_and_ignored():
    rig = Rig()
    assert rig.joints(0) and not rig.joints(0) and not rig.joints(-1)
    assert rig.image('left', 10) and not rig.image('left', 10) and not rig.image('left', 9)
    assert rig.sync.dropped == {
        'joint states came twice': 1, 'joint states came late': 1, 'left image came twice': 1, 'left image came late': 1,
    }  # fmt: skip


def test_a_clock_that_is_set_back_starts_again():
    rig = Rig()
    rig.joints(0)
    for camera in CAMERAS:
        rig.image(camera, 0)
    assert rig.take(0) is not None
    rig.joints(-4000)
    for camera in CAMERAS:
        assert rig.image(camera, -4000)
    assert rig.take(-4000).stamp_ns == T0 - 4000 * MS


def test_the_rate_is_limited_by_stamps():
    rig = Rig(max_rate=15.0)
    stamps = []
    for i in range(60):
        ms = i * 100 / 3
        rig.joints(ms)
        for camera in CAMERAS:
            rig.image(camera, ms)
            found = rig.take(ms)
            if found:
                stamps.append(found.stamp_ns)
    assert len(stamps) == 30 and np.all(np.diff(stamps) > 66 * MS)


def test_silence_is_named_and_ends_with_the_return():
    rig = Rig()
    rig.joints(0)
    rig.image('left', 0)
    rig.image('right', 0)
    assert rig.sync.trouble(900 * MS) == ''
    assert rig.sync.trouble(1_100 * MS).startswith('camera "left": silent for 1.1 s')
    rig.steady = 5_100 * MS
    rig.image('left', 5000)
    rig.image('right', 5000)
    rig.joints(5000)
    assert rig.sync.trouble(rig.steady).startswith('camera "front": nothing received since the start')
    assert rig.sync.silent(rig.steady) == ('front',)
    rig.image('front', 5000)
    assert rig.sync.trouble(rig.steady) == '' and rig.sync.silent(rig.steady) == ()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), jitter=st.sampled_from([0.0, 3.0, 20.0]), loss=st.sampled_from([0.0, 0.3]))
def test_every_set_keeps_its_promises(seed, jitter, loss):
    rng = np.random.default_rng(seed)
    rig = Rig(max_rate=30.0, max_skew=0.035)  # free-running cameras at 30 Hz are never further apart
    events = [(ms, 'joints', ms) for ms in np.arange(0.0, 2000.0, 10.0)]
    for camera in CAMERAS:
        offset = rng.uniform(0, 33)
        kept = [ms + offset for ms in np.arange(0.0, 2000.0, 33.3) if rng.random() >= loss]
        events += [(ms + rng.uniform(0, jitter), camera, ms) for ms in kept]
    last = -1
    for arrival, kind, ms in sorted(events):
        if kind == 'joints':
            rig.joints(ms)
        else:
            rig.image(kind, ms)
        found = rig.take(arrival)
        if found is None:
            continue
        stamps = [int(ms * MS) + T0 for _, ms in found.images]
        assert found.stamp_ns == min(stamps) > last
        assert (max(stamps) - min(stamps)) * 1e-9 == pytest.approx(found.skew) and found.skew <= 0.035
        assert arrival - (found.stamp_ns - T0) / MS <= 250
        assert np.allclose(found.proprio, (found.stamp_ns - T0) / MS, atol=1e-4)
        last = found.stamp_ns
    if loss == 0.0 and jitter == 0.0:
        assert last > T0 + 1800 * MS
