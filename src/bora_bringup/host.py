"""`host NAME… [--ros-args …]`: runs the named nodes in one process, looked up in the entry-point group bora.nodes."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any

from bora_bringup.environment import PARENT
from bora_common.errors import ConfigError, nearest

GROUP = 'bora.nodes'
PR_SET_PDEATHSIG = 1


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(node names, ROS arguments from --ros-args on)."""
    arguments = list(arguments)
    at = arguments.index('--ros-args') if '--ros-args' in arguments else len(arguments)
    return arguments[:at], arguments[at:]


def factories(names: Sequence[str]) -> list[Callable[[], Any]]:
    """Constructors of the named nodes; imports their modules. Raises ConfigError for an unknown name."""
    available = {e.name: e for e in entry_points(group=GROUP)}
    if not names:
        raise ConfigError(f'host: name at least one node of {", ".join(sorted(available))}')
    for name in names:
        if name not in available:
            raise ConfigError(f'host: unknown node "{name}", {nearest(name, available)}')
    classes = [available[name].load() for name in names]
    return [lambda cls=cls, name=name: cls(name) for cls, name in zip(classes, names, strict=True)]


def end_with_parent() -> None:
    """Ask the kernel for SIGTERM when the supervisor that started this process is gone, however it ended."""
    parent = os.environ.get(PARENT)
    if not parent or not sys.platform.startswith('linux'):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Entry point. Leaves without the interpreter's tear-down, which can hang in DDS threads."""
    for number in (signal.SIGINT, signal.SIGTERM):  # until the node takes over: nothing is open yet that would need an end
        signal.signal(number, lambda *_: os._exit(0))
    end_with_parent()
    names, ros_arguments = split(sys.argv[1:])
    try:
        made = factories(names)
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr, flush=True)
        os._exit(2)
    from bora_common.node import run

    os._exit(run(*made, args=ros_arguments))


if __name__ == '__main__':
    main()
