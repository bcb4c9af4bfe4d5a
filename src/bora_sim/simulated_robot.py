"""The simulated robot as its network sees it: control ticks, camera frames on their own grid, two trajectory controllers, a record.

Free of ROS. Time is counted in physics steps from the start and never goes back, whatever happens to the scene.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bora_common.errors import ConfigError
from bora_common.kinematics import JOINTS
from bora_common.robot import RobotSpec
from bora_sim.controller import JointTrajectoryController
from bora_sim.world import SimWorld

PHYSICS_RATE = 300  # Hz
STEPS_PER_TICK = 3  # control at 100 Hz


def step_ns(step: int) -> int:
    """Time of a physics step in ns, rounded once, so that no error adds up."""
    return round(step * 1_000_000_000 / PHYSICS_RATE)


@dataclass(frozen=True)
class Frame:
    """The cameras' images at one instant."""

    stamp_ns: int
    images: Mapping[str, np.ndarray]  # uint8 [H, W, 3] by camera


class Record:
    """Every set of joint targets that the controllers took over: what the robot was really told, independent of any log."""

    def __init__(self, names: Sequence[str], start: np.ndarray):
        self.names = tuple(names)
        self._latest = np.array(start, dtype=np.float64)
        self._times = np.empty(4096, np.int64)
        self._rows = np.empty((4096, len(self.names)))
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def add(self, stamp_ns: int, indices: np.ndarray, positions: np.ndarray) -> None:
        """Targets of some joints; the others keep theirs. Those of one instant make one row."""
        self._latest[indices] = positions
        if self._n == 0 or self._times[self._n - 1] != stamp_ns:
            if self._n == len(self._times):
                self._times = np.concatenate([self._times, np.empty_like(self._times)])
                self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
            self._n += 1
        self._times[self._n - 1] = stamp_ns
        self._rows[self._n - 1] = self._latest

    def write(self, path: Path) -> None:
        """`t_ns` [n], `positions` [n, D] and `joint_names` [D] as .npz, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + '.tmp')
        with temporary.open('wb') as file:
            np.savez(file, t_ns=self._times[: self._n], positions=self._rows[: self._n], joint_names=np.array(self.names))
        os.replace(temporary, path)


class SimulatedRobot:
    """Physics and controllers in control ticks of 10 ms; a frame falls on each multiple of the camera period, also within a tick."""

    def __init__(self, robot: RobotSpec, task: str, seed: int, camera_rate: float, width: int, height: int, objects: str = 'standard'):
        steps = PHYSICS_RATE / camera_rate
        if abs(steps - round(steps)) > 1e-9:
            raise ConfigError(f'camera_rate {camera_rate:g} Hz does not divide the physics rate {PHYSICS_RATE} Hz')
        if tuple(JOINTS) != robot.layout.names:
            raise ConfigError(f'robot {robot.name}: joints {list(robot.layout.names)} are not the simulated ones, {list(JOINTS)}')
        self.robot, self.width, self.height = robot, width, height
        self._camera_steps = round(steps)
        self.world = SimWorld(task, seed, objects)
        self._step = 0
        start = self.world.qpos
        self.targets = start.copy()
        self.controllers = {}
        self._indices = {}
        for group in robot.groups:
            where = robot.layout.indices(group.joints, f'controller {group.controller}')
            self._indices[group.controller] = where
            self.controllers[group.controller] = JointTrajectoryController(group.controller, group.joints, start[where])
        self.record = Record(robot.layout.names, start)

    @property
    def now_ns(self) -> int:
        """Time of the last tick."""
        return step_ns(self._step)

    def tick(self) -> Frame | None:
        """Advance one control tick; the frame that fell into it, if one did."""
        frame, end, due = None, self._step + STEPS_PER_TICK, self._next_frame()
        for name, controller in self.controllers.items():
            self.targets[self._indices[name]] = controller.update(step_ns(end))
        if due <= end:
            self._advance(due - self._step)
            frame = Frame(step_ns(due), self.world.render(self.width, self.height, self.robot.cameras))
        self._advance(end - self._step)
        return frame

    def _next_frame(self) -> int:
        return (self._step // self._camera_steps + 1) * self._camera_steps

    def _advance(self, steps: int) -> None:
        if steps:
            self.world.step_physics(self.targets, steps)
            self._step += steps

    def receive(
        self,
        controller: str,
        joints: Sequence[str],
        points: Sequence[tuple[np.ndarray, np.ndarray | None, int]],
        stamp_ns: int = 0,
    ) -> str:
        """A trajectory for a controller: points (positions, velocities, time from start in ns). Empty when taken, else why not."""
        reason = self.controllers[controller].receive(joints, points, self.now_ns, stamp_ns)
        if not reason:
            order = [list(joints).index(j) for j in self.controllers[controller].joints]
            self.record.add(self.now_ns, self._indices[controller], np.asarray(points[-1][0])[order])
        return reason

    def reset_scene(self, seed: int) -> None:
        """Place the task's objects anew. The robot stays where it is and keeps its targets."""
        at = self.world.qpos
        self.world.reset(seed)
        self.world.teleport(at)
