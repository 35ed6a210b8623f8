"""Keeps Python's garbage collector from stopping the event loop for long."""

from __future__ import annotations

import gc
from typing import Final

RARELY: Final = 50
"""Collections of the middle generation before a full one; by default 10."""


def forget_start_up() -> None:
    """Exempt all that there is now from garbage collection: call it once, when a process has started.

    Modules, models and statements live as long as the process. A full collection walked through all of them each time,
    which held up every stream of the process for more than 100 ms. What is exempt no longer counts as a reason to wait
    with the next full one, so these are made rarer: hundreds of running turns take tens of milliseconds, too.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, RARELY)
