"""Scripts for calls of the Files and Vector Stores APIs: which of them fail, wait, or answer something odd.

A script is queued like those of generations and told from them by its member `storage`, which names a call or `any`.
It serves `times` calls (null: for ever), only each `every`-th of those that it is meant for. A call is served by the
oldest script that will have it; the others still count it. What a served call gets, in order: the wait of `delay_ms`;
the effect, unless it is to fail and `has_effect` is false; then the HTTP answer of `http_status`, a reset connection,
or the usual answer with the members of `answer` on top.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

StorageCall = Literal[
    "files",
    "file_get",
    "file_list",
    "file_delete",
    "vector_store_create",
    "vector_store_get",
    "vector_store_list",
    "vector_store_delete",
    "vector_store_add",
    "vector_store_file",
    "vector_store_files",
    "vector_store_remove",
]


class StorageScript(BaseModel):
    """How some calls are answered.

    `has_effect` lets a failing call do what it was asked for: the caller cannot know. `body` goes with `http_status`
    (a string raw, else JSON).
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    storage: StorageCall | Literal["any"]
    every: int = Field(default=1, ge=1)
    times: int | None = Field(default=1, ge=1)
    delay_ms: float = Field(default=0, ge=0, allow_inf_nan=False)
    http_status: int | None = Field(default=None, ge=200, le=599)
    body: Any = None
    terminal: Literal["completed", "reset"] = "completed"
    has_effect: bool = False
    answer: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_body(self) -> "StorageScript":
        if self.body is not None and self.http_status is None:
            raise ValueError("body needs http_status")
        return self

    @property
    def fails(self) -> bool:
        """Whether the caller gets something else than the call's own answer."""
        return self.http_status is not None or self.terminal == "reset"


class StorageScripts:
    """Scripts waiting for calls, oldest first."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, script: StorageScript) -> None:
        """Append a script."""
        self._waiting.append(_Waiting(script))

    def clear(self) -> None:
        """Forget all scripts."""
        self._waiting.clear()

    def take(self, call: StorageCall) -> StorageScript | None:
        """The script that serves this call, if any; all that are meant for such calls count it."""
        willing = [waiting for waiting in self._waiting if waiting.counts(call)]
        if not willing:
            return None
        chosen = willing[0]
        chosen.served += 1
        if chosen.served == chosen.script.times:
            self._waiting.remove(chosen)
        return chosen.script


class _Waiting:
    def __init__(self, script: StorageScript) -> None:
        self.script = script
        self.served = 0
        self._seen = 0

    def counts(self, call: StorageCall) -> bool:
        """Note the call; whether it is one that the script serves."""
        if self.script.storage not in ("any", call):
            return False
        self._seen += 1
        return self._seen % self.script.every == 0
