"""What makes an attempt end with ExitCode.REFUSED."""

from __future__ import annotations


class Unusable(Exception):
    """What the attempt was given (parent, ranks, data) cannot be used; a restart would not help. One line."""
