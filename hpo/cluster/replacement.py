"""Submits a worker job in the place of a lost one and prints its id.

    python -m hpo.cluster.replacement DIR JOB    (started by hpo.cluster.pool)

A process of its own, in an environment without the head job's SLURM variables: sbatch would take them for wishes.
"""

from __future__ import annotations

import sys

from hpo.cluster.jobs import read_job
from hpo.cluster.submission import submit_to_slurm
from hpo.errors import SlurmtuneError
from hpo.layout import open_sweep, read_json


def main() -> int:
    root, lost = sys.argv[1:]
    directory = open_sweep(root)
    record = read_job(directory, lost)
    if record is None:
        sys.stderr.write(f"{lost} is no job of {root}\n")
        return 2
    name = read_json(directory.resolved)["name"]
    try:
        sys.stdout.write(submit_to_slurm(record.request.again(), directory, name, "worker", replaces=lost) + "\n")
    except SlurmtuneError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
