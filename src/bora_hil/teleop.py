"""A pad's axes and buttons as joint targets. Pure: one call for each joy message, time is an argument.

Axes drive synergies (weighted sets of joints) as velocities, integrated from the last sent command. Joints of the part that is not
driven are not named at all: while a person moves the arm, the hand keeps what it had, and the other way round; while nobody is
engaged nothing is named, so the policy moves both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bora_common.errors import CodecError, ConfigError, nearest
from bora_common.robot import RobotSpec
from bora_common.types import HumanInput

ACTIONS = ('success', 'failure', 'abort', 'hold', 'resume', 'scene')
MAX_STEP = 0.05  # s integrated for one message at most
KEYS = ('device', 'deadman', 'mode', 'deadzone', 'leash', 'buttons', 'modes')
AXIS_KEYS = ('axis', 'rest', 'joints')


@dataclass(frozen=True)
class AxisMap:
    """One axis: at full deflection from `rest` it moves the layout's joints at `rates` [D] rad/s."""

    axis: int
    rest: float
    rates: np.ndarray

    def deflection(self, axes: np.ndarray) -> float:
        """−1 … 1, 0 at rest; a trigger that rests at 1 goes to −1."""
        return float(axes[self.axis] - self.rest) / (1.0 + abs(self.rest))


@dataclass(frozen=True)
class ModeMap:
    """What the axes mean in one mode ("arm", "hand"); `driven` are the layout indices of the joints named in it."""

    name: str
    axes: tuple[AxisMap, ...]
    driven: np.ndarray


@dataclass(frozen=True)
class DeviceMap:
    """A device: its buttons by index and its modes, the first of which is the initial one."""

    device: str
    deadman: int
    mode: int
    deadzone: float
    leash: float  # rad between a target and the last sent command
    buttons: Mapping[str, int]
    modes: tuple[ModeMap, ...]


@dataclass(frozen=True)
class TeleopOutput:
    """What one joy message means: a message for the arbiter (none where the device must count as silent) and buttons pressed."""

    human: HumanInput | None
    pressed: tuple[str, ...] = ()


class Teleop:
    """State of one device between its messages."""

    def __init__(self, robot: RobotSpec, device: DeviceMap, timeout: float = 0.15):
        """A gap of more than `timeout` s between messages needs the deadman to be let go and pressed again."""
        self.robot = robot
        self.device = device
        self.mode = 0
        self.engaged = False
        self._timeout = timeout
        self._target: np.ndarray | None = None  # [D] rad while engaged
        self._buttons: tuple[bool, ...] | None = None  # of the last message
        self._last_ns: int | None = None
        self._lost = True  # until the deadman is seen up

    @property
    def mode_name(self) -> str:
        return self.device.modes[self.mode].name

    def update(self, axes: Sequence[float], buttons: Sequence[int], now_ns: int, sent: np.ndarray | None) -> TeleopOutput:
        """Take one joy message. `sent` [D] rad is the last sent command, None where none is known: nobody can engage then."""
        axes, down = self._checked(axes, buttons)
        elapsed = 0.0 if self._last_ns is None else (now_ns - self._last_ns) * 1e-9
        before = down if self._buttons is None else self._buttons
        self._buttons, self._last_ns = down, now_ns
        pressed = tuple(name for name, i in self.device.buttons.items() if down[i] and not before[i])
        deadman = down[self.device.deadman]
        if elapsed > self._timeout or elapsed < 0.0:
            self._lost = self._lost or self.engaged
            self.engaged = False
        if not deadman:
            self._lost = self.engaged = False
        elif self._lost:
            return TeleopOutput(None, pressed)  # heard again, but nobody has pressed again: stay silent, the arbiter holds
        toggled = down[self.device.mode] and not before[self.device.mode]
        if toggled:
            self.mode = (self.mode + 1) % len(self.device.modes)
        starting = deadman and not self.engaged and not before[self.device.deadman]
        if sent is None:
            self.engaged = False
        elif starting:
            self.engaged = True
        if not self.engaged:
            return TeleopOutput(HumanInput(now_ns, np.zeros(0, np.intp), np.zeros(0), False, self.device.device), pressed)
        if starting or toggled or self._target is None:
            self._target = np.array(sent, dtype=np.float64)
        return TeleopOutput(self._drive(axes, min(elapsed, MAX_STEP), now_ns, sent), pressed)

    def _drive(self, axes: np.ndarray, elapsed: float, now_ns: int, sent: np.ndarray) -> HumanInput:
        mode = self.device.modes[self.mode]
        target = self._target
        for axis in mode.axes:
            target = target + self._deflection(axis.deflection(axes)) * elapsed * axis.rates
        target = np.clip(target, sent - self.device.leash, sent + self.device.leash)  # no wind-up against a limit or a hold
        self._target = np.clip(target, self.robot.lower, self.robot.upper)
        return HumanInput(now_ns, mode.driven, self._target[mode.driven], True, self.device.device)

    def _deflection(self, value: float) -> float:
        """Zero inside the dead zone and continuous outside of it."""
        zone = self.device.deadzone
        return 0.0 if abs(value) <= zone else float(np.sign(value) * (abs(value) - zone) / (1.0 - zone))

    def _checked(self, axes: Sequence[float], buttons: Sequence[int]) -> tuple[np.ndarray, tuple[bool, ...]]:
        values = np.asarray(axes, dtype=np.float64)
        most = max(a.axis for m in self.device.modes for a in m.axes)
        if len(values) <= most:
            raise CodecError(f'joy: {len(values)} axes, but device "{self.device.device}" maps axis {most}')
        if not np.all(np.isfinite(values)):
            raise CodecError(f'joy: axis {int(np.argmin(np.isfinite(values)))} is not finite')
        most = max(self.device.deadman, self.device.mode, *self.device.buttons.values())
        if len(buttons) <= most:
            raise CodecError(f'joy: {len(buttons)} buttons, but device "{self.device.device}" maps button {most}')
        return values, tuple(bool(b) for b in buttons)


# --- the mapping file -------------------------------------------------------------------------------------------------------------


def load_device(path: str | Path, robot: RobotSpec) -> DeviceMap:
    """Mapping of a device from a YAML file. Raises ConfigError naming file and key."""
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f'teleop: file {path} does not exist') from None
    except yaml.YAMLError as error:
        raise ConfigError(f'teleop: file {path} is not YAML: {error}') from None
    body = _mapping(data, path, 'the file', KEYS, required=KEYS)
    buttons = _mapping(body['buttons'], path, 'buttons', ACTIONS)
    modes = _mapping(body['modes'], path, 'modes')
    if not modes or not buttons:
        raise ConfigError(f'{path}: "modes" and "buttons" must not be empty')
    return DeviceMap(
        device=str(body['device']),
        deadman=_index(body['deadman'], path, 'deadman'),
        mode=_index(body['mode'], path, 'mode'),
        deadzone=_number(body['deadzone'], path, 'deadzone', 0.0, 0.9),
        leash=_number(body['leash'], path, 'leash', 1e-3, 1.0),
        buttons={name: _index(i, path, f'buttons.{name}') for name, i in buttons.items()},
        modes=tuple(_mode(str(name), axes, robot, path) for name, axes in modes.items()),
    )


def _mode(name: str, entries: Any, robot: RobotSpec, path: Path) -> ModeMap:
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f'{path}: modes.{name} must be a list of axes')
    axes = []
    for entry in entries:
        body = _mapping(entry, path, f'modes.{name}', AXIS_KEYS, required=('axis', 'joints'))
        rates = np.zeros(len(robot.layout))
        for joint, rate in _mapping(body['joints'], path, f'modes.{name}.joints', robot.layout.names).items():
            i = robot.layout.names.index(joint)
            rates[i] = _number(rate, path, f'modes.{name}.{joint}', -robot.velocity[i], robot.velocity[i])
        rest = _number(body.get('rest', 0.0), path, f'modes.{name}.rest', -1.0, 1.0)
        axes.append(AxisMap(_index(body['axis'], path, f'modes.{name}.axis'), rest, rates))
    return ModeMap(name, tuple(axes), np.flatnonzero(np.any([a.rates != 0.0 for a in axes], axis=0)))


def _mapping(value: Any, path: Path, where: str, valid: Sequence[str] = (), required: Sequence[str] = ()) -> dict:
    if not isinstance(value, dict):
        raise ConfigError(f'{path}: {where} must be a mapping')
    unknown = [k for k in value if valid and k not in valid]
    if unknown:
        raise ConfigError(f'{path}: {where}: unknown "{unknown[0]}", {nearest(str(unknown[0]), valid)}')
    missing = [k for k in required if k not in value]
    if missing:
        raise ConfigError(f'{path}: {where}: "{missing[0]}" is missing')
    return value


def _index(value: Any, path: Path, where: str) -> int:
    if type(value) is not int or not 0 <= value < 64:
        raise ConfigError(f'{path}: {where} must be an index from 0 to 63, got {value!r}')
    return value


def _number(value: Any, path: Path, where: str, low: float, high: float) -> float:
    if type(value) not in (int, float) or not low <= value <= high:
        raise ConfigError(f'{path}: {where} must be a number from {low:g} to {high:g}, got {value!r}')
    return float(value)
