"""From a scheduler's name to its backend: here a new scheduler is made known."""

from __future__ import annotations

from clipctl.backends import Backend
from clipctl.domain import Limits


def backend_for(scheduler: str, limits: Limits) -> Backend:
    """Imports only the one that is asked for: `status` pays for no other."""
    if scheduler == "slurm":
        from clipctl.backends.slurm import SlurmBackend

        return SlurmBackend(limits)
    from clipctl.backends.local import LocalBackend

    return LocalBackend()
