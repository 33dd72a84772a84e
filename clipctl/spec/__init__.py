"""Typed specs, patches and profiles. Imports pydantic and a YAML reader: for commands that must be instant, import it late."""

from clipctl.presets import cluster_names, preset_names
from clipctl.spec.checks import missing_data
from clipctl.spec.cluster import Cluster, load_cluster
from clipctl.spec.patch import Patch
from clipctl.spec.resolve import diff, patched, resolve
from clipctl.spec.run import Resources, RunSpec
from clipctl.spec.stored import spec_from_json, spec_to_json, upgrade

__all__ = [
    "Cluster",
    "Patch",
    "Resources",
    "RunSpec",
    "cluster_names",
    "diff",
    "load_cluster",
    "missing_data",
    "patched",
    "preset_names",
    "resolve",
    "spec_from_json",
    "spec_to_json",
    "upgrade",
]
