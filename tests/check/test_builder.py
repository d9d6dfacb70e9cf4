"""The process that builds models without torch.compile and its like gives the answers that the whole of torch gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from hpo.check.corners import reduce_trial
from hpo.trialconfig import TrialConfig

ROOT = Path(__file__).resolve().parents[2]
REFUSES = """\
import sys
class Refuses:  # a timm that cannot do without what is left out
    def find_spec(self, name, path=None, target=None):
        if name == "timm" and sys.modules.get("wandb", 0) is None:
            open("refused", "w").close()
            raise ValueError("not without wandb")
sys.meta_path.insert(0, Refuses())
"""


def test_where_the_stand_ins_do_not_do_it_starts_again_with_the_whole_of_torch(tmp_path):
    case = reduce_trial(TrialConfig.from_flat({"model.timm_image.checkpoint_name": "test_vit"}), has_table=False)
    question = {"cases": [case], "weights": [], "outputs": 10, "side": None, "has_table": False}
    (tmp_path / "question.json").write_text(json.dumps(question))

    def ask(*path):
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))}
        with (tmp_path / "question.json").open() as stdin:
            command = [sys.executable, "-m", "hpo.check.builder"]
            done = subprocess.run(command, cwd=tmp_path, env=environ, stdin=stdin, text=True, capture_output=True,
                                  timeout=300, check=True)  # fmt: skip
        return [json.loads(line) for line in done.stdout.splitlines()]

    lean = ask()
    assert lean[0] == {"weights": {}}
    assert lean[1]["parameters"] > 300_000
    (tmp_path / "sitecustomize.py").write_text(REFUSES)
    assert ask(tmp_path) == lean
    assert (tmp_path / "refused").exists()
