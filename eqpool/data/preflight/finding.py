"""One finding of the pre-flight check, and what a refusal does."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from eqpool.errors import InputError

Severity = Literal["info", "warning", "refusal"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the pre-flight check.

    Attributes:
      severity: "info", "warning", or "refusal" where what is asked for cannot be identified.
      check: which check, such as "subjects_per_site".
      message: one line: what was found, and after a semicolon what to do about it.
      numbers: the numbers behind it, ready for JSON.
    """

    severity: Severity
    check: str
    message: str
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As results.json holds it."""
        return {"severity": self.severity, "check": self.check, "message": self.message} | self.numbers


def refuse(findings: Sequence[Finding]) -> None:
    """Raises `InputError` with the first finding that is a refusal."""
    for finding in findings:
        if finding.severity == "refusal":
            raise InputError(finding.message)
