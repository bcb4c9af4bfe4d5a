"""Episodes written down by hand, as records and as the messages of a live run."""

import dataclasses

import numpy as np

from bora_common.types import (
    ActionChunk,
    ArbiterState,
    EpisodeEvent,
    EpisodeState,
    ExecutedCommand,
    InterventionEvent,
    JointLayout,
    Outcome,
    Proposal,
    RewardEvent,
    Source,
    StreamId,
    WeightsVersion,
)
from bora_replay.cutter import EpisodeRecord

DT = 1 / 15
TICK_NS = 10_000_000
T0 = 5_000_000_000
VERSION = WeightsVersion('run', 1, 50)
NAMES = ('camera_left', 'cognition')


def at(steps: float) -> int:
    """ROS time of a grid instant."""
    return T0 + round(steps * DT * 1e9)


class Episode:
    """An episode written down by hand: a tick every 10 ms whose position is its own time in s, proposals where the test says."""

    def __init__(self, proposals=(0, 16, 32), k=8, joints=3, name='e-0000', episode_steps=90):
        self.name, self.k, self.joints, self.episode_steps = name, k, joints, episode_steps
        self.layout = JointLayout([f'joint{i}' for i in range(joints)])
        self.proposals = [self.proposal(p, m) for m, p in enumerate(proposals)]
        self.chunks = [self.chunk(p, delay=0.0) for p in self.proposals]
        self.rewards, self.interventions = [], []
        self.betas, self.helds = [], []  # (from, to) in steps
        self.outcome, self.state, self.end = Outcome.TIMEOUT, EpisodeState.ENDED, 40.0
        self.round, self.evaluation, self.missing = 1, False, []
        self.amended = None

    def proposal(self, step, number):
        value = np.full((self.k, self.joints), float(step))
        tokens = np.full((2, 4), float(step), np.float32)
        return Proposal(
            at(step), value, DT, tokens, NAMES, np.full(self.joints, step / 10), 'model', episode=self.name, id=StreamId(7, number),
            observation_id=StreamId(8, number),
        )  # fmt: skip

    def chunk(self, proposal, delay):
        """Its chunk, published `delay` steps after the observation."""
        published = proposal.stamp_ns + round(delay * DT * 1e9)
        return ActionChunk(
            proposal.stamp_ns, published, proposal.positions, proposal.positions, DT, 0.3, VERSION, 'model', episode=self.name,
            observation_id=proposal.observation_id, base_id=proposal.id, id=StreamId(9, proposal.id.seq),
        )  # fmt: skip

    def ends(self, outcome, step):
        self.outcome, self.end = outcome, step
        if outcome == Outcome.SUCCESS:
            self.rewards.append(RewardEvent(at(step), 'success', 1.0))
        return self

    def human(self, begin, end, beta=1.0):
        self.betas.append((at(begin), at(end), beta))
        return self

    def arbiter(self, state, step, previous=ArbiterState.AUTONOMOUS):
        self.interventions.append(InterventionEvent(at(step), state, previous, 0.0, 1, '', id=StreamId(6, len(self.interventions))))
        return self

    def ticks(self):
        values = []
        for n, stamp in enumerate(range(T0 - 20 * TICK_NS, max(at(self.end), T0) + 30 * TICK_NS, TICK_NS)):
            if any(a < stamp <= b for a, b in self.missing):
                continue
            beta = max((v for a, b, v in self.betas if a < stamp <= b), default=0.0)
            held = any(a < stamp <= b for a, b in self.helds)
            position = np.full(self.joints, stamp * 1e-9)
            source = Source.HUMAN if beta else Source.POLICY
            values.append(ExecutedCommand(stamp, position, position, (), source, beta, 1, StreamId(9, 0), 0, held, id=StreamId(5, n)))
        return values

    def event(self, state=None, stamp_ns=None):
        state = self.state if state is None else state
        over = state in (EpisodeState.ENDED, EpisodeState.AMENDED)
        started = T0 - 5_000_000 if over or state == EpisodeState.RUNNING else 0
        before = {EpisodeState.RESETTING: T0 - 2 * 10**9, EpisodeState.READY: T0 - 10**8, EpisodeState.RUNNING: started}
        stamp = before.get(state, at(self.end))
        return EpisodeEvent(
            stamp if stamp_ns is None else stamp_ns, self.name, 'task', 'do it', 'robot', self.round, self.evaluation, 3, state,
            self.outcome if over else Outcome.NONE, started_ns=started, rewards=tuple(self.rewards) if over else (),
            id=StreamId(4, int(state)),
        )  # fmt: skip

    def record(self):
        event = self.event()
        return EpisodeRecord(
            event, event.stamp_ns, self.ticks(), self.proposals, self.chunks, self.interventions, self.episode_steps, DT,
            {p.stamp_ns: f'ref{p.stamp_ns}' for p in self.proposals},
        )  # fmt: skip

    def messages(self, name, offset_ns):
        """All values in the order of a live run: (topic, value, now_ns), shifted in time."""
        messages = [(s, 'episode', self.event(EpisodeState(n))) for n, s in enumerate((T0 - 2 * 10**9, T0 - 10**8, T0 - 5_000_000))]
        messages += [(t.stamp_ns, 'executed', t) for t in self.ticks()]
        messages += [(p.stamp_ns + 8_000_000, 'base_chunk', p) for p in self.proposals]
        messages += [(c.published_ns + 9_000_000, 'chunk', c) for c in self.chunks]
        messages += [(i.stamp_ns, 'intervention', i) for i in self.interventions]
        messages += [(at(self.end) + 2_000_000, 'episode', self.event())]
        salt = abs(offset_ns) // 1000 % 1_000_003 + 11
        out = []
        for now, topic, value in sorted(messages, key=lambda m: m[0]):
            fields = {'stamp_ns': value.stamp_ns + offset_ns, 'id': StreamId(value.id.source * 2_000_003 + salt, value.id.seq)}
            if topic in ('episode', 'base_chunk', 'chunk'):
                fields['episode'] = name
            if topic == 'chunk':
                fields |= {'published_ns': value.published_ns + offset_ns, 'base_id': StreamId(7 * 2_000_003 + salt, value.base_id.seq)}
            if topic == 'episode':
                fields['started_ns'] = value.started_ns + offset_ns if value.started_ns else 0
                fields['rewards'] = tuple(dataclasses.replace(r, stamp_ns=r.stamp_ns + offset_ns) for r in value.rewards)
            out.append((topic, dataclasses.replace(value, **fields), now + offset_ns))
        return out
