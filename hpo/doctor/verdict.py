"""What the short jobs' answers mean, and what to do about it."""

from __future__ import annotations

from typing import Any

from hpo.check.findings import Findings
from hpo.cluster.request import SlurmRequest
from hpo.cluster.sites import Site
from hpo.doctor.jobs import Answer
from hpo.doctor.propose import ways_between
from hpo.errors import ClusterError

_SHM_BYTES = 250 * 2**20  # Ray's object store of a host, and a little
_OPEN_FILES, _MEMORY_MB = 4096, 2000
_REASONS = {  # SLURM's words for a job that does not start -> what to do
    "PartitionDown": "the partition is closed for now; name another with --partition",
    "PartitionInactive": "the partition is closed for now; name another with --partition",
    "PartitionTimeLimit": "the time is more than the partition gives; lower --time",
    "PartitionNodeLimit": "the partition has not so many hosts; lower --nodes",
    "ReqNodeNotAvail": "hosts are down, drained or reserved (`sinfo -R` says why); name another --partition",
    "Nodes_required_for_job_are_DOWN": "hosts are down or drained (`sinfo -R` says why); name another --partition",
    "AssocGrp": "your account has used up what it is given; name another --account, or wait",
    "QOS": "a limit of the QoS is reached; name another --qos, or wait",
    "InvalidAccount": "the account is not valid here; give --account",
    "BadConstraints": "no host is as asked for; change --constraint, --gpus-per-node or --mem",
    "Resources": "hosts are busy; the job would wait. Try again with --wait 3600, or another --partition",
    "Priority": "other jobs come first; the job would wait. Try again with --wait 3600, or another --partition",
}


def judge(answer: Answer, request: SlurmRequest, site: Site, nodes: int, findings: Findings) -> None:
    """Adds what is to be said of a job on `nodes` hosts."""
    topic = "one host" if nodes == 1 else f"{nodes} hosts"
    before = len(findings.errors)
    with findings.on(topic):
        _check_it_ran(answer, site)
    for host in answer.hosts:
        for check in (_check_ray, _check_gpus, _check_shm, _check_open_files, _check_memory):
            with findings.on(topic):
                check(host, request)
    if nodes > 1 and answer.hosts:
        with findings.on(topic):
            _check_they_meet(answer, nodes)
    if len(findings.errors) == before:
        names = ", ".join(str(host["host"]) for host in answer.hosts)
        findings.ok(topic, f"job {answer.job} ran on {names}; Ray's files go to {answer.hosts[0]['temp']}")


def _check_it_ran(answer: Answer, site: Site) -> None:
    said = " ".join((answer.log or "").split())[-400:]
    if answer.state in ("PENDING", "CONFIGURING"):
        advice = next((text for word, text in _REASONS.items() if answer.reason.startswith(word)), "")
        raise ClusterError(f"job {answer.job} did not start, SLURM says {answer.reason or 'nothing'}: "
                           f"{advice or '`scontrol show job` tells more'}.")  # fmt: skip
    if "Task launch for" in said or "Application launch failed" in said:  # perhaps on some hosts only
        raise ClusterError(f"SLURM cannot start tasks on the hosts of job {answer.job} ({said}): they do not "
                           "reach each other; leave one out by --exclude, and tell the administrators.")  # fmt: skip
    if answer.hosts:
        return
    if answer.log is None:
        raise ClusterError(f"job {answer.job} ended as {answer.state} and left no log: its host does not see or cannot "
                           "write this directory; put sweeps on shared storage by --runs-dir.")  # fmt: skip
    if "failed on this host" in said:
        raise ClusterError(f"a line of the site file {site.path} fails on the host: {said}.")
    if "job.sh: No such file" in said:
        raise ClusterError("the host does not see this checkout; move it to shared storage, such as your home.")
    if "No such file or directory" in said or "command not found" in said or "execve" in said:
        raise ClusterError(f"Python does not start on the host ({said}): the environment must lie on shared storage; "
                           "make it there, or name one by `activate:` of the site file.")  # fmt: skip
    raise ClusterError(f"job {answer.job} ended as {answer.state} without a word of its hosts: {said}.")


def _check_ray(host: dict[str, Any], request: SlurmRequest) -> None:
    if "error" in host:
        raise ClusterError(f"{host['host']}: {host['error']} (`interface:`, `node_local:` of the site file)")


def _check_gpus(host: dict[str, Any], request: SlurmRequest) -> None:
    name = host["host"]
    asked = request.gpus_per_node or 0
    if not asked:
        return
    if host["gpus"] < asked:
        raise ClusterError(f"{name} shows {host['gpus']} of {asked} GPUs in CUDA_VISIBLE_DEVICES: try `gpus_as: "
                           "gres` in the site file, or ask its administrators for gres.conf.")  # fmt: skip
    if host["cuda"] is None:
        raise ClusterError(f"{name} gave {asked} GPUs and has no NVIDIA driver (libcuda.so.1): name another "
                           "--partition or --constraint; in a container add --nv.")  # fmt: skip
    if host["cuda"] < asked:
        raise ClusterError(f"{name} gave {asked} GPUs and its driver shows {host['cuda']}: leave the host "
                           f"out by --exclude {name}, and tell its administrators.")  # fmt: skip


def _check_shm(host: dict[str, Any], request: SlurmRequest) -> None:
    name = host["host"]
    if host["shm_bytes"] < _SHM_BYTES:
        raise ClusterError(f"{name} has {host['shm_bytes'] / 2**20:.0f} MB in /dev/shm, Ray takes 200: ask for more "
                           "memory, or clear files that old jobs left there.")  # fmt: skip


def _check_open_files(host: dict[str, Any], request: SlurmRequest) -> None:
    name = host["host"]
    if 0 <= host["open_files"] < _OPEN_FILES:
        raise ClusterError(f"{name} lets a process open {host['open_files']} files, Ray wants {_OPEN_FILES}: "
                           "raise it where you log in, or ask its administrators (LimitNOFILE of slurmd).")  # fmt: skip


def _check_memory(host: dict[str, Any], request: SlurmRequest) -> None:
    name = host["host"]
    if host["memory_mb"] and host["memory_mb"] < _MEMORY_MB:
        raise ClusterError(f"{name} gives the job {host['memory_mb']} MB, Ray and one trial take {_MEMORY_MB}: "
                           "raise --mem.")  # fmt: skip


def _check_they_meet(answer: Answer, nodes: int) -> None:
    first = next((host for host in answer.hosts if host["rank"] == 0), {})
    address = str(first.get("address", ""))
    if address.startswith("127."):
        ways = ways_between(answer.hosts)
        remedy = (f"write `interface: {ways[0]}` into the site file, by which it was reached." if ways else
                  "name its interface by `interface:` of the site file (`ip -br addr` lists them).")  # fmt: skip
        raise ClusterError(f"{first['host']} knows itself as {address}, which no other host can reach: {remedy}")
    lost = [host for host in answer.hosts if "unreached" in host]
    if lost:
        names, ways = ", ".join(str(host["host"]) for host in lost), ways_between(answer.hosts)
        remedy = (f"by {ways[0]} they do: write `interface: {ways[0]}` into the site file." if ways else
                  "name the network between hosts by `interface:` of the site file, such as ib0; without one, --nodes "
                  "1 or --mode pool in one rack.")  # fmt: skip
        raise ClusterError(f"{names} cannot reach {first.get('host')} at {address} ({lost[0]['unreached']}): {remedy}")
    if len(answer.hosts) < nodes:
        raise ClusterError(
            f"only {len(answer.hosts)} of {nodes} hosts answered: {' '.join((answer.log or '').split())[-300:]}"
        )
