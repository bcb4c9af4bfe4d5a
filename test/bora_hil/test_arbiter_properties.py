"""Whatever comes in whatever order: no jump, no going back in epochs, no policy where a person has control."""

import numpy as np
from hil_bench import Bench
from hypothesis import given, settings
from hypothesis import strategies as st

from bora_common.types import HOLD_SERVICE, RESUME_SERVICE, EpisodeState, Mode, Source
from bora_common.types import ArbiterState as S
from bora_hil.table import TABLE

OFFSETS = st.floats(-0.6, 0.6)
ACTIONS = st.one_of(
    st.tuples(st.just('tick'), st.integers(1, 25)),
    st.tuples(st.just('human'), st.booleans(), OFFSETS, st.sampled_from(['pad', 'glove'])),
    st.tuples(st.just('chunk'), OFFSETS, st.integers(-1, 1), st.integers(-8, 1), st.floats(-0.5, 0.5)),
    st.tuples(st.just('episode'), st.sampled_from(list(EpisodeState))),
    st.tuples(
        st.just('robot'),
        st.sampled_from(
            [(Mode.RUN, ''), (Mode.RUN, RESUME_SERVICE), (Mode.HOLD, 'no command'), (Mode.HOLD, HOLD_SERVICE), (Mode.FAULT, 'broken')]
        ),
    ),
    st.tuples(st.just('joints'), OFFSETS),
)


def play(bench: Bench, action: tuple) -> None:
    kind, *values = action
    if kind == 'tick':
        bench.tick(values[0])
    elif kind == 'human':
        bench.human(values[0], values[1], values[2])
        bench.tick(2)
    elif kind == 'chunk':
        offset, epoch, age, slope = values
        bench.chunk(offset, bench.now + age * 100_000_000, max(0, bench.arbiter.epoch + epoch), slope=slope)
        bench.tick()
    elif kind == 'episode':
        bench.episode(values[0])
        bench.tick()
    elif kind == 'robot':
        bench.robot_mode(*values[0])
        bench.tick()
    else:
        bench.arbiter.on_joints(bench.home + values[0])


@settings(max_examples=120, deadline=None)
@given(actions=st.lists(ACTIONS, max_size=40))
def test_any_sequence(robot, task, actions):
    bench = Bench(robot, task)
    bench.tick()
    bench.episode(EpisodeState.RUNNING)
    bench.tick()
    start = len(bench.commands) - 1
    for action in actions:
        play(bench, action)
    commands, events = bench.commands[start:], bench.events
    track = np.array([c.positions for c in commands])
    held = np.array([c.source == Source.HOLD for c in commands])
    step = np.abs(np.diff(track, axis=0))
    # the only jump allowed is to the measured pose of a robot that has a fault or had one
    jumps = np.any(step > robot.velocity * 0.01 + 1e-9, axis=1)
    if not any(e.state == S.FAULT for e in events):
        assert not jumps.any()
    assert np.all(held[1:][jumps])
    assert np.all(np.isfinite(track)) and np.all(track >= robot.lower) and np.all(track <= robot.upper)
    epochs = [c.epoch for c in commands]
    assert all(a <= b for a, b in zip(epochs, epochs[1:], strict=False))
    for before, after in zip(events, events[1:], strict=False):
        assert after.previous == before.state and after.epoch >= before.epoch and after.stamp_ns >= before.stamp_ns
        assert any(rule.state == after.state and state == after.previous for (state, _), rule in TABLE.items())
    check_sources(commands, events)


def check_sources(commands, events):
    """Between a takeover and the policy's return every command is the human's or a hold's; chunk ids only with the policy."""
    changes = [(e.stamp_ns, e.state) for e in events]
    for command in commands:
        state = [s for stamp, s in changes if stamp <= command.stamp_ns][-1]
        if state in (S.BLEND_IN, S.HUMAN):
            assert command.source == Source.HUMAN and command.beta > 0.0
        if state in (S.HOLD, S.FAULT):
            assert command.source == Source.HOLD
        if command.chunk_id:
            assert command.source == Source.POLICY and state in (S.AUTONOMOUS, S.BLEND_OUT)
        assert (command.beta > 0.0) == (state in (S.BLEND_IN, S.HUMAN, S.BLEND_OUT))
