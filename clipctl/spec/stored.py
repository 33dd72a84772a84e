"""run.json: a RunSpec as it was launched, readable by later versions."""

from __future__ import annotations

import json
from typing import Any

from clipctl import __version__
from clipctl.errors import Damaged, InvalidSpec
from clipctl.spec.patch import Tree, nested
from clipctl.spec.run import RunSpec
from clipctl.spec.validation import validated, without_unknown

SCHEMA = 1


def spec_to_json(spec: RunSpec) -> str:
    document = {"schema": SCHEMA, "clipctl": __version__, "spec": spec.model_dump(mode="json")}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def spec_from_json(text: str) -> RunSpec:
    """Keys that this version does not know are left out. Damaged: it is no run.json; InvalidSpec: a newer schema."""
    try:
        document = json.loads(text)
        schema, spec = document["schema"], document["spec"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Damaged(f"run.json cannot be read: {error}") from None
    try:
        return validated(without_unknown(nested(upgrade(spec, schema))))
    except InvalidSpec as error:
        raise Damaged(f"run.json does not hold a spec: {'; '.join(error.problems)}") from None


def upgrade(raw: Tree, schema: Any) -> Tree:
    """A stored spec in the form of this version's schema. Schema 1 is the first."""
    if schema == SCHEMA and isinstance(raw, dict):
        return raw
    if isinstance(schema, int) and schema > SCHEMA:
        raise Damaged(f"run.json has schema {schema}, this clipctl reads up to {SCHEMA}", "pip install --upgrade clipctl")
    raise Damaged(f"run.json has schema {schema!r:.40}, which never was")
