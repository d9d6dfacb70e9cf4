"""How much of a space lies beyond the limit on parameters is said before anything is submitted."""

from __future__ import annotations

from hpo.check.corners import find_kinds
from hpo.check.findings import Findings
from hpo.check.models import judge_limit
from hpo.config import build_sweep


def test_a_part_of_the_space_is_a_warning_and_nothing_is_said_of_what_is_within(tmp_path):
    models = {"choice": ["test_resnet", "resnet50"]}
    document = {"data": "bundled:clothing", "constraints": {"parameters": 1e6},
                "hyperparameters": {"model.timm_image.checkpoint_name": models}}  # fmt: skip
    config = build_sweep(document, tmp_path, "", tmp_path, "s")
    kinds = find_kinds(config)
    answers = [{"parameters": 23_500_000 if "resnet50" in str(kind.case) else 400_000} for kind in kinds]
    findings = Findings()
    judge_limit(kinds, answers, 1e6, findings)
    [warning] = findings.warnings
    assert "% of the space is over constraints.parameters 1,000,000 and will not be trained: resnet50" in warning
    assert "has 23,500,000" in warning
    for limit in (None, 1e8):
        findings = Findings()
        judge_limit(kinds, [*answers[:-1], None], limit, findings)
        assert not findings.found
