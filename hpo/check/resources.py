"""Does one trial fit into one host of the job, and does it use what is paid for?"""

from __future__ import annotations

from hpo.check.findings import Findings
from hpo.cluster.request import SlurmRequest
from hpo.config import SweepConfig
from hpo.errors import UsageError
from hpo.requirements import possible_values


def check_resources(config: SweepConfig, request: SlurmRequest, findings: Findings) -> None:
    """`request` with its defaults filled in."""
    tune, gpus, cpus = config.tune, request.gpus_per_node or 0, request.cpus_per_task
    devices = possible_values(config.space, "env.accelerator")
    with findings.on("site"):
        if tune.gpus_per_trial is not None and tune.gpus_per_trial > gpus:
            raise UsageError(
                f"resources_per_trial.num_gpus {tune.gpus_per_trial:g}: a host of the job has {gpus}; lower it, or "
                "ask for more with --gpus-per-node."
            )
        if tune.cpus_per_trial is not None and cpus is not None and tune.cpus_per_trial > cpus:
            raise UsageError(
                f"resources_per_trial.num_cpus {tune.cpus_per_trial:g}: a host of the job has {cpus}; lower it, or "
                "ask for more with --cpus-per-task."
            )
        if "gpu" in devices and not gpus:
            raise UsageError("env.accelerator gpu: the job asks for no GPUs; add --gpus-per-node, or set it to auto.")
    if gpus and all(device == "cpu" for device in devices):
        findings.warn("site", f"env.accelerator is cpu, so that {gpus} GPUs a host would be idle, for which some "
                              "sites end jobs; add --gpus-per-node 0.")  # fmt: skip
    hosts = gpus * (request.nodes or 1) / (tune.gpus_per_trial or 1) if gpus else 0
    if hosts > tune.num_trials:
        findings.warn(
            "site", f"{tune.num_trials} trials cannot keep {gpus * (request.nodes or 1)} GPUs busy; ask for fewer."
        )
