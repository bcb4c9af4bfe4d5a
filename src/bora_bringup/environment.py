"""Environment of every process of the graph: DDS over shared memory, allocator thresholds, one thread a maths library."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from bora_common.paths import share

PARENT = 'BORA_PARENT_PID'  # a `host` started with it ends when that process is gone


def variables(base: Mapping[str, str]) -> dict[str, str]:
    """What is set on top of `base`, the caller's own environment."""
    profile = str(share() / 'config' / 'fastdds.xml')
    prefixes = [p for p in base.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    if sys.prefix not in prefixes and sys.prefix != sys.base_prefix:
        prefixes.append(sys.prefix)
    result = {
        'FASTRTPS_DEFAULT_PROFILES_FILE': base.get('FASTRTPS_DEFAULT_PROFILES_FILE', profile),
        'MALLOC_MMAP_THRESHOLD_': '134217728',
        'MALLOC_TRIM_THRESHOLD_': '536870912',
        'MUJOCO_GL': base.get('MUJOCO_GL', 'egl'),
        'OMP_NUM_THREADS': base.get('OMP_NUM_THREADS', '1'),
        'OPENBLAS_NUM_THREADS': base.get('OPENBLAS_NUM_THREADS', '1'),
        'RMW_IMPLEMENTATION': base.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp'),
        'PYTHONUNBUFFERED': '1',
    }
    if prefixes:
        result['AMENT_PREFIX_PATH'] = os.pathsep.join(prefixes)
    return result


# With a discovery range set the middleware adds UDP transports to the shared-memory profile again.
REMOVED = ('ROS_AUTOMATIC_DISCOVERY_RANGE',)


def of(base: Mapping[str, str]) -> dict[str, str]:
    """Whole environment of a child process."""
    return {**{k: v for k, v in base.items() if k not in REMOVED}, **variables(base)}


def apply() -> None:
    """Set it in this process. Has an effect on ROS only before rclpy is imported."""
    for name in REMOVED:
        os.environ.pop(name, None)
    os.environ.update(variables(os.environ))
