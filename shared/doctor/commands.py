"""What `mini-chat doctor` does; `shared.doctor.command_line` tells how it is called."""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from typing import Final

from shared.clock import SystemClock
from shared.console import EXIT_FAILURE, EXIT_OK, in_one_line, write_json, write_line
from shared.doctor.examination import Examination
from shared.doctor.findings import Finding, Status
from shared.model_catalog.source import resolve_secret
from shared.settings import ConfigurationError, Settings

_CHECK_WIDTH: Final = 24


def run(settings: Settings, options: argparse.Namespace) -> int:
    """The exit code.

    Raises:
        ConfigurationError: the token that is referred to is missing.
    """
    return asyncio.run(_run(settings, options))


async def _run(settings: Settings, options: argparse.Namespace) -> int:
    examination = Examination(
        settings=settings,
        clock=SystemClock(),
        url=options.url,
        token=None if options.token is None else _token(options.token),
        silence_secs=options.silence,
    )
    findings: list[Finding] = []
    async for finding in examination.run():
        findings.append(finding)
        if not options.json:
            _write(finding)  # at once: some take a while
    counts = Counter(finding.status for finding in findings)
    if options.json:
        totals = {str(status): counts[status] for status in Status}
        write_json(totals | {"findings": [finding.document for finding in findings]})
    else:
        write_line(f"\n{counts[Status.FAIL]} failed, {counts[Status.WARN]} warnings, {counts[Status.OK]} fine")
    is_bad = counts[Status.FAIL] or (options.strict and counts[Status.WARN])
    return EXIT_FAILURE if is_bad else EXIT_OK


def _write(finding: Finding) -> None:
    write_line(f"{finding.status:<5} {finding.check:<{_CHECK_WIDTH}}{in_one_line(finding.seen)}")
    if finding.change:
        write_line(f"{'':<6}{'':<{_CHECK_WIDTH}}→ {in_one_line(finding.change)}")


def _token(text: str) -> str:
    if not text.startswith(("env:", "file:")):
        return text
    try:
        return resolve_secret(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"--token: {str(error).removeprefix('auth_secret: ')}") from None
