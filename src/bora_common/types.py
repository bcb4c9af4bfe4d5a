"""Value types that pass between bora's cores. Immutable, in SI units, free of ROS.

Shapes: k chunk steps, D actuated joints, P proprioception (= D), T tokens of width W, C cameras.
Times: `*_ns` are integer nanoseconds of ROS time; `dt` is in seconds.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bora_common.errors import CodecError, ConfigError

SIGMA_FLOOR = 0.05  # rad; a joint that never moved in the data can still be moved (method, section 2)


@dataclass(frozen=True, order=True)
class StreamId:
    """Identity of one message: `source` is random per start of the publisher, `seq` counts from 0."""

    source: int = 0
    seq: int = 0

    def __bool__(self) -> bool:
        return self.source != 0


@dataclass(frozen=True)
class WeightsVersion:
    """Version of a residual; an empty `run` means that no weights were ever accepted."""

    run: str = ''
    round: int = 0
    update: int = 0

    def __str__(self) -> str:
        return f'{self.run}/r{self.round}/u{self.update}' if self.run else 'zero'


class Source(enum.IntEnum):
    """Who a command came from; equals Command.SOURCE_*."""

    HOLD = 0
    POLICY = 1
    HUMAN = 2
    RESET = 3


class Mode(enum.IntEnum):
    """Mode of the hardware node; equals RobotState.MODE_*."""

    HOLD = 0
    RUN = 1
    FAULT = 2


class ArbiterState(enum.IntEnum):
    """State of the arbiter's table; equals Intervention.STATE_*."""

    RESET = 0
    HOLD = 1
    AUTONOMOUS = 2
    BLEND_IN = 3
    HUMAN = 4
    BLEND_OUT = 5
    FAULT = 6


class EpisodeState(enum.IntEnum):
    """State of an episode; equals Episode.STATE_*."""

    RESETTING = 0
    READY = 1
    RUNNING = 2
    ENDED = 3
    AMENDED = 4


class Outcome(enum.IntEnum):
    """How an episode ended; equals Episode.OUTCOME_*. Only SUCCESS and FAILURE are terminal in the sense of the returns."""

    NONE = 0
    SUCCESS = 1
    FAILURE = 2
    TIMEOUT = 3
    ABORTED = 4

    @property
    def terminal(self) -> bool:
        return self in (Outcome.SUCCESS, Outcome.FAILURE)


class JointLayout:
    """Ordered joint names; maps named values of any order onto the layout's order."""

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self._index = {name: i for i, name in enumerate(self.names)}
        if len(self._index) != len(self.names) or not self.names:
            raise ConfigError(f'joint layout: names must be unique and not empty, got {list(names)}')

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JointLayout) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f'JointLayout({list(self.names)})'

    def indices(self, names: Iterable[str], what: str) -> np.ndarray:
        """Positions in this layout of `names`. Raises CodecError naming `what` for an unknown or repeated name."""
        names = list(names)
        unknown = [n for n in names if n not in self._index]
        if unknown:
            raise CodecError(f'{what}: unknown joint "{unknown[0]}", expected {list(self.names)}')
        if len(set(names)) != len(names):
            raise CodecError(f'{what}: joint named twice in {names}')
        return np.array([self._index[n] for n in names], dtype=np.intp)

    def reorder(self, names: Sequence[str], values: np.ndarray, what: str) -> np.ndarray:
        """Values [..., len(names)] in the layout's order [..., D]; extra joints are ignored.

        Raises CodecError naming `what` when a joint is missing or repeated, sizes differ or a value is not finite.
        """
        values = np.asarray(values, dtype=np.float64)
        if values.ndim == 0 or values.shape[-1] != len(names):
            raise CodecError(f'{what}: {len(names)} joint names but values of shape {values.shape}')
        where = {name: i for i, name in enumerate(names)}
        if len(where) != len(names):
            raise CodecError(f'{what}: joint named twice in {list(names)}')
        missing = [n for n in self.names if n not in where]
        if missing:
            raise CodecError(f'{what}: joint "{missing[0]}" is missing, expected {list(self.names)}')
        out = values[..., [where[n] for n in self.names]]
        if not np.all(np.isfinite(out)):
            raise CodecError(f'{what}: position of a joint is not finite')
        return out


@dataclass(frozen=True)
class Normalizer:
    """Per-joint z-score between SI targets A [.., D] and normalised a [.., D] (method, section 2)."""

    mean: np.ndarray
    std: np.ndarray

    @staticmethod
    def fit(positions: np.ndarray) -> Normalizer:
        """From joint positions [N, D] in rad."""
        flat = np.asarray(positions, dtype=np.float64).reshape(-1, np.shape(positions)[-1])
        return Normalizer(flat.mean(0), np.maximum(flat.std(0), SIGMA_FLOOR))

    def __post_init__(self) -> None:
        object.__setattr__(self, 'mean', np.asarray(self.mean, dtype=np.float64))
        object.__setattr__(self, 'std', np.asarray(self.std, dtype=np.float64))
        if self.mean.shape != self.std.shape or self.mean.ndim != 1:
            raise ConfigError(f'normaliser: mean {self.mean.shape} and std {self.std.shape} must be one vector each')
        if not (np.all(np.isfinite(self.mean)) and np.all(self.std >= SIGMA_FLOOR - 1e-9)):
            raise ConfigError(f'normaliser: mean must be finite and std at least {SIGMA_FLOOR} rad')

    def normalize(self, positions: np.ndarray) -> np.ndarray:
        return (np.asarray(positions) - self.mean) / self.std

    def denormalize(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(values) * self.std + self.mean


@dataclass(frozen=True)
class Observation:
    """One time-aligned observation at the model's size."""

    stamp_ns: int  # the oldest image's
    images: np.ndarray  # uint8 [C, H, W, 3]
    camera_names: tuple[str, ...]
    proprio: np.ndarray  # [P] rad, layout order
    instruction: str
    episode: str = ''
    skew: float = 0.0  # s
    id: StreamId = StreamId()


@dataclass(frozen=True)
class Proposal:
    """The frozen VLA's chunk and tokens (message BaseChunk)."""

    stamp_ns: int  # the observation's
    positions: np.ndarray  # [k, D] rad; step i is due at stamp + (i + 1) dt
    dt: float
    tokens: np.ndarray  # float32 [T, W]
    token_names: tuple[str, ...]
    proprio: np.ndarray  # [P] rad
    model_id: str
    epoch: int = 0
    episode: str = ''
    observation_id: StreamId = StreamId()
    id: StreamId = StreamId()


@dataclass(frozen=True)
class ActionChunk:
    """A corrected chunk (message Chunk)."""

    stamp_ns: int  # the observation's
    published_ns: int
    base: np.ndarray  # [k, D] rad, A_vla through the frozen residual chain
    positions: np.ndarray  # [k, D] rad, A_final
    dt: float
    alpha: float
    version: WeightsVersion
    model_id: str
    epoch: int = 0
    episode: str = ''
    observation_id: StreamId = StreamId()
    base_id: StreamId = StreamId()
    id: StreamId = StreamId()

    def due_ns(self, step: int) -> int:
        """ROS time at which step `step` is due."""
        return self.stamp_ns + round((step + 1) * self.dt * 1e9)


@dataclass(frozen=True)
class HumanInput:
    """A person's joint targets (message HumanCommand); `indices` are the driven joints of the layout."""

    stamp_ns: int
    indices: np.ndarray  # [n] into the layout
    positions: np.ndarray  # [n] rad
    engaged: bool
    device: str = ''
    id: StreamId = StreamId()


@dataclass(frozen=True)
class JointCommand:
    """What the arbiter decided for one control tick (message Command)."""

    stamp_ns: int
    positions: np.ndarray  # [D] rad
    source: Source
    beta: float = 0.0
    epoch: int = 0
    chunk_id: StreamId = StreamId()
    step: int = -1
    id: StreamId = StreamId()


@dataclass(frozen=True)
class ExecutedCommand:
    """What the hardware node sent after its safety filter (message Executed)."""

    stamp_ns: int
    positions: np.ndarray  # [D] rad, sent
    requested: np.ndarray  # [D] rad
    limits: tuple[str, ...]
    source: Source
    beta: float
    epoch: int
    chunk_id: StreamId
    step: int
    held: bool = False
    hold_reason: str = ''
    command_id: StreamId = StreamId()
    id: StreamId = StreamId()


HOLD_SERVICE = 'hold service'  # RobotMode.reason of a hold that a person asked for; lasts until `resume`
RESUME_SERVICE = 'resume service'  # RobotMode.reason of the RUN that `resume` announces, also when nothing was held


@dataclass(frozen=True)
class RobotMode:
    """State of the hardware node (message RobotState)."""

    stamp_ns: int
    mode: Mode
    reason: str = ''
    id: StreamId = StreamId()

    @property
    def held_by_person(self) -> bool:
        """True for a hold that does not end by itself (a lack of commands does)."""
        return self.mode == Mode.HOLD and self.reason.startswith(HOLD_SERVICE)

    @property
    def resumed(self) -> bool:
        """True when a person asked to go on."""
        return self.mode == Mode.RUN and self.reason.startswith(RESUME_SERVICE)


@dataclass(frozen=True)
class InterventionEvent:
    """One transition of the arbiter's table (message Intervention)."""

    stamp_ns: int
    state: ArbiterState
    previous: ArbiterState
    beta: float
    epoch: int
    reason: str
    device: str = ''
    id: StreamId = StreamId()


@dataclass(frozen=True)
class RewardEvent:
    """A reward that belongs to an instant; the cutter attaches it to the step that covers the instant."""

    stamp_ns: int
    name: str  # "success", "failure", "intervention", "recovery"
    value: float


@dataclass(frozen=True)
class EpisodeEvent:
    """One event of an episode (message Episode)."""

    stamp_ns: int
    episode: str
    task: str
    instruction: str
    robot: str
    round: int
    evaluation: bool
    seed: int
    state: EpisodeState
    outcome: Outcome = Outcome.NONE
    reason: str = ''
    started_ns: int = 0
    rewards: tuple[RewardEvent, ...] = ()
    id: StreamId = StreamId()


@dataclass(frozen=True)
class ScoredChunk:
    """The critic's score of a chunk (message Value)."""

    stamp_ns: int
    chunk_id: StreamId
    q: np.ndarray  # [k]
    v: np.ndarray  # [k]
    spread: float
    risk: float
    id: StreamId = StreamId()


@dataclass(frozen=True)
class Step:
    """One step of the log: what the robot did in (t0 + index dt, t0 + (index + 1) dt]."""

    index: int
    stamp_ns: int  # t0 + (index + 1) dt, end of the step
    executed: np.ndarray  # [D] rad, last sent at or before stamp_ns
    intended: np.ndarray  # [D] rad, the label where a demonstrator's command was disturbed; else equal to executed
    source: Source
    beta: float  # largest of the step
    human: bool  # beta > 0 at any tick
    held: bool  # the hardware held at any tick
    limits: tuple[str, ...] = ()
    chunk_id: StreamId = StreamId()


@dataclass(frozen=True)
class Transition:
    """One proposal and what was executed in its place (architecture, "Log steps, cut transitions")."""

    seq: int
    stamp_ns: int
    episode: str
    round: int
    task: str
    robot: str
    tokens: np.ndarray  # z float32 [T, W]
    token_names: tuple[str, ...]
    proprio: np.ndarray  # s [P]
    vla: np.ndarray  # A_vla [k, D]
    executed: np.ndarray  # A_exec [k, D]; beyond the mask the last valid step is repeated
    reward: np.ndarray  # float32 [k]
    done: np.ndarray  # bool [k]
    mask: np.ndarray  # bool [k]
    human: np.ndarray  # bool [k]
    beta: np.ndarray  # float32 [k]
    truncated: bool
    first: int
    next_tokens: np.ndarray  # z' [T, W]
    next_proprio: np.ndarray  # s' [P]
    success: bool  # of the episode
    dt: float
    model_id: str
    version: WeightsVersion = WeightsVersion()
    alpha: float = 0.0
    image_ref: str = ''

    @property
    def n(self) -> int:
        """Number of valid steps."""
        return int(self.mask.sum())


@dataclass(frozen=True)
class WeightsPackage:
    """A residual chain on the wire (message Weights)."""

    version: WeightsVersion
    alpha: float
    model_id: str
    data: bytes
    sha256: str
    stamp_ns: int = 0
    id: StreamId = StreamId()


@dataclass(frozen=True)
class WeightsStatus:
    """The residual actor's answer to a weights package (message WeightsStatus)."""

    stamp_ns: int
    version: WeightsVersion  # the weights spoken of
    accepted: bool
    reason: str
    active: WeightsVersion  # what the residual actor uses now
    id: StreamId = StreamId()


@dataclass
class StreamMonitor:
    """Detects restarts, gaps and repeats of a numbered stream."""

    source: int = 0
    next_seq: int = 0
    lost: int = 0
    repeated: int = 0
    restarts: int = field(default=0)

    def accept(self, stream_id: StreamId) -> bool:
        """True when the message is new; counts gaps (`lost`), repeats and restarts of the publisher."""
        if stream_id.source != self.source:
            self.restarts += self.source != 0
            self.source, self.next_seq = stream_id.source, stream_id.seq + 1
            return True
        if stream_id.seq < self.next_seq:
            self.repeated += 1
            return False
        self.lost += stream_id.seq - self.next_seq
        self.next_seq = stream_id.seq + 1
        return True
