"""The process that builds models without torch.compile and its like gives the answers that the whole of torch gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from hpo.check.corners import reduce_trial
from hpo.trialconfig import TrialConfig

ROOT = Path(__file__).resolve().parents[2]


def test_where_the_stand_ins_do_not_do_it_goes_on_with_the_whole_of_torch(tmp_path):
    """The second case ends with an error that is none of ours: it is tried again with everything, as is the third."""
    sound = reduce_trial(TrialConfig.from_flat({"model.timm_image.checkpoint_name": "test_vit"}), has_table=False)
    cases = [sound, {**sound, "optim.momentum": [], "optim.optim_type": "sgd"}, sound]
    (tmp_path / "question.json").write_text(
        json.dumps({"cases": cases, "weights": [], "outputs": 10, "side": None, "has_table": False})
    )
    with (tmp_path / "question.json").open() as question:
        done = subprocess.run([sys.executable, "-m", "hpo.check.builder"], cwd=ROOT, stdin=question, text=True,
                              capture_output=True, timeout=300, check=True)  # fmt: skip
    first, lean, error, whole = map(json.loads, done.stdout.splitlines())
    assert first == {"weights": {}}
    assert lean == whole
    assert lean["parameters"] > 300_000
    assert "test_vit cannot be built (TypeError: " in error["error"]
    assert "unexpected" not in error
