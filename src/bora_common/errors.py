"""Named errors: each message says what was wrong, where, and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BoraError(Exception):
    """Base of every error that bora raises on purpose."""


class ConfigError(BoraError):
    """A parameter, file or robot description is unusable; the node that meets it refuses to configure."""


class CodecError(BoraError):
    """A message's content is not what its topic promises; the receiver drops the message and counts it."""


class NotFiniteError(CodecError):
    """A message holds NaN or infinity; told apart because the hardware latches a fault on it."""


class ModelError(BoraError):
    """A model directory or weights file is missing, damaged or made for another robot."""


class LogError(BoraError):
    """A step log can't be read or written."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Text that names the valid alternative nearest to `name`, for the end of an error message."""
    options = sorted(valid)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.4)
    return f'did you mean "{close[0]}"?' if close else f'valid: {", ".join(options)}'
