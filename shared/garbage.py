"""Keeps Python's garbage collector from stopping the event loop for long."""

from __future__ import annotations

import gc


def forget_start_up() -> None:
    """Exempt all that there is now from garbage collection: call it once, when a process has started.

    Modules, models and statements live as long as the process. A full collection walked through all of them each time,
    which held up every stream of the process for more than 100 ms.
    """
    gc.collect()
    gc.freeze()
