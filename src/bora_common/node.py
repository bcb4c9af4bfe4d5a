"""The lifecycle base node: typed parameters, a work gate, first-reason faults, diagnostics, and one tear-down path."""

from __future__ import annotations

import functools
import importlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSDurabilityPolicy, QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from bora_common.errors import BoraError, CodecError, ConfigError
from bora_common.parameters import Parameter, resolve
from bora_common.topics import DIAGNOSTICS, ServiceSpec, TopicSpec
from bora_common.types import StreamId

RESERVED = ('use_sim_time', 'start_type_description_service')
AUTOSTART = Parameter('autostart', True, 'configure and activate without a lifecycle manager')
DROP_LOG_PERIOD = 5.0  # s between log lines about dropped messages of one topic


def interface(type_name: str) -> type:
    """Class of "package/msg/Name" or "package/srv/Name"."""
    package, kind, name = type_name.split('/')
    return getattr(importlib.import_module(f'{package}.{kind}'), name)


def qos(spec: TopicSpec) -> QoSProfile:
    """rclpy profile of a topic's table row."""
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=spec.depth,
        reliability=QoSReliabilityPolicy.RELIABLE if spec.reliable else QoSReliabilityPolicy.BEST_EFFORT,
        durability=QoSDurabilityPolicy.TRANSIENT_LOCAL if spec.transient_local else QoSDurabilityPolicy.VOLATILE,
    )


def _descriptor(parameter: Parameter) -> ParameterDescriptor:
    text = parameter.description + (f' [{parameter.unit}]' if parameter.unit else '')
    if parameter.choices:
        text += f' (one of {", ".join(parameter.choices)})'
    descriptor = ParameterDescriptor(description=text, dynamic_typing=type(parameter.default) in (list, tuple))
    if parameter.low is not None or parameter.high is not None:
        if type(parameter.default) is int:
            low, high = parameter.low or 0, parameter.high if parameter.high is not None else 2**31
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
        elif type(parameter.default) is float:
            low = -1e308 if parameter.low is None else float(parameter.low)
            high = 1e308 if parameter.high is None else float(parameter.high)
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
    return descriptor


class BoraNode(LifecycleNode):
    """Base of every bora node.

    A subclass names its PARAMETERS and overrides `setup` (allocate, check, subscribe; raise BoraError to refuse), `start` (begin
    work), `stop` (end work; also after a failure), `safe_action` (what keeps the robot safe when this node fails) and
    `diagnostic_values`. Callbacks made with `subscribe`, `timer` and `service` run only while the node is active.
    """

    PARAMETERS: Sequence[Parameter] = ()

    def __init__(self, name: str, **kwargs: Any):
        super().__init__(name, **kwargs)
        self.params = SimpleNamespace()
        self.failure: str | None = None
        self.source_id = random.SystemRandom().getrandbits(63) | 1
        self._seq: dict[str, int] = {}
        self._drops: dict[str, int] = {}
        self._drop_logged: dict[str, float] = {}
        self._working = False
        self._given = {n: p.value for n, p in self._parameter_overrides.items() if n not in RESERVED and not n.startswith('qos_overrides')}
        self._diagnostics = self.create_publisher(DiagnosticArray, DIAGNOSTICS.name, qos(DIAGNOSTICS))
        self.steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._publish_diagnostics, clock=self.steady_clock)

    # --- what subclasses override -------------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Allocate and check; raise BoraError to refuse."""

    def start(self) -> None:
        """Begin work."""

    def stop(self) -> None:
        """End work. Called once per activation, also after a failure."""

    def safe_action(self, reason: str) -> None:
        """Leave the robot safe after a failure of this node."""

    def diagnostic_values(self) -> dict[str, object]:
        """Values for /diagnostics."""
        return {}

    def degraded(self) -> str:
        """What keeps this node from its work until it recovers by itself or is cleared; shown as an error on /diagnostics."""
        return ''

    # --- lifecycle ------------------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            everything = [AUTOSTART, *self.PARAMETERS]
            self.params = resolve(self.get_name(), everything, self._given)
            for parameter in everything:
                if not self.has_parameter(parameter.name):
                    value = getattr(self.params, parameter.name)
                    self.declare_parameter(parameter.name, value, _descriptor(parameter), ignore_override=True)
            self.setup()
        except BoraError as error:
            self._fail(str(error))
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.failure = None
        self._working = True
        try:
            self.start()
        except BoraError as error:
            self._working = False
            self._fail(str(error))
            return TransitionCallbackReturn.FAILURE
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_work()
        return super().on_deactivate(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_work()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_work()
        return TransitionCallbackReturn.FAILURE

    def bring_up(self) -> bool:
        """Configure and activate. False when either was refused; the reason is in `failure`."""
        return self.trigger_configure() == TransitionCallbackReturn.SUCCESS and self.trigger_activate() == TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Stop work and destroy the node; safe to call twice."""
        self._stop_work()
        self.destroy_node()

    def _stop_work(self) -> None:
        if self._working:
            self._working = False
            self.stop()

    # --- guarded work -----------------------------------------------------------------------------------------------------------

    def guard(self, callback: Callable, what: str) -> Callable:
        """`callback` behind the work gate: a CodecError drops the message, any other exception stops this node's work."""

        @functools.wraps(callback)
        def guarded(*args: Any) -> Any:
            if not self._working:
                return args[-1] if len(args) == 2 else None  # a service answers with its empty (success: false) response
            try:
                return callback(*args)
            except CodecError as error:
                self.drop(what, str(error))
            except Exception as error:  # whatever it is, the robot must not go on with a broken node
                self.fail(f'{what}: {type(error).__name__}: {error}')
                if not isinstance(error, BoraError):
                    self.get_logger().error(_traceback(error))
            return args[-1] if len(args) == 2 else None

        return guarded

    def drop(self, what: str, reason: str) -> None:
        """Count a dropped message of `what` and log the first and then at most one every few seconds."""
        self._drops[what] = self._drops.get(what, 0) + 1
        now = time.monotonic()
        if now - self._drop_logged.get(what, -1e9) >= DROP_LOG_PERIOD:
            self._drop_logged[what] = now
            self.get_logger().warning(f'{what}: dropped {self._drops[what]} message(s): {reason}')

    def fail(self, reason: str) -> None:
        """Stop this node's work for good; the first reason is kept, published and followed by the safe action."""
        if self.failure is not None:
            return
        self._fail(reason)
        self._stop_work()
        self.safe_action(reason)

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self.get_logger().error(reason)
        self._publish_diagnostics()

    def subscribe(self, spec: TopicSpec, callback: Callable[[Any], None]) -> Any:
        """Subscription to a topic of the table; the callback is guarded."""
        return self.create_subscription(interface(spec.type), spec.name, self.guard(callback, spec.name), qos(spec))

    def advertise(self, spec: TopicSpec) -> Any:
        """Publisher of a topic of the table."""
        return self.create_publisher(interface(spec.type), spec.name, qos(spec))

    def serve(self, spec: ServiceSpec, callback: Callable[[Any, Any], Any]) -> Any:
        """Service of the table; the callback (request, response) -> response is guarded."""
        return self.create_service(interface(spec.type), spec.name, self.guard(callback, spec.name))

    def client(self, spec: ServiceSpec) -> Any:
        """Client of a service of the table."""
        return self.create_client(interface(spec.type), spec.name)

    def timer(self, period: float, callback: Callable[[], None], *, steady: bool = False) -> Any:
        """Guarded timer of `period` s on ROS time, or on the steady clock for watchdogs and deadlines."""
        clock = self.steady_clock if steady else self.get_clock()
        return self.create_timer(period, self.guard(callback, getattr(callback, '__name__', 'timer')), clock=clock)

    def now_ns(self) -> int:
        """ROS time in ns."""
        return self.get_clock().now().nanoseconds

    def next_id(self, stream: str) -> StreamId:
        """Next identity of this node's numbered stream."""
        seq = self._seq.get(stream, 0)
        self._seq[stream] = seq + 1
        return StreamId(self.source_id, seq)

    # --- diagnostics --------------------------------------------------------------------------------------------------------------

    def _publish_diagnostics(self) -> None:
        level, text = DiagnosticStatus.OK, 'working' if self._working else 'not active'
        if self._drops:
            level, text = DiagnosticStatus.WARN, f'dropped messages of {", ".join(sorted(self._drops))}'
        if self.failure is not None:
            level, text = DiagnosticStatus.ERROR, self.failure
        elif self._working and (trouble := self.degraded()):
            level, text = DiagnosticStatus.ERROR, trouble
        values = {**{f'dropped {k}': v for k, v in self._drops.items()}, **(self.diagnostic_values() if self._working else {})}
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = [
            DiagnosticStatus(
                level=level,
                name=self.get_fully_qualified_name(),
                message=text,
                hardware_id='bora',
                values=[KeyValue(key=k, value=str(v)) for k, v in values.items()],
            )
        ]
        self._diagnostics.publish(message)


def _traceback(error: BaseException) -> str:
    import traceback

    return ''.join(traceback.format_exception(error))


def make_executor(context: Any = None) -> Any:
    """The executor with the lowest CPU use that this ROS distribution has."""
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:  # Humble
        from rclpy.executors import SingleThreadedExecutor

        return SingleThreadedExecutor(context=context)
    return EventsExecutor(context=context)


def share_clock(nodes: Sequence[BoraNode]) -> None:
    """Let the nodes of one process follow one subscription of /clock: rclpy makes one a node, and each costs 100 deliveries a second."""
    followers = [n for n in nodes if n.get_parameter('use_sim_time').value]
    for node in followers[1:]:
        node._time_source.detach_node()
        followers[0]._time_source.attach_clock(node.get_clock())


def run(*factories: Callable[[], BoraNode], args: Sequence[str] | None = None) -> int:
    """Run nodes in one process until SIGINT or SIGTERM; the exit code.

    Signals are handled here, not by rclpy, so that `stop` can still publish. A second SIGINT does not break the tear-down.
    """
    stopping: list[int] = []

    def on_signal(number: int, _frame: object) -> None:
        stopping.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    nodes: list[BoraNode] = []
    code = 0
    try:
        executor = make_executor()
        for factory in factories:
            node = factory()
            nodes.append(node)
            executor.add_node(node)
            given = node._given.get('autostart', True)
            if given is True and not node.bring_up():
                print(f'error: {node.failure}', file=sys.stderr, flush=True)
                code = 1
                break
        share_clock(nodes)
        while code == 0 and not stopping:
            executor.spin_once(timeout_sec=0.2)
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr, flush=True)
        code = 1
    finally:
        for node in reversed(nodes):
            node.close()
        rclpy.try_shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def main_of(*factories: Callable[[], BoraNode]) -> Callable[[], None]:
    """Entry point that runs nodes in one process; leaves without the interpreter's tear-down, which can hang in DDS threads."""

    def main() -> None:
        os._exit(run(*factories))

    return main
