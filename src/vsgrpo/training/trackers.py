"""trainer.report_to: Weights & Biases, TensorBoard, trackio and the like, none of which may stop a run.

The callbacks are transformers' own. What they raise, when they are made or at any event, becomes one warning, and the
tracker is left out from there on; log.jsonl has every number anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

EVENTS = tuple(name for name in vars(TrainerCallback) if name.startswith("on_"))


class Tracker(TrainerCallback):
    """Passes events on to a tracker until one fails.

    Args:
        name: as in trainer.report_to.
        make: builds the tracker's callback.
        say: tells the user.
    """

    def __init__(self, name: str, make: Callable[[], TrainerCallback], say: Callable[[str], None]) -> None:
        self._name = name
        self._say = say
        self._inner: TrainerCallback | None = None
        try:
            self._inner = make()
        except Exception as error:
            self._give_up(error)
        for event in EVENTS:
            setattr(self, event, self._passing(event))

    def _passing(self, event: str) -> Callable[..., Any]:
        def pass_on(*args: Any, **kwargs: Any) -> Any:
            if self._inner is None:
                return None
            try:
                return getattr(self._inner, event)(*args, **kwargs)
            except Exception as error:
                self._give_up(error)
                return None

        return pass_on

    def _give_up(self, error: Exception) -> None:
        self._inner = None
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        self._say(f"warning: trainer.report_to={self._name}: {reason}; training goes on without it (log.jsonl has all)")


def make_trackers(names: Sequence[str], say: Callable[[str], None]) -> list[TrainerCallback]:
    """Return one tracker per name of trainer.report_to."""
    return [Tracker(name, get_reporting_integration_callbacks([name])[0], say) for name in names]
