"""What is kept with a revision of whether it is served as what it was made from: a comparison's
report (`engines.parity`) in short."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from models_registry.models import Revision


def record(base: Revision, report: Mapping[str, Any] | None, *, now: datetime) -> dict[str, Any]:
    """`passed` is null for one that could not be checked, and `reason` says why it did not pass."""
    kept: dict[str, Any] = {
        "passed": None,
        "reason": "",
        "checked_at": now.isoformat(),
        "base_commit": base.commit,
    }
    if report is None:
        return kept | {"reason": "the comparison ended without a report"}
    checks = list(report["checks"])
    verdicts = [check["passed"] for check in checks]
    passed = False if False in verdicts else True if True in verdicts else None
    blamed = [check for check in checks if check["passed"] is passed and check.get("reason")]
    reasons = [f"as {check['way']}: {check['reason']}" for check in blamed]
    return (
        kept
        | {key: value for key, value in report.items() if key != "checks"}
        | {
            "passed": passed,
            "reason": "; ".join(reasons) if passed is not True else "",
            "checks": checks,
            "max_abs_logprob_diff": max(
                (
                    check["max_abs_logprob_diff"]
                    for check in checks
                    if "max_abs_logprob_diff" in check
                ),
                default=None,
            ),
        }
    )
