"""The simulated robot in its workplace: physics, cameras and the truth about the task, for one process and one task."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import mujoco
import numpy as np

from bora_common.errors import ConfigError, nearest
from bora_common.kinematics import JOINTS, PALM, fr3_hand12
from bora_sim import rendering
from bora_sim.conditions import DEPLOYMENT, NOMINAL, Conditions
from bora_sim.mjcf import TIMESTEP
from bora_sim.tasks import Instance, Outcome, Task, make_task

CAMERAS = ('left', 'front', 'right')
OBJECTS = ('standard', 'unseen', 'deployment')  # object sets; `deployment`: the standard ones under other conditions
CONTROL_TICKS = 3  # physics steps of a control period, 100 Hz
STEP_TICKS = 20  # physics steps of an episode step, 1/15 s
STATE = mujoco.mjtState.mjSTATE_INTEGRATION


@dataclass(frozen=True)
class WorldState:
    """Everything needed to go on from a moment; of one scene (task and instance)."""

    scene: str
    physics: np.ndarray
    outcome: Outcome
    ticks: int
    commanded: np.ndarray  # [19] rad, last targets given
    pending: tuple[tuple[int, np.ndarray], ...] = ()  # targets that are on their way: (ticks when they arrive, [19] rad)


@lru_cache(maxsize=32)
def _compile(task_name: str, instance_name: str, conditions: Conditions) -> mujoco.MjModel:
    task = make_task(task_name)
    instance = next(i for i in (*task.standard, *task.unseen) if i.name == instance_name)
    model = mujoco.MjModel.from_xml_string(task.xml(instance))
    conditions.apply(model, CAMERAS)
    return model


class SimWorld:
    """A robot, a table and a task's objects. Joint order is the layout's everywhere; joint targets act through the actuators only.

    `objects` names the set; `conditions` (those of the set unless given) are how this workplace differs from the nominal one, and
    `joint_offset` [19] (rad) replaces their calibration error: encoders read `true - offset` and targets are taken as `target + offset`.
    """

    def __init__(
        self, task: str | Task, seed: int = 0, objects: str = 'standard', joint_offset: np.ndarray | None = None,
        conditions: Conditions | None = None,
    ):  # fmt: skip
        self.task = make_task(task) if isinstance(task, str) else task
        if objects not in OBJECTS:
            raise ConfigError(f'objects "{objects}" is not valid, {nearest(objects, OBJECTS)}')
        self.objects = objects
        conditions = conditions or (DEPLOYMENT if objects == 'deployment' else NOMINAL)
        self.conditions = conditions if joint_offset is None else replace(conditions, joint_offset=tuple(map(float, joint_offset)))
        self.joint_offset = np.array(self.conditions.joint_offset)
        self.nonfinite_targets = 0
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """A new scene: instance, object pose and start pose all follow from `seed`. The robot stands at its start pose."""
        rng = np.random.default_rng(seed)
        self.seed = seed
        instances: tuple[Instance, ...] = self.task.unseen if self.objects == 'unseen' else self.task.standard
        self.instance = instances[int(rng.integers(len(instances)))]
        self.model = _compile(self.task.name, self.instance.name, self.conditions)
        self.data = mujoco.MjData(self.model)
        self._qpos_at = np.array([self.model.joint(j).qposadr[0] for j in JOINTS])
        self._qvel_at = np.array([self.model.joint(j).dofadr[0] for j in JOINTS])
        self._ctrl_at = np.array([self.model.actuator(j).id for j in JOINTS])
        at = self.task.place(self.model, self.data, self.instance, rng)
        self.start = self.task.sample_start(rng, self.instance, at)
        self.outcome = Outcome()
        self.ticks = 0
        self.teleport(self.start)

    def teleport(self, positions: np.ndarray) -> None:
        """Put the robot at `positions` [19] at rest, with the targets there too (only for resets and tests)."""
        true = np.asarray(positions) + self.joint_offset
        self.data.qpos[self._qpos_at] = true
        self.data.qvel[self._qvel_at] = 0.0
        self.data.ctrl[self._ctrl_at] = true
        self._commanded, self._pending = np.array(positions, dtype=np.float64), deque()
        mujoco.mj_forward(self.model, self.data)
        self.task.judge(self.model, self.data, self.instance, self.outcome, 0.0)

    def step_physics(self, targets: np.ndarray, n: int = 3) -> None:
        """Advance `n` physics steps of 1/300 s under joint position targets [19] (rad).

        A target that isn't finite leaves its joint's last one in force, as a drive does, and is counted.
        """
        targets = np.asarray(targets, dtype=np.float64)
        if targets.shape != (len(JOINTS),):
            raise ConfigError(f'joint targets have shape {targets.shape}, expected ({len(JOINTS)},)')
        good = np.isfinite(targets)
        self.nonfinite_targets += int(np.count_nonzero(~good))
        self._commanded = np.where(good, targets, self._commanded)
        self._pending.append((self.ticks + self.conditions.latency, self._commanded))
        end = self.ticks + n
        while self.ticks < end:
            while self._pending and self._pending[0][0] <= self.ticks:
                self.data.ctrl[self._ctrl_at] = self._pending.popleft()[1] + self.joint_offset
            until = min(end, self._pending[0][0]) if self._pending else end
            mujoco.mj_step(self.model, self.data, until - self.ticks)
            self.ticks = until
        self.task.act(self.model, self.data, self.instance)
        self.task.judge(self.model, self.data, self.instance, self.outcome, n * TIMESTEP)

    def step_towards(self, previous: np.ndarray, command: np.ndarray) -> None:
        """Advance one step of 1/15 s while the targets go linearly from `previous` to `command` [19], renewed at 100 Hz."""
        done = 0
        while done < STEP_TICKS:
            n = min(CONTROL_TICKS - self.ticks % CONTROL_TICKS, STEP_TICKS - done)
            done += n
            self.step_physics(previous + (command - previous) * (done / STEP_TICKS), n)

    @property
    def time(self) -> float:
        """Seconds since the reset."""
        return self.ticks * TIMESTEP

    @property
    def qpos(self) -> np.ndarray:
        """Joint positions [19] as the encoders read them, rad."""
        return self.data.qpos[self._qpos_at] - self.joint_offset

    @property
    def qvel(self) -> np.ndarray:
        """Joint velocities [19], rad/s."""
        return self.data.qvel[self._qvel_at].copy()

    @property
    def effort(self) -> np.ndarray:
        """Actuator torques [19], N m."""
        return self.data.actuator_force[self._ctrl_at].copy()

    @property
    def targets(self) -> np.ndarray:
        """Joint position targets [19] that were given last, rad."""
        return self._commanded.copy()

    @property
    def success(self) -> bool:
        return self.outcome.success

    @property
    def failure(self) -> bool:
        return self.outcome.failure

    @property
    def task_values(self) -> dict[str, float]:
        """The task's truth: what a person at the scene would see. Never an input of a policy.

        `gap_x`, `gap_y`, `gap_z` (m): from where the encoders put the palm to where it is, as a person sees who looks at the hand.
        """
        gap = np.zeros(3)
        if self.joint_offset.any():
            gap = self.data.body(PALM).xpos - fr3_hand12().pose(self.qpos, PALM)[:3, 3]
        return self.outcome.values | dict(zip(('gap_x', 'gap_y', 'gap_z'), gap.tolist(), strict=True))

    def render(self, width: int = 160, height: int = 120, cameras: Sequence[str] = CAMERAS) -> dict[str, np.ndarray]:
        """uint8 [height,width,3] by camera name."""
        return dict(zip(cameras, rendering.render(self.model, self.data, tuple(cameras), width, height), strict=True))

    def get_state(self) -> WorldState:
        """The whole state, to go back to it or to go on from it in another world of the same scene."""
        physics = np.empty(mujoco.mj_stateSize(self.model, STATE))
        mujoco.mj_getState(self.model, self.data, physics, STATE)
        return WorldState(self._scene, physics, self.outcome.copy(), self.ticks, self._commanded.copy(), tuple(self._pending))

    def set_state(self, state: WorldState) -> None:
        """Go to a state of this scene."""
        if state.scene != self._scene:
            raise ConfigError(f'state of scene {state.scene} does not fit scene {self._scene}')
        mujoco.mj_setState(self.model, self.data, state.physics, STATE)
        mujoco.mj_forward(self.model, self.data)
        self.outcome, self.ticks = state.outcome.copy(), state.ticks
        self._commanded, self._pending = state.commanded.copy(), deque(state.pending)

    @property
    def _scene(self) -> str:
        return f'{self.task.name}/{self.instance.name}'
