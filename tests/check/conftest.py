"""A site's recorded answers as commands on PATH, a small data directory, and sweeps that differ in one thing."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

PARTITIONS = """\
gpu*|4|gpu:a100:4(S:0-1)|1-00:00:00|32|256000
gpu*|2|gpu:v100:2|1-00:00:00|16|128000
debug|1|gpu:a100:4|10:00|32|256000
closed|2|gpu:a100:4|1-00:00:00|32|256000
staff|2|gpu:a100:4|1-00:00:00|32|256000
physics|2|gpu:a100:4|1-00:00:00|32|256000
large|8|gpu:a100:4|1-00:00:00|32|256000
cpu|8|(null)|1-00:00:00|32|128000
"""
_HOSTS = """\
case "$*" in
*"-p cpu"*) for i in 1 2 3 4 5 6 7 8; do echo "cpu$i|(null)|zen3|128000|32|idle"; done ;;
*"-p gpu"*)
    for i in 1 2 3 4; do echo "g$i|gpu:a100:4(S:0-1)|zen3,nvlink|256000|32|mixed"; done
    for i in 5 6; do echo "g$i|gpu:v100:2|skylake|128000|16|idle"; done ;;
*) for i in 1 2 3 4 5 6 7 8; do echo "g$i|gpu:a100:4|zen3|256000|32|idle"; done ;;
esac
"""
_ALL = "AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL QoS=N/A MaxNodes=UNLIMITED MinNodes=0 State=UP"
SCRIPTS = {
    "sinfo": f'case "$*" in\n*-N*) {_HOSTS} ;;\n*) cat <<END\n{PARTITIONS}END\n;;\nesac\n',
    "scontrol": f"""\
case "$*" in
*config*) echo "ClusterName = big"; echo "AccountingStorageEnforce = associations,limits,qos" ;;
*closed*) echo "PartitionName=closed {_ALL.replace("State=UP", "State=DRAIN")}" ;;
*staff*) echo "PartitionName=staff {_ALL.replace("AllowGroups=ALL", "AllowGroups=professors")}" ;;
*physics*) echo "PartitionName=physics {_ALL.replace("AllowAccounts=ALL", "AllowAccounts=physics")}" ;;
*large*) echo "PartitionName=large {_ALL.replace("MinNodes=0", "MinNodes=4")}" ;;
*debug*) echo "PartitionName=debug {_ALL.replace("AllowQos=ALL", "AllowQos=short")}" ;;
*) echo "PartitionName=gpu {_ALL}" ;;
esac
""",
    "sacctmgr": """\
case "$*" in
*assoc*)
    echo "big|vision||normal,short|vision"; echo "big|biology||normal|vision"; echo "other|vison||normal|vison" ;;
*) echo "normal|||gres/gpu=8|"; echo "short|02:00:00|||"; echo "long|7-00:00:00|||DenyOnLimit" ;;
esac
""",
    "sbatch": 'echo "$@" >>"$(dirname "$0")/submitted"; exit 1\n',
}


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PATH: the commands of a SLURM site, giving answers as sites with these settings give them."""
    folder = tmp_path_factory.mktemp("site")
    for name, script in SCRIPTS.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder
