"""run.json: a RunSpec as it was launched, readable by later versions."""

from __future__ import annotations

import json

from pydantic import ValidationError

from clipctl import __version__
from clipctl.errors import Damaged
from clipctl.spec.patch import Tree, cut
from clipctl.spec.run import RunSpec
from clipctl.spec.words import UNKNOWN_KEY, path_of

SCHEMA = 1


def spec_to_json(spec: RunSpec) -> str:
    document = {"schema": SCHEMA, "clipctl": __version__, "spec": spec.model_dump(mode="json")}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def spec_from_json(text: str) -> RunSpec:
    """Keys that this version does not know are left out. Damaged: no run.json, or one of a newer schema.

    The rules that tie values together are not asked again: what was launched under older ones must stay readable.
    """
    try:
        document = json.loads(text)
        spec = upgrade(document["spec"], document["schema"])
        return RunSpec.model_validate(_without_unknown(spec))
    except ValidationError as error:
        where = ", ".join(path_of(item) for item in error.errors(include_url=False))
        raise Damaged(f"run.json does not hold a spec: wrong at {where}") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Damaged(f"run.json cannot be read: {error}") from None


def upgrade(raw: Tree, schema: object) -> Tree:
    """A stored spec in the form of this version's schema. Schema 1 is the first."""
    if schema == SCHEMA and isinstance(raw, dict):
        return raw
    if isinstance(schema, int) and schema > SCHEMA:
        newer = f"run.json has schema {schema}, this clipctl reads up to {SCHEMA}"
        raise Damaged(newer, "pip install --upgrade clipctl")
    raise Damaged(f"run.json has schema {schema!r:.40}, which never was")


def _without_unknown(raw: Tree) -> Tree:
    try:
        RunSpec.model_validate(raw)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            if item["type"] in UNKNOWN_KEY:
                cut(raw, path_of(item))
    return raw
