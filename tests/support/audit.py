"""`make audit`: looks up what both lock files pin among known vulnerabilities (pip-audit, advisories of PyPI).

A known vulnerability fails. Advisories that are out of reach do not: a build must not depend on somebody else's server.
But pip-audit then ends as if all were well; here what was not looked up is counted and said.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOCKS = ("requirements.lock", "deploy/requirements.lock")
TIMEOUT_SECS = 180
FOUND = 1


@dataclass(frozen=True)
class Audit:
    """Attributes:
    found: a line for each vulnerability.
    looked_up: packages that the advisories were asked about.
    unknown: packages that they could not be asked about.
    """

    found: tuple[str, ...]
    looked_up: int
    unknown: int

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Audit:
        """What pip-audit's JSON says; a package that is pinned in both files counts once."""
        packages = {(item["name"], item.get("version")): item for item in report["dependencies"]}.values()
        skipped = [item for item in packages if "skip_reason" in item]
        found = [
            f"{item['name']} {item['version']}: {flaw['id']}, fixed in {' '.join(flaw['fix_versions']) or 'no release'}"
            for item in packages
            for flaw in item.get("vulns", ())
        ]
        return cls(tuple(sorted(found)), len(packages) - len(skipped), len(skipped))

    def __str__(self) -> str:
        lines = [*self.found, f"{self.looked_up} packages looked up, {len(self.found)} known vulnerabilities"]
        if self.unknown:
            lines.append(
                f"NOT AUDITED: {self.unknown} packages, which the advisories do not know or are out of reach for"
            )
        return "\n".join(lines)


def main() -> int:
    """The exit code: failure for a known vulnerability only."""
    files = [argument for lock in LOCKS for argument in ("-r", lock)]
    script = str(Path(sys.executable).with_name("pip-audit"))
    command = [script, "--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json", *files]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECS)
        audit = Audit.of(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        sys.stdout.write(f"NOT AUDITED: no answer within {TIMEOUT_SECS} s\n")
        return 0
    except json.JSONDecodeError:
        # It reports in full or not at all: what it says instead is why.
        sys.stdout.write(f"NOT AUDITED: {done.stderr.strip().splitlines()[-1:] or 'no report'}\n")
        return 0
    sys.stdout.write(f"{audit}\n")
    return FOUND if audit.found else 0


if __name__ == "__main__":
    sys.exit(main())
