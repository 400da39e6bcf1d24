"""Findings of the pre-flight check, and the error for a refusal."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from eqpool.errors import InputError

Severity = Literal["info", "warning", "refusal"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """A finding of the pre-flight check.

    Attributes:
      severity: "info", "warning", or "refusal" if the requested effects cannot be identified.
      check: name of the check, such as "subjects_per_site".
      message: one line with the finding, a semicolon and advice.
      numbers: numbers behind the finding, ready for JSON.
    """

    severity: Severity
    check: str
    message: str
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns the finding as results.json holds it."""
        return {"severity": self.severity, "check": self.check, "message": self.message} | self.numbers


def refuse(findings: Sequence[Finding]) -> None:
    """Raises `InputError` with the first finding that is a refusal."""
    for finding in findings:
        if finding.severity == "refusal":
            raise InputError(finding.message)
