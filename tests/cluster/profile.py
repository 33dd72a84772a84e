"""clipctl's profile of the emulated cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from .plan import Plan
from .settings import CLUSTER_NAME

Values = Mapping[str, object]


def profile(plan: Plan, root: Path) -> dict[str, object]:
    """Patience in seconds, for tests; node names do not resolve here, so ranks meet at a node's address."""
    return {
        "scheduler": "slurm",
        "cluster_name": CLUSTER_NAME,
        "gpus_per_node": plan.gpus,
        "root": str(root),
        "master_addr": "node_address",
        "env": {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        "slurm": {"partition": "booster", "time": "01:00:00", "cpus_per_task": 6},
        "limits": {
            "lost_after": 6,
            "unanswered_for": 6,
            "claim_wait": 60,
            "rank_grace": 5,
            "poll_every": 0.5,
            "query_timeout": 10,
            "submit_timeout": 60,
        },
    }


def merged(values: Values, changes: Values) -> dict[str, object]:
    """Mappings are merged, everything else is replaced."""
    result = dict(values)
    for key, change in changes.items():
        old = result.get(key)
        result[key] = merged(old, change) if isinstance(old, Mapping) and isinstance(change, Mapping) else change
    return result


def yaml(values: Values, indent: str = "") -> Iterator[str]:
    """Lines; every value in JSON's form, which is YAML too."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}:"
            yield from yaml(value, indent + "  ")
        else:
            yield f"{indent}{key}: {json.dumps(value)}"
