"""Random values of every type and the codec that carries them, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from bora_common import codec, types
from bora_common.types import JointLayout

LAYOUT = JointLayout(['arm_1', 'arm_2', 'finger_1'])
D = len(LAYOUT)
CAMERAS = ('left', 'front', 'right')

_text = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, blacklist_categories=('Cs',)), max_size=12)
_ns = st.integers(0, 2**31 * 10**9 - 1)
_u32 = st.integers(0, 2**32 - 1)
_share = st.floats(0.0, 1.0)
_ids = st.builds(types.StreamId, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
_versions = st.builds(types.WeightsVersion, _text, _u32, _u32)
_seeds = st.integers(0, 2**32 - 1)
_rewards = st.builds(types.RewardEvent, _ns, _text, st.floats(-2.0, 2.0))


def _random(draw: Callable) -> np.random.Generator:
    return np.random.default_rng(draw(_seeds))


@st.composite
def observations(draw):
    rng, side = _random(draw), draw(st.integers(1, 9))
    images = rng.integers(0, 256, (len(CAMERAS), side, side + 1, 3), dtype=np.uint8)
    return types.Observation(
        draw(_ns), images, CAMERAS, rng.normal(size=D), draw(_text), draw(_text), draw(st.floats(0, 1)), draw(_ids)
    )  # fmt: skip


@st.composite
def proposals(draw):
    rng, k = _random(draw), draw(st.integers(1, 40))
    names = tuple(f'token_{i}' for i in range(draw(st.integers(1, 5))))
    tokens = rng.normal(size=(len(names), draw(st.integers(1, 9)))).astype(np.float32)
    return types.Proposal(
        draw(_ns), rng.normal(size=(k, D)), draw(st.floats(0.01, 1.0)), tokens, names, rng.normal(size=D), draw(_text),
        draw(_u32), draw(_text), draw(_ids), draw(_ids),
    )  # fmt: skip


@st.composite
def chunks(draw):
    rng, k = _random(draw), draw(st.integers(1, 40))
    return types.ActionChunk(
        draw(_ns), draw(_ns), rng.normal(size=(k, D)), rng.normal(size=(k, D)), draw(st.floats(0.01, 1.0)), draw(_share),
        draw(_versions), draw(_text), draw(_u32), draw(_text), draw(_ids), draw(_ids), draw(_ids),
    )  # fmt: skip


@st.composite
def scored(draw):
    rng, k = _random(draw), draw(st.integers(1, 40))
    return types.ScoredChunk(draw(_ns), draw(_ids), rng.normal(size=k), rng.normal(size=k), draw(st.floats(0, 9)), draw(_share), draw(_ids))


@st.composite
def humans(draw):
    rng, n = _random(draw), draw(st.integers(0, D))
    return types.HumanInput(draw(_ns), rng.permutation(D)[:n], rng.normal(size=n), draw(st.booleans()), draw(_text), draw(_ids))


@st.composite
def commands(draw):
    rng = _random(draw)
    return types.JointCommand(
        draw(_ns), rng.normal(size=D), draw(st.sampled_from(types.Source)), draw(_share), draw(_u32), draw(_ids),
        draw(st.integers(-1, 1000)), draw(_ids),
    )  # fmt: skip


@st.composite
def executed(draw):
    rng = _random(draw)
    return types.ExecutedCommand(
        draw(_ns), rng.normal(size=D), rng.normal(size=D), tuple(draw(st.lists(_text, max_size=3))),
        draw(st.sampled_from(types.Source)), draw(_share), draw(_u32), draw(_ids), draw(st.integers(-1, 1000)),
        draw(st.booleans()), draw(_text), draw(_ids), draw(_ids),
    )  # fmt: skip


@st.composite
def transitions(draw):
    rng, k, shape = _random(draw), draw(st.integers(1, 40)), (draw(st.integers(1, 4)), draw(st.integers(1, 9)))
    tokens, next_tokens = (rng.normal(size=shape).astype(np.float16).astype(np.float32) for _ in range(2))
    names = tuple(f'token_{i}' for i in range(shape[0]))
    done, mask, human = (rng.random(k) < 0.5 for _ in range(3))
    return types.Transition(
        draw(st.integers(0, 2**64 - 1)), draw(_ns), draw(_text), draw(_u32), draw(_text), draw(_text), tokens, names,
        rng.normal(size=D), rng.normal(size=(k, D)), rng.normal(size=(k, D)), rng.normal(size=k).astype(np.float32),
        done, mask, human, rng.random(k).astype(np.float32), draw(st.booleans()), draw(st.integers(0, k)), next_tokens,
        rng.normal(size=D), draw(st.booleans()), draw(st.floats(0.01, 1.0)), draw(_text), draw(_versions), draw(_share), draw(_text),
    )  # fmt: skip


_episodes = st.builds(
    types.EpisodeEvent, _ns, _text, _text, _text, _text, _u32, st.booleans(), st.integers(-1, 2**63 - 1),
    st.sampled_from(types.EpisodeState), st.sampled_from(types.Outcome), _text, _ns, st.lists(_rewards, max_size=4).map(tuple), _ids,
)  # fmt: skip
_states = st.sampled_from(types.ArbiterState)


@dataclass(frozen=True)
class Case:
    """One message: how to draw its value and carry it there and back."""

    topic: str
    values: st.SearchStrategy
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def _case(topic: str, values: st.SearchStrategy, stem: str, layout: bool) -> Case:
    encode, decode = getattr(codec, f'encode_{stem}'), getattr(codec, f'decode_{stem}')
    if not layout:
        return Case(topic, values, encode, decode)
    return Case(topic, values, lambda value: encode(value, LAYOUT), lambda msg: decode(msg, LAYOUT))


CASES = (
    _case('observation', observations(), 'observation', True),
    _case('base_chunk', proposals(), 'proposal', True),
    _case('chunk', chunks(), 'chunk', True),
    _case('value', scored(), 'scored', False),
    _case('human_command', humans(), 'human', True),
    _case('command', commands(), 'command', True),
    _case('executed', executed(), 'executed', True),
    _case('robot_state', st.builds(types.RobotMode, _ns, st.sampled_from(types.Mode), _text, _ids), 'robot_mode', False),
    _case(
        'intervention',
        st.builds(types.InterventionEvent, _ns, _states, _states, _share, _u32, _text, _text, _ids),
        'intervention',
        False,
    ),
    _case('episode', _episodes, 'episode', False),
    _case('replay', transitions(), 'transition', True),
    _case(
        'weights',
        st.builds(types.WeightsPackage, _versions, _share, _text, st.binary(min_size=1, max_size=64), _text, _ns, _ids),
        'weights',
        False,
    ),
    _case('weights_status', st.builds(types.WeightsStatus, _ns, _versions, st.booleans(), _text, _versions, _ids), 'weights_status', False),
)
