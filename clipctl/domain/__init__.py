"""The words of clipctl (README, "Words") as enums and frozen dataclasses. No behaviour but what a word itself says."""

from clipctl.domain.decisions import *  # noqa: F403 - all words are public
from clipctl.domain.facts import *  # noqa: F403
from clipctl.limits import Limits as Limits, LossLimits as LossLimits, Patience as Patience
from clipctl.pulse import Pulse as Pulse
from clipctl.series import Series as Series
