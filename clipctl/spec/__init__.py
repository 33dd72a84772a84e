"""Typed specs, patches and profiles. Imports pydantic and a YAML reader: instant commands import it late or never."""

from __future__ import annotations

from clipctl.presets import cluster_names, preset_names
from clipctl.spec.checks import missing_data
from clipctl.spec.cluster import Cluster, cluster_of, load_cluster
from clipctl.spec.defaults import default_cluster
from clipctl.spec.patch import Patch
from clipctl.spec.resolve import diff, patch_of, patched, resolve, settled
from clipctl.spec.run import Resources, RunSpec
from clipctl.spec.stored import spec_from_json, spec_to_json, upgrade

__all__ = [
    "Cluster",
    "Patch",
    "Resources",
    "RunSpec",
    "cluster_names",
    "cluster_of",
    "default_cluster",
    "diff",
    "load_cluster",
    "missing_data",
    "patch_of",
    "patched",
    "preset_names",
    "resolve",
    "settled",
    "spec_from_json",
    "spec_to_json",
    "upgrade",
]
