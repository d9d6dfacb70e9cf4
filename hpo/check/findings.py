"""What the checks found: errors, which forbid to submit, warnings, and what is in order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hpo.errors import SlurmtuneError

TOPICS = ("search", "data", "directory", "site", "models")


@dataclass(frozen=True)
class Finding:
    """One sentence on one of TOPICS. level: error, warning, or ok. share: of the space that it concerns, 0 to 1."""

    topic: str
    level: str
    text: str
    error: SlurmtuneError | None = None
    share: float | None = None

    def to_json(self) -> dict[str, Any]:
        about = {"topic": self.topic, "level": self.level, "text": self.text}
        code = {"exit_code": self.error.exit_code} if self.error else {}
        return {**about, **code, **({} if self.share is None else {"share": round(self.share, 4)})}


@dataclass
class Findings:
    """Grows while the checks go on."""

    found: list[Finding] = field(default_factory=list)

    def ok(self, topic: str, text: str) -> None:
        self.found.append(Finding(topic, "ok", text))

    def warn(self, topic: str, text: str, share: float | None = None) -> None:
        self.found.append(Finding(topic, "warning", text, None, share))

    def refuse(self, topic: str, error: SlurmtuneError, share: float | None = None) -> None:
        self.found.append(Finding(topic, "error", str(error), error, share))

    @contextmanager
    def on(self, topic: str) -> Iterator[None]:
        """Takes an error of ours that is raised inside as a finding on `topic`."""
        try:
            yield
        except SlurmtuneError as error:
            self.refuse(topic, error)

    def wrong(self, topic: str) -> bool:
        """Whether there is an error on `topic`."""
        return any(finding.error and finding.topic == topic for finding in self.found)

    @property
    def errors(self) -> list[SlurmtuneError]:
        return [finding.error for finding in self.found if finding.error]

    @property
    def warnings(self) -> list[str]:
        return [finding.text for finding in self.found if finding.level == "warning"]

    @property
    def exit_code(self) -> int:
        """Of the first error; 0 when there is none."""
        return self.errors[0].exit_code if self.errors else 0
