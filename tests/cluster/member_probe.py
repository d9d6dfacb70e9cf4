"""What becomes of trials over two Ray nodes of this host; a program for test_member.py.

DATA FOLDER: writes FOLDER/found.json, trial -> what came out. Faults are those of tests/faults/inject, by the
trial's name; two are done here: `actor` ends the process that starts ranks on the other node, `host` its Ray.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from hpo.layout import read_json, write_json

KEYS = {
    "model.timm_image.checkpoint_name": "test_vit",
    "model.timm_image.pretrained": "false",
    "optim.max_epochs": 3000,
    "optim.patience": 3000,
    "env.batch_size": 32,
    "env.accelerator": "cpu",
    "env.num_workers": 1,
}
HANG_S = 30


class Trial:
    """Ray Tune's actor, as far as ranks see it."""

    def begin(self, data, folder):
        from hpo.cluster.member import Member, own_interface
        from hpo.trial.group import Group
        from hpo.trial.rankprocesses import RankProcesses

        self._data, self._folder = data, Path(folder)
        address, interface = own_interface()
        create = functools.partial(RankProcesses, 1, 1)
        self._group = Group(create(interface), Member(create, 1, 1), address=address)

    def train(self, name):
        from hpo.trial.group import RankedTraining, RankFailure
        from hpo.trialconfig import TrialConfig

        (self._folder / name).mkdir()
        config, place = TrialConfig.from_flat(KEYS), (Path(self._data), self._folder / name)
        try:
            training = RankedTraining(self._group, config, *place, hang_timeout=HANG_S if name == "hang" else 0)
            seen = [training.run_epoch()["micro_batch"]]
            member = self._group._nodes[1]._actor
            pid = ray.get(member.__ray_call__.remote(lambda _: os.getpid()))
            write_json(self._folder / name / "begun.json", pid)
            while len(seen) < (3 if name == "oom" else 3000):
                seen.append(training.run_epoch()["micro_batch"])
            training.close()
            return {"micro_batches": seen}
        except RankFailure as failure:
            return {"kind": failure.kind, "cause": str(failure), "alive": self._group.alive}


def strike(place, act):
    """In a thread: once the trial of folder `place` has trained an epoch. `act` is given the pid of the process that
    starts ranks on the other node."""

    def wait():
        while not (place / "begun.json").exists():
            time.sleep(0.05)
        act(read_json(place / "begun.json"))

    threading.Thread(target=wait, daemon=True).start()


def main(data, folder):
    cluster = Cluster()
    cluster.add_node(num_cpus=1, resources={"first": 1}, include_dashboard=False)
    other = cluster.add_node(num_cpus=1, resources={"second": 1})
    ray.init(address=cluster.address, log_to_driver=False)
    bundles = placement_group([{"CPU": 1, "first": 1}, {"CPU": 1, "second": 1}], strategy="STRICT_SPREAD")
    ray.get(bundles.ready())
    place = PlacementGroupSchedulingStrategy(bundles, 0)
    trial = ray.remote(Trial).options(num_cpus=1, scheduling_strategy=place).remote()
    ray.get(trial.begin.remote(data, folder))
    strikes = {
        "actor": lambda pid: os.kill(pid, signal.SIGKILL),
        "host": lambda _: cluster.remove_node(other, allow_graceful=False),
    }
    found = {}
    for name in ("oom", "killed", "hang", "actor", "host"):
        if name in strikes:
            strike(Path(folder) / name, strikes[name])
        found[name] = ray.get(trial.train.remote(name))
        write_json(Path(folder) / "found.json", found)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
