"""What benches share: percentiles, repeats, and a report that says where and when it was made."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from shared.clock import SystemClock, rfc3339

OUTPUT = Path(__file__).parent / "output"
PLOTS = Path(__file__).parent / "plots"
"""Pictures that the README shows."""
PACKAGES = ("fastapi", "uvicorn", "redis", "arq", "sqlalchemy", "asyncpg", "openai", "uvloop")


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; `values` need not be sorted."""
    ordered = sorted(values)
    rank = max(0, min(len(ordered) - 1, round(percent / 100 * len(ordered)) - 1))
    return ordered[rank]


@dataclass(frozen=True)
class Repeats:
    """One figure over several repeats of the same measurement."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f"{self.median:.1f} ({min(self.values):.1f} to {max(self.values):.1f})"


def machine() -> dict[str, Any]:
    return {
        "at": rfc3339(SystemClock().now()),
        "cpu_count": os.cpu_count(),
        "load_average": os.getloadavg(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def report(name: str, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print `rows` as a table and keep them, with the machine, as JSON."""
    columns = list(rows[0])
    widths = [max(len(column), *(len(str(row[column])) for row in rows)) for column in columns]
    print(f"\n{title}")
    print(" | ".join(column.ljust(width) for column, width in zip(columns, widths, strict=True)))
    print("-|-".join("-" * width for width in widths))
    for row in rows:
        print(" | ".join(str(row[column]).ljust(width) for column, width in zip(columns, widths, strict=True)))
    OUTPUT.mkdir(exist_ok=True)
    content = {"machine": machine(), "title": title, "rows": [{key: _plain(row[key]) for key in row} for row in rows]}
    (OUTPUT / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    return {"median": value.median, "values": value.values} if isinstance(value, Repeats) else value
