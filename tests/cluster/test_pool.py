"""What a pool does about a lost worker while SLURM takes no job; on SLURM itself: test_pool_slurm.py."""

from __future__ import annotations

from hpo.cluster import pool
from hpo.cluster.jobs import read_jobs, record_job
from hpo.cluster.pool import Pool
from hpo.cluster.request import SlurmRequest
from hpo.cluster.terms import Terms
from hpo.layout import SweepDirectory, write_json


def test_a_refused_replacement_is_tried_again_after_a_while(tmp_path, monkeypatch):
    """There is no sbatch; each try takes seconds of the head's CPU."""
    directory, said = SweepDirectory(tmp_path), []
    write_json(directory.resolved, {"name": "x"})
    record_job(directory, "7", "worker", SlurmRequest(partition="gpu"))
    monkeypatch.setenv("PATH", str(tmp_path))
    workers = Pool(
        directory, Terms(), lambda: 1, lambda worker: 1, lambda node: False, lambda *_, **__: None, said.append
    )
    [lost] = records = read_jobs(directory, "worker")
    for _ in range(3):
        workers._replace(lost, records)
    assert len(said) == 1
    assert "worker job 7 could not be replaced: SLURM's srun is not" in said[0]
    assert "again in 60 s" in said[0]
    monkeypatch.setattr(pool, "_MOST_PATIENCE_S", 0.0)
    workers._patience_s = 0.0
    workers._replace(lost, records)
    assert len(said) == 2
