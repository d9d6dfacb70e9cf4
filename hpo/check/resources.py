"""Does one trial fit into a host of the job, or into those that it is spread over, and does it use what is paid for?"""

from __future__ import annotations

from hpo.check.findings import Findings
from hpo.cluster.request import SlurmRequest
from hpo.config import SweepConfig
from hpo.errors import UsageError
from hpo.requirements import possible_values
from hpo.tuneconfig import TuneConfig


def check_resources(config: SweepConfig, request: SlurmRequest, findings: Findings) -> None:
    """`request` with its defaults filled in."""
    tune, gpus, cpus = config.tune, request.gpus_per_node or 0, request.cpus_per_task
    devices = possible_values(config.space, "env.accelerator")
    with findings.on("site"):
        _check_fit(tune, request.nodes or 1, gpus, cpus)
        if "gpu" in devices and not gpus:
            raise UsageError("env.accelerator gpu: the job asks for no GPUs; add --gpus-per-node, or set it to auto.")
    if gpus and all(device == "cpu" for device in devices):
        findings.warn("site", f"env.accelerator is cpu, so that {gpus} GPUs a host would be idle, for which some "
                              "sites end jobs; add --gpus-per-node 0.")  # fmt: skip
    places = gpus * (request.nodes or 1) / (tune.gpus_per_trial or 1) if gpus else 0
    if places > tune.num_trials:
        findings.warn(
            "site", f"{tune.num_trials} trials cannot keep {gpus * (request.nodes or 1)} GPUs busy; ask for fewer."
        )


def check_local(config: SweepConfig, findings: Findings) -> None:
    """What no sweep on this machine can give a trial."""
    if (config.tune.num_nodes or 1) > 1:
        with findings.on("site"):
            raise UsageError(
                f"resources_per_trial.num_nodes {config.tune.num_nodes}: this machine is one node; leave it out with "
                "--cluster local, or submit to SLURM with --nodes."
            )


def _check_fit(tune: TuneConfig, hosts: int, gpus: int, cpus: int | None) -> None:
    """
    Raises:
        UsageError: a job of so many hosts with so many GPUs and CPUs each has no room for a trial.
    """
    nodes = tune.nodes_of_trial(gpus)
    if tune.num_nodes and nodes > hosts:
        raise UsageError(
            f"resources_per_trial.num_nodes {nodes}: the job has {hosts} host{'s' * (hosts > 1)}; ask for more with "
            "--nodes, and not in a pool, whose hosts come and go one by one."
        )
    if tune.gpus_per_trial is not None and (nodes > hosts or tune.gpus_per_trial / nodes > gpus):
        raise UsageError(
            f"resources_per_trial.num_gpus {tune.gpus_per_trial:g}: a host of the job has {gpus}; lower it, or "
            "ask for more with --gpus-per-node or, outside of a pool, --nodes."
        )
    if tune.cpus_per_trial is not None and cpus is not None and tune.cpus_per_trial / nodes > cpus:
        raise UsageError(
            f"resources_per_trial.num_cpus {tune.cpus_per_trial:g}: a host of the job has {cpus}; lower it, or "
            "ask for more with --cpus-per-task."
        )
