"""The root of the typed specs."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Unknown keys are refused, nothing can be changed in place."""

    model_config = ConfigDict(frozen=True, extra="forbid")
