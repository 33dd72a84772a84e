"""A real Slurm on this machine: slurmctld, munged, a slurmd for each node, on request slurmdbd and MariaDB.

For tests (`Cluster.up`) and for people (`python -m tests.cluster --help`). Needs Slurm's programs and a bare Python.
"""

from .cluster import Cluster
from .daemons import ClusterError, missing_programs

__all__ = ["Cluster", "ClusterError", "missing_programs"]
