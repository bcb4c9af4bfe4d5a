"""Typed parameters with unit, range and description, free of ROS."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from bora_common.errors import ConfigError, nearest


@dataclass(frozen=True)
class Parameter:
    """One parameter of a node. The type is the default's: bool, int, float, str or a list of str or float."""

    name: str
    default: Any
    description: str
    unit: str = ''
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def check(self, node: str, value: Any) -> Any:
        """The value, converted from int to float where that is meant. Raises ConfigError naming node and parameter."""
        kind = type(self.default)
        where = f'{node}: parameter "{self.name}"'
        if kind is float and type(value) is int:
            value = float(value)
        if kind in (list, tuple):
            value = list(value)
        elif type(value) is not kind:
            raise ConfigError(f'{where}: expected {kind.__name__}, got {value!r}')
        numbers = [value] if kind in (int, float) else [v for v in value if type(v) is float] if kind in (list, tuple) else []
        for number in numbers:
            low = -math.inf if self.low is None else self.low
            high = math.inf if self.high is None else self.high
            if not (low <= number <= high) or not math.isfinite(number):
                raise ConfigError(f'{where}: {value!r} is outside [{low:g}, {high:g}] {self.unit}'.rstrip())
        if self.choices and value not in self.choices:
            raise ConfigError(f'{where}: "{value}" is not valid, {nearest(str(value), self.choices)}')
        return value


def resolve(node: str, parameters: Iterable[Parameter], given: Mapping[str, Any]) -> SimpleNamespace:
    """Values of all parameters as attributes. Raises ConfigError for an unknown name, with the nearest valid one."""
    specs = {p.name: p for p in parameters}
    for name in given:
        if name not in specs:
            raise ConfigError(f'{node}: unknown parameter "{name}", {nearest(name, specs)}')
    return SimpleNamespace(**{n: s.check(node, given.get(n, s.default)) for n, s in specs.items()})
