"""A short run of chaos on every test run; `make chaos` makes long ones."""

from __future__ import annotations

import pytest

from tests.chaos.driver import run_chaos


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", [1, 2])
async def test_no_turn_is_lost_doubled_or_stuck(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    report = await run_chaos(seed=seed, turns=40, clients=8, faults=10)
    with capsys.disabled():
        print(f"\n{report}")
    assert not report.verdict.complaints, "\n".join(report.verdict.complaints)
