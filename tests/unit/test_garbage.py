"""What a process has at its start is never looked through again; what comes later is."""

from __future__ import annotations

import gc
import weakref

from shared.garbage import forget_start_up


class Node:
    def __init__(self) -> None:
        self.itself = self


def test_only_what_comes_later_is_collected() -> None:
    early, thresholds = Node(), gc.get_threshold()
    forget_start_up()
    try:
        assert not any(found is early for found in gc.get_objects())
        late = weakref.ref(Node())
        gc.collect()
        assert late() is None
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
