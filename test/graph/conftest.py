"""Real DDS between real processes: a domain of the run's own, processes with deadlines, and nothing left in /dev/shm.

`graph` starts nodes as the supervisor does and talks to them from this process:

    robot = graph.start('simulated_robot', parameters={'simulated_robot': {'seed': 1}})
    joints = graph.record(topics.JOINT_STATES)
    graph.wait(lambda: len(joints) > 10, 'joint states')

Every wait has a deadline, which allows for discovery; nothing sleeps.
"""

from __future__ import annotations

import gc
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from bora_bringup import environment, shared_memory

environment.apply()  # before any participant exists in this process
os.environ['ROS_DOMAIN_ID'] = str(random.SystemRandom().randint(1, 100))

import rclpy  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402

from bora_common.node import interface, qos  # noqa: E402
from bora_common.topics import ServiceSpec, TopicSpec  # noqa: E402

DISCOVERY = 60.0  # s; usually half a second, but a busy machine may starve a process or miss an announcement
HOST = 'from bora_bringup.host import main; main()'


_seen: set[Path] = set()  # shared-memory files that processes of this run have used


def pytest_sessionfinish() -> None:
    """Remove what this run leaves in /dev/shm, except what other processes use."""
    living = shared_memory.used_by(int(n) for n in os.listdir('/proc') if n.isdigit() and int(n) != os.getpid())
    for path in (_seen | _port_files()) - living:
        path.unlink(missing_ok=True)


def _remember(pid: int) -> None:
    used = shared_memory.used_by([pid])
    _seen.update(used, (path.with_name(f'{path.name}_el') for path in used))


def _port_files() -> set[Path]:
    """Shared-memory files of this domain's ports, which outlive their processes and belong to none."""
    first = 7400 + 250 * int(os.environ['ROS_DOMAIN_ID'])
    found = ((path, re.search(r'_port(\d+)', path.name)) for path in shared_memory.FOLDER.iterdir())
    return {path for path, port in found if port and first <= int(port[1]) < first + 250}


class Process:
    """One process of nodes."""

    def __init__(self, names: tuple[str, ...], parameters: Mapping[str, Mapping[str, Any]], namespace: str, folder: Path):
        self.names, self.log = names, folder / f'{"-".join(names)}-{time.monotonic_ns()}.log'
        file = self.log.with_suffix('.yaml')
        file.write_text(yaml.safe_dump({f'{namespace}/{n}': {'ros__parameters': dict(parameters.get(n, {}))} for n in names}))
        arguments = ['--ros-args', '--params-file', str(file), '-r', f'__ns:={namespace}']
        self._output = self.log.open('wb')
        self.process = subprocess.Popen(
            [sys.executable, '-c', HOST, *names, *arguments],
            env=environment.of(os.environ), stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def output(self) -> str:
        return self.log.read_text(errors='replace')

    def wait(self, timeout: float = DISCOVERY) -> int:
        """Exit code, within a deadline."""
        return self.process.wait(timeout)

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        _remember(self.process.pid)
        self.process.kill()
        self.process.wait(5.0)

    def stop(self) -> int:
        """TERM, TERM, KILL; the exit code. Removes what the process left in /dev/shm."""
        _remember(self.process.pid)
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if not self.running:
                break
            self.process.send_signal(number)
            try:
                self.process.wait(4.0)
            except subprocess.TimeoutExpired:
                continue
        self._output.close()
        return self.process.wait(1.0)


class Graph:
    """The processes of a test, and a node of this process to talk to them."""

    def __init__(self, folder: Path, namespace: str):
        self.folder, self.namespace = folder, namespace
        self.processes: list[Process] = []
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node('test_client', namespace=namespace, context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def start(self, *names: str, parameters: Mapping[str, Mapping[str, Any]] | None = None) -> Process:
        """Start nodes in one process, as the supervisor does."""
        process = Process(names, parameters or {}, self.namespace, self.folder)
        self.processes.append(process)
        return process

    def record(self, spec: TopicSpec, depth: int | None = None) -> list[Any]:
        """List that fills with every message of a topic."""
        messages: list[Any] = []
        spec = spec if depth is None else replace(spec, depth=depth)
        self.node.create_subscription(interface(spec.type), spec.name, messages.append, qos(spec))
        return messages

    def on(self, spec: TopicSpec, callback: Callable[[Any], None]) -> None:
        """Call back on every message of a topic."""
        self.node.create_subscription(interface(spec.type), spec.name, callback, qos(spec))

    def publisher(self, spec: TopicSpec) -> Any:
        return self.node.create_publisher(interface(spec.type), spec.name, qos(spec))

    def wait(self, condition: Callable[[], Any], what: str, timeout: float = DISCOVERY) -> Any:
        """Spin until the condition is true; its value. Fails at the deadline, or when a process ends meanwhile."""
        deadline = time.monotonic() + timeout
        alive = [p for p in self.processes if p.running]
        while not (value := condition()):
            ended = [p for p in alive if not p.running]
            if time.monotonic() > deadline or ended:
                reason = f'{ended[0].names} ended' if ended else f'not within {timeout:g} s'
                pytest.fail(f'{what}: {reason}\n' + '\n'.join(f'--- {p.names}\n{p.output}' for p in self.processes))
            self.executor.spin_once(timeout_sec=0.05)
        return value

    def wait_matched(self, publisher: Any, readers: int = 1) -> None:
        self.wait(lambda: publisher.get_subscription_count() >= readers, f'readers of {publisher.topic_name}')

    def request(self, spec: ServiceSpec) -> Any:
        """An empty request of a service."""
        return interface(spec.type).Request()

    def call(self, spec: ServiceSpec, request: Any | None = None, timeout: float = DISCOVERY) -> Any:
        """Answer of a service."""
        client = self.node.create_client(interface(spec.type), spec.name)
        self.wait(client.service_is_ready, f'service {spec.name}', timeout)
        future = client.call_async(request or self.request(spec))
        self.wait(future.done, f'answer of {spec.name}', timeout)
        self.node.destroy_client(client)
        return future.result()

    def close(self) -> None:
        _remember(os.getpid())
        for process in reversed(self.processes):
            process.stop()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)
        self.context.destroy()
        gc.collect()  # the participant goes with the last reference to it
        shared_memory.remove_unused(_seen)


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    """A fresh graph in a namespace of its own."""
    made = Graph(tmp_path, f'/test_{time.monotonic_ns() % 1_000_000}')
    yield made
    made.close()
