"""An emulated cluster: the real Slurm, with as many nodes as you like, on this machine's loopback.

`python -m tests.cluster up --nodes 98` for people, `Cluster.up(folder)` for tests.
"""

from __future__ import annotations

from tests.cluster.cluster import Cluster, Missing

__all__ = ["Cluster", "Missing"]
