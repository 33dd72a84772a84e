"""An experiment folder of open_clip_train's becomes a run. The experiment itself is only read."""

from __future__ import annotations

from clipctl.ops.adopt.checkpoints import Tell
from clipctl.ops.adopt.plan import Plan, Wish, plan, refuse_taken
from clipctl.ops.adopt.write import Adopted, adopt

__all__ = ["Adopted", "Plan", "Tell", "Wish", "adopt", "plan", "refuse_taken"]
