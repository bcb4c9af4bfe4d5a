"""Figures of the running graph: the processes of `bora up`, the simulated robot at the pace of the real clock, time-outs of the real robot.

- `startup_s`: from the first process to the last node that says it works.
- `observation_latency_ms`: first image of a set -> the observation made of it, both as this client hears them.
- `chunk_latency_ms`: that observation -> the corrected chunk.
- `command_rate_hz`: trajectories at the arm controller's topic, in windows of one second. `command_interval_ms`: between two of them.
- `takeover_ms`: `joy` message with the deadman down sent -> first command with beta > 0 at the arm controller's topic.
- `hold_ms`: last command heard before the process that decides is stopped -> first command of the hold.
- `trainer_updates_per_s`: of the trainer while the rest of the graph runs.
- `control_cpu_cores`: hardware node, teleop, arbiter and episode keeper together. `memory_mb`: resident, per process.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from timing import emit

from bora_bringup import environment, shared_memory
from bora_bringup.demo import free_domain
from bora_bringup.graph import online, parse_arguments
from bora_bringup.session import Session
from bora_bringup.summary import percentiles
from bora_bringup.supervisor import Supervisor
from bora_common import topics
from bora_common.codec import stamp_to_ns
from bora_common.errors import BoraError
from bora_common.robot import load_robot
from bora_common.types import ArbiterState, EpisodeState

ARM_CONTROLLER = 'fr3_arm_controller'
ARM = replace(topics.joint_trajectory(ARM_CONTROLLER), depth=100)
EXECUTED = replace(topics.EXECUTED, transient_local=False, depth=100)
CONTROL = ('hardware', 'operator')
DEADMAN, BUTTONS = 5, 12  # of config/teleop/xbox.yaml
REST = [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
TUNING = {  # as on the robot, where the simulation's own tuning is more patient
    'hardware': {'command_timeout': 0.08},
    'simulated_robot': {'lockstep_timeout': 0.05},
    'arbiter': {'device_timeout': 0.15},
    'trainer': {'planned_updates': 1_000_000, 'start_episodes': 1},
}
START_TIMEOUT = 180.0
EPISODES, EPISODE_TIMEOUT = 3, 90.0  # without a person; s
TRAINING = 12.0  # s of measurement
TAKEOVERS, TAKEOVER_TIME = 60, 100.0  # as many, at most so long in s
ROUND_OVER = 6.0  # s without an episode after which the trainer no longer waits for data
HOLDS = 15


class BenchError(BoraError):
    """What was measured is not what the figure means."""


class Bench:
    """The running graph and a client of it."""

    def __init__(self, run_dir: Path):
        arguments = parse_arguments([f'run_dir={run_dir}', 'operator=joystick', 'realtime_factor=1'])
        self.graph = online(arguments, TUNING)
        robot = load_robot(self.graph.node('hardware').parameters['robot_config'])
        self.arm_joints = next(g.joints for g in robot.groups if g.controller == ARM_CONTROLLER)
        self.supervisor = Supervisor(self.graph, report=lambda line: print(line, file=sys.stderr))
        self.begin = time.monotonic()
        self.supervisor.start()
        self.session = Session(self.graph.namespace_of(self.graph.nodes[0]), self.supervisor.check)
        names = [f'{self.graph.namespace_of(n)}/{n.name}' for n in self.graph.nodes if not n.external]
        self.session.wait_until_working(names, START_TIMEOUT)
        self.startup = time.monotonic() - self.begin

    @contextmanager
    def listening(self, handlers: dict[topics.TopicSpec, Callable[[Any], None]]) -> Iterator[None]:
        """Subscriptions for a while."""
        from bora_common.node import interface, qos

        node = self.session.node
        made = [node.create_subscription(interface(s.type), s.name, handler, qos(s)) for s, handler in handlers.items()]
        try:
            yield
        finally:
            for subscription in made:
                node.destroy_subscription(subscription)

    def pump(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.session.pump(0.02)

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time of each process so far."""
        ticks = os.sysconf('SC_CLK_TCK')
        fields = {n: Path(f'/proc/{p}/stat').read_text().rsplit(')', 1)[1].split() for n, p in self.supervisor.pids.items()}
        return {n: (int(f[11]) + int(f[12])) / ticks for n, f in fields.items()}

    def memory(self) -> dict[str, float]:
        """Resident MB of each process."""
        pages = {n: int(Path(f'/proc/{p}/statm').read_text().split()[1]) for n, p in self.supervisor.pids.items()}
        return {n: round(v * os.sysconf('SC_PAGE_SIZE') / 1e6, 1) for n, v in pages.items()}

    def close(self) -> None:
        self.session.close()
        self.supervisor.stop()


# --- the policy alone ----------------------------------------------------------------------------------------------------------------


def policy_alone(bench: Bench) -> dict[str, object]:
    """Latencies from image to chunk, rate of commands, processor time, over episodes in which nobody takes over."""
    images: dict[int, int] = {}
    observations: dict[int, int] = {}
    chunks: dict[int, int] = {}
    commands: list[int] = []

    def note(into: dict[int, int]) -> Callable[[Any], None]:
        return lambda m: into.setdefault(stamp_to_ns(m.header.stamp), time.monotonic_ns())

    handlers = {topics.camera_image(c): note(images) for c in topics.CAMERAS}
    handlers |= {topics.OBSERVATION: note(observations), topics.CHUNK: note(chunks)}
    handlers[ARM] = lambda m: commands.append(time.monotonic_ns())
    with bench.listening(handlers):
        bench.pump(2.0)
        for seen in (images, observations, chunks, commands):
            seen.clear()
        before, begin = bench.cpu_seconds(), time.monotonic()
        for seed in range(EPISODES):
            bench.session.run_episode(0, True, seed, EPISODE_TIMEOUT)
        cpu, seconds = bench.cpu_seconds(), time.monotonic() - begin
    cores = {n: round((cpu[n] - before[n]) / seconds, 3) for n in cpu if n in before}
    return {
        'observation_latency_ms': percentiles(between(images, observations)),
        'chunk_latency_ms': percentiles(between(observations, chunks)),
        'command_rate_hz': percentiles(rates(commands)),
        'command_interval_ms': percentiles(np.diff(commands) / 1e6),
        'control_cpu_cores': round(sum(cores[n] for n in CONTROL), 3),
        'cpu_cores': cores,
    }


def between(first: dict[int, int], second: dict[int, int]) -> list[float]:
    """ms between two messages of the same stamp."""
    return [(at - first[stamp]) / 1e6 for stamp, at in second.items() if stamp in first]


def rates(arrivals: list[int]) -> list[float]:
    """Arrivals in each whole window of one second."""
    windows = (np.asarray(arrivals) - arrivals[0]) // 10**9
    return np.bincount(windows)[:-1].astype(float).tolist()


# --- takeovers ------------------------------------------------------------------------------------------------------------------------


class Pad:
    """A pad that repeats its state at 100 Hz and whose deadman is pressed at moments that follow no clock."""

    def __init__(self, bench: Bench):
        from bora_common.node import interface, qos

        self._bench, self._rng = bench, random.Random(0)
        self._message = interface(topics.JOY.type)
        self._out = bench.session.node.create_publisher(self._message, topics.JOY.name, qos(topics.JOY))
        self._timer = bench.session.node.create_timer(0.01, self._repeat)
        self._down, self._until, self._noted = False, 0.0, 0
        self._arrivals: deque[tuple[int, tuple[float, ...]]] = deque(maxlen=400)  # of trajectories
        self._pressed_ns = 0
        self._human: tuple[int, tuple[float, ...]] | None = None
        self.latencies: list[float] = []
        self.missed = 0

    def on_trajectory(self, message: Any) -> None:
        self._arrivals.append((time.monotonic_ns(), tuple(message.points[0].positions)))

    def on_executed(self, message: Any) -> None:
        if self._down and self._human is None and message.beta > 0:
            at = dict(zip(message.joint_names, message.positions, strict=True))
            self._human = (time.monotonic_ns(), tuple(at[j] for j in self._bench.arm_joints))

    def _send(self) -> None:
        buttons = [0] * BUTTONS
        buttons[DEADMAN] = int(self._down)
        self._out.publish(self._message(axes=REST, buttons=buttons))

    def _repeat(self) -> None:
        now, follower = time.monotonic(), self._bench.session.follower
        events, running = follower.interventions, follower.states.get(follower.current) == EpisodeState.RUNNING
        if self._down and now >= self._until:
            self._down = False
            self._conclude()
        elif not self._down and running and events and events[-1].state == ArbiterState.AUTONOMOUS:
            if len(events) != self._noted:
                self._noted, self._until = len(events), now + self._rng.uniform(0.3, 0.6)
            elif now >= self._until:
                time.sleep(self._rng.uniform(0.0, 0.01))  # not in step with the timer
                self._down, self._until, self._human = True, time.monotonic() + 0.15, None
                self._pressed_ns = time.monotonic_ns()
        self._send()

    def _conclude(self) -> None:
        """The record says which command was the first; the trajectory with its positions, nearest in time, is that command."""
        found = [abs(t - self._human[0]) for t, p in self._arrivals if p == self._human[1]] if self._human else []
        if not found:
            self.missed += 1
            return
        at = next(t for t, p in self._arrivals if p == self._human[1] and abs(t - self._human[0]) == min(found))
        self.latencies.append((at - self._pressed_ns) / 1e6)

    def close(self) -> None:
        self._bench.session.node.destroy_timer(self._timer)


def takeovers(bench: Bench) -> dict[str, object]:
    """Episodes in which a person takes over again and again."""
    pad, begin, seed = Pad(bench), time.monotonic(), 0
    with bench.listening({ARM: pad.on_trajectory, EXECUTED: pad.on_executed}):
        while len(pad.latencies) < TAKEOVERS and time.monotonic() - begin < TAKEOVER_TIME:
            bench.session.run_episode(0, False, seed, EPISODE_TIMEOUT)
            seed += 1
    pad.close()
    return {'takeover_ms': {**percentiles(pad.latencies), 'missed': pad.missed}}


# --- training, and silence ------------------------------------------------------------------------------------------------------------


def training(bench: Bench) -> dict[str, object]:
    """Updates a second of wall time, by the trainer's own count, while it has something to do all the time."""
    marks: list[tuple[float, Any]] = []
    with bench.listening({topics.TRAINING: lambda m: marks.append((time.monotonic(), m))}):
        bench.pump(ROUND_OVER)
        bench.session.wait(lambda: marks and marks[-1][1].state == marks[-1][1].STATE_TRAINING, 120.0, lambda: 'the trainer to train')
        marks.clear()
        bench.pump(TRAINING)
    if any(m.state != m.STATE_TRAINING for _, m in marks):
        raise BenchError('the trainer waited for data while it was measured')
    (begin, first), (end, last) = marks[0], marks[-1]
    return {'trainer_updates_per_s': round((last.update - first.update) / (end - begin), 2)}


def silence(bench: Bench) -> dict[str, object]:
    """The process that decides is stopped, and goes on."""
    last, held, stopped = 0, [], False

    def on_command(_: Any) -> None:
        nonlocal last
        last = time.monotonic_ns()

    def on_executed(message: Any) -> None:
        nonlocal stopped
        if stopped and message.held:
            held.append((time.monotonic_ns() - last) / 1e6)
            stopped = False

    pid, rng = bench.supervisor.pids['operator'], random.Random(0)
    with bench.listening({topics.COMMAND: on_command, EXECUTED: on_executed}):
        bench.pump(1.0)
        for _ in range(HOLDS):
            bench.pump(rng.uniform(0.3, 0.5))
            stopped = True
            os.kill(pid, signal.SIGSTOP)
            try:
                bench.pump(0.3)
            finally:
                os.kill(pid, signal.SIGCONT)
            stopped = False
    return {'hold_ms': percentiles(held)}


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the graph, too
    environment.apply()
    os.environ['ROS_DOMAIN_ID'] = str(free_domain(shared_memory.FOLDER, random.SystemRandom()))
    bench = Bench(Path(sys.argv[1]))
    try:
        figures = {'startup_s': round(bench.startup, 2), **policy_alone(bench), **takeovers(bench)}
        figures |= {**training(bench), 'memory_mb': bench.memory(), **silence(bench)}
    finally:
        bench.close()
    emit(figures)
    sys.stdout.flush()
    os._exit(0)  # threads of DDS can turn the interpreter's tear-down into a crash


if __name__ == '__main__':
    main()
