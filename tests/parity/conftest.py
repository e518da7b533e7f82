"""What was measured against other implementations is printed as one table after the tests."""

from collections.abc import Callable

import pytest

_MEASURED = pytest.StashKey[list[tuple[str, str, float, float]]]()

Measure = Callable[[str, str, float, float], None]


@pytest.fixture
def measure(request: pytest.FixtureRequest) -> Measure:
    """measure(peer, what, difference, tolerance): asserts that a difference is within tolerance.

    The largest difference of each (peer, what) goes into the table.
    """
    rows = request.config.stash.setdefault(_MEASURED, [])

    def check(peer: str, what: str, difference: float, tolerance: float) -> None:
        rows.append((peer, what, float(difference), tolerance))
        assert difference <= tolerance, f"{peer}, {what}: {difference} is more than {tolerance}"

    return check


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = terminalreporter.config.stash.get(_MEASURED, [])
    if not rows:
        return
    largest: dict[tuple[str, str], tuple[float, float]] = {}
    for peer, what, difference, tolerance in rows:
        before = largest.get((peer, what), (0.0, tolerance))[0]
        largest[peer, what] = max(difference, before), tolerance
    terminalreporter.section("checked against")
    for (peer, what), (difference, tolerance) in largest.items():
        terminalreporter.line(f"| {peer} | {what} | {difference:.1e} | {tolerance:.0e} |")
