"""Wrong sweeps and wrong requests, each wrong in one thing, and the place and the site where they are wrong.

Run by test_wrong_sweeps.py, listed with their messages in docs/refusals.md, timed by bench/check/refusals.py.
"""

from __future__ import annotations

import stat
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SWEEP = """\
data: data
metric: accuracy
hyperparameters:
  model.timm_image.checkpoint_name: test_resnet
  model.timm_image.pretrained: false
  optimization.learning_rate: {loguniform: [1e-4, 1e-1]}
  optimization.max_epochs: 6
  env.batch_size: 8
hyperparameter_tune_kwargs: {num_trials: 9}
"""
MODEL, SIZE = "model.timm_image.checkpoint_name", "model.timm_image.image_size"

FILES = {  # whole files that are wrong, and site files
    "big.yaml": "slurm: {partition: gpu}\nlimits: {nodes: 2, gpus_per_node: 2}\n",
    "typo-of-site.yaml": "slrum: {partition: gpu}\n",
    "word-of-site.yaml": "slurm: {partion: gpu}\n",
    "misindented.yaml": "data: data\n hyperparameters: {}\n",
    "typo-on-top.yaml": SWEEP.replace("hyperparameters:", "hyperparameter:"),
    "twice.yaml": SWEEP.replace("  env.batch_size: 8\n", "  env.batch_size: 8\n  optim.lr: 0.1\n"),
    "list.yaml": "- data: data\n",
}
CASES = [  # name, sweep file, flags, exit code, words of the one line
    # -- the sweep file ---------------------------------------------------------------------------------------------
    ("no such file", "swep.yaml", [], 2, ["swep.yaml", "cannot be read"]),
    ("not YAML", "misindented.yaml", [], 2, ["line 2", "not valid YAML"]),
    ("not a mapping", "list.yaml", [], 2, ["must be a YAML mapping"]),
    ("unknown key on top", "typo-on-top.yaml", [], 2, ["Did you mean 'hyperparameters'"]),
    ("a key in two spellings", "twice.yaml", [], 2, ["given twice"]),
    ("unknown key", "sweep.yaml", ["--set", "optimization.learning_rat=0.1"], 2, ["Did you mean"]),
    ("unknown model", "sweep.yaml", ["--set", f"{MODEL}=resnet81"], 2, ["no model 'resnet81'", "Did you mean"]),
    ("unknown optimiser", "sweep.yaml", ["--set", "optim.optim_type=adamww"], 2, ["Did you mean 'adamw'"]),
    ("unknown metric", "sweep.yaml", ["--set", "metric=acuracy"], 2, ["Did you mean 'accuracy'"]),
    ("a metric of numbers for classes", "sweep.yaml", ["--set", "metric=rmse"], 2, ["accuracy", "'rmse'"]),
    ("an unknown limit", "sweep.yaml", ["--set", "constraints={parameter: 5e6}"], 2, ["Did you mean 'parameters'"]),
    ("no model within the limit", "sweep.yaml", ["--set", "constraints={parameters: 1000}"], 2,
     ["leaves no model: test_resnet, adamw has", "raise it"]),
    ("unknown domain", "sweep.yaml", ["--set", "optim.lr={logunifrom: [1e-4, 1]}"], 2, ["Did you mean 'loguniform'"]),
    ("a range upside down", "sweep.yaml", ["--set", "optim.lr={uniform: [1, 0]}"], 2, ["lower end below"]),
    ("logarithm of 0", "sweep.yaml", ["--set", "optim.lr={loguniform: [0, 1]}"], 2, ["above 0"]),
    ("unknown scheduler", "sweep.yaml", ["--set", "scheduler=ASHAA"], 2, ["Did you mean 'ASHA'"]),
    ("unknown transform", "sweep.yaml", ["--set", "model.timm_image.train_transforms=[random_horizontal_flop]"], 2,
     ["Did you mean 'random_horizontal_flip'"]),
    ("a first rung after the last epoch", "sweep.yaml", ["--set", "scheduler_init_args={grace_period: 60}"], 2,
     ["grace_period 60", "6 epochs"]),
    ("a point outside the space", "sweep.yaml", ["--set", "points_to_evaluate=[{optim.lr: 3}]"], 2, ["outside"]),
    ("nothing searched", "sweep.yaml", ["--set", "optim.lr=0.1"], 2, ["nothing is searched", "num_trials: 1"]),
    # -- does it make sense -----------------------------------------------------------------------------------------
    ("a batch of more than all", "sweep.yaml", ["--set", "env.batch_size=512"], 2,
     ["env.batch_size", "give 4 or less"]),
    ("a piece of more than a batch", "sweep.yaml", ["--set", "env.per_gpu_batch_size=64"], 2,
     ["64", "env.batch_size 8"]),
    ("a target in percent", "sweep.yaml", ["--set", "target=95"], 2, ["at most 1", "Did you mean 0.95?"]),
    ("a warm-up without end", "sweep.yaml", ["--set", "optim.warmup_steps=500"], 2, ["warmup_steps", "raise"]),
    ("GPUs for a trial that no host has", "sweep.yaml", ["--set", "resources_per_trial={num_gpus: 8}"], 2,
     ["num_gpus 8", "has 2", "--gpus-per-node"]),
    ("a trial over more hosts than there are", "sweep.yaml", ["--set", "resources_per_trial={num_nodes: 2}"], 2,
     ["num_nodes 2", "has 1 host;", "--nodes"]),
    ("a trial over hosts, on this machine", "sweep.yaml",
     ["--set", "resources_per_trial={num_nodes: 2}", "--cluster", "local"], 2, ["num_nodes 2", "one node"]),
    ("a trial over hosts of a pool", "sweep.yaml",
     ["--set", "resources_per_trial={num_nodes: 2}", "--nodes", "2", "--mode", "pool"], 2, ["num_nodes 2", "pool"]),
    ("a trial that cannot be spread alike", "sweep.yaml",
     ["--set", "resources_per_trial={num_processes: 3, num_nodes: 2}"], 2, ["num_processes 3", "a multiple of 2"]),
    ("CPUs for a trial that no host has", "sweep.yaml", ["--set", "resources_per_trial={num_cpus: 64}"], 2,
     ["num_cpus 64", "--cpus-per-task"]),
    ("GPU training without GPUs", "sweep.yaml", ["--set", "env.accelerator=gpu", "--gpus-per-node", "0"], 2,
     ["env.accelerator gpu", "--gpus-per-node"]),
    # -- data and directory -----------------------------------------------------------------------------------------
    ("no data", "sweep.yaml", ["--set", "data=dat"], 3, ["does not exist", "prepare.py"]),
    ("photographs that were not prepared", "sweep.yaml", ["--set", "data=photos"], 3,
     ["no manifest.json", "prepare.py"]),
    ("a shard cut short", "sweep.yaml", ["--set", "data=short"], 3, ["bytes, was written with", "copy it again"]),
    ("a shard lost", "sweep.yaml", ["--set", "data=lost"], 3, ["is missing", "copy it again"]),
    ("a shard overwritten", "sweep.yaml", ["--set", "data=spoilt"], 3, ["is no HDF5 file"]),
    ("a directory that exists", "sweep.yaml", ["--run-dir", "photos"], 2, ["exists already", "--resume"]),
    ("a directory inside a file", "sweep.yaml", ["--runs-dir", "sweep.yaml/runs"], 2, ["is a file", "--runs-dir"]),
    # -- models -----------------------------------------------------------------------------------------------------
    ("an image size that the model has not", "sweep.yaml", ["--set", f"{MODEL}=test_vit", "--set", f"{SIZE}=100"], 5,
     ["test_vit cannot", "100"]),
    ("an option that no configuration can use", "sweep.yaml",
     ["--set", f"{MODEL}={{choice: [test_resnet, test_vit]}}", "--set", f"{SIZE}=100"], 5,
     ['"test_vit" can never be trained, take it out']),
    ("stochastic depth that the model has not", "sweep.yaml", ["--set", "model.timm_image.drop_path_rate=0.2",
     "--set", f"{MODEL}=vgg11"], 5, ["drop_path_rate", "set it to 0"]),
    ("a part that the model has not", "sweep.yaml", ["--set", "optim.peft=norm_fit", "--set", f"{MODEL}=vgg11"], 5,
     ["norm_fit", "choose of"]),
    ("weights that are not here", "sweep.yaml", ["--set", "model.timm_image.pretrained=auto"], 5,
     ["no pretrained weights of test_resnet", "prefetch.py"]),
    ("weights in a file that is not there", "sweep.yaml", ["--set", "model.timm_image.pretrained=mine.pth"], 5,
     ["there is no file", "mine.pth"]),
    # -- the site ---------------------------------------------------------------------------------------------------
    ("unknown partition", "sweep.yaml", ["--partition", "gpus"], 2, ["Did you mean 'gpu'"]),
    ("a partition that takes no jobs", "sweep.yaml", ["--partition", "closed"], 4, ["DRAIN", "--partition"]),
    ("a partition of others", "sweep.yaml", ["--partition", "staff"], 2, ["professors", "--partition"]),
    ("an account that is not mine", "sweep.yaml", ["--account", "vison"], 2, ["Did you mean 'vision'", "biology"]),
    ("a partition of another account", "sweep.yaml", ["--partition", "physics", "--account", "vision"], 2,
     ["may not use partition physics"]),
    ("unknown QoS", "sweep.yaml", ["--qos", "shrt"], 2, ["Did you mean 'short'"]),
    ("a QoS that is not mine", "sweep.yaml", ["--qos", "long"], 2, ["not one of yours", "normal, short"]),
    ("a QoS that the partition does not take", "sweep.yaml", ["--partition", "debug", "--qos", "normal", "--time", "5"],
     2, ["takes short"]),
    ("longer than the partition", "sweep.yaml", ["--partition", "debug", "--qos", "short", "--time", "1:00:00"], 2,
     ["at most 10 minutes"]),
    ("longer than the QoS", "sweep.yaml", ["--qos", "short", "--time", "5:00:00"], 2, ["QoS short allows 02:00:00"]),
    ("more GPUs than the QoS", "sweep.yaml", ["--qos", "normal", "--nodes", "3", "--gpus-per-node", "4"], 2,
     ["QoS normal allows a person 8 GPUs"]),
    ("more hosts than there are", "sweep.yaml", ["--nodes", "9"], 2, ["at most 6 hosts"]),
    ("more hosts with so many GPUs", "sweep.yaml", ["--nodes", "5", "--gpus-per-node", "4"], 2, ["has 4 hosts with 4"]),
    ("fewer hosts than must be", "sweep.yaml", ["--partition", "large"], 2, ["needs at least 4"]),
    ("more GPUs than a host has", "sweep.yaml", ["--gpus-per-node", "16"], 2, ["at most 4 GPUs a host"]),
    ("more memory than a host has", "sweep.yaml", ["--mem", "2T"], 2, ["256000 MB"]),
    ("unknown feature", "sweep.yaml", ["--constraint", "zen4"], 2, ["Did you mean 'zen3'"]),
    ("GPUs of a type that there are not", "sweep.yaml", ["--gpus-per-node", "a10:2"], 2,
     ["no GPUs of type 'a10'", "Did you mean 'a100'"]),
    ("slices of GPUs that there are not", "sweep.yaml", ["--gpus-per-node", "1g.10gb:2"], 2,
     ["no GPUs of type '1g.10gb'", "It has a100, v100"]),
    ("one kind of GPU in two ways", "sweep.yaml", ["--gpus-per-node", "4", "--gres", "gpu:2"], 2, ["give one of them"]),
    ("two sorts of memory", "sweep.yaml", ["--mem", "8G", "--mem-per-gpu", "4G"], 2, ["give one of them"]),
    ("a dependency that is none", "sweep.yaml", ["--dependency", "after job 12"], 2, ["afterok:JOB"]),
    ("mail at an event that there is not", "sweep.yaml", ["--mail-type", "ENDS"], 2, ["Did you mean 'END'"]),
    ("a flag of sbatch's that a sweep needs itself", "sweep.yaml", ["--sbatch-arg=--array=1-8"], 2, ["--mode pool"]),
    ("unknown site", "sweep.yaml", ["--site", "bigg"], 2, ["there is no site 'bigg'"]),
    ("a site file with an unknown key", "sweep.yaml", ["--site", "typo-of-site.yaml"], 2, ["Did you mean 'slurm'"]),
    ("a site file with an unknown flag", "sweep.yaml", ["--site", "word-of-site.yaml"], 2,
     ["Did you mean 'partition'"]),
    ("more hosts than the site file allows", "sweep.yaml", ["--site", "big.yaml", "--nodes", "3"], 2,
     ["allows at most 2", "big.yaml"]),
    ("a time that is none", "sweep.yaml", ["--time", "2h"], 2, ["SLURM's forms"]),
]  # fmt: skip

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
_ALL = (
    "AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL QoS=N/A MaxNodes=UNLIMITED MaxTime=1-00:00:00 MinNodes=0 State=UP"
)
_DEBUG = _ALL.replace("AllowQos=ALL", "AllowQos=short").replace("1-00:00:00", "00:10:00")
SCRIPTS = {
    "sinfo": f'case "$*" in\n*-N*) {_HOSTS} ;;\n*) cat <<END\n{PARTITIONS}END\n;;\nesac\n',
    "scontrol": f"""\
case "$*" in
*config*) echo "ClusterName = big"; echo "AccountingStorageEnforce = associations,limits,qos" ;;
*closed*) echo "PartitionName=closed {_ALL.replace("State=UP", "State=DRAIN")}" ;;
*staff*) echo "PartitionName=staff {_ALL.replace("AllowGroups=ALL", "AllowGroups=professors")}" ;;
*physics*) echo "PartitionName=physics {_ALL.replace("AllowAccounts=ALL", "AllowAccounts=physics")}" ;;
*large*) echo "PartitionName=large {_ALL.replace("MinNodes=0", "MinNodes=4")}" ;;
*debug*) echo "PartitionName=debug {_DEBUG}" ;;
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


def make_site(folder: Path) -> Path:
    """A folder for PATH: the commands of a SLURM site, giving answers as sites with these settings give them."""
    for name, script in SCRIPTS.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


def tell(stderr: str, place: Path) -> str:
    """The error in what submit.py said, as docs/refusals.md has it: paths of this run by names, fit for a table."""
    said = next(line for line in stderr.splitlines() if line.startswith("slurmtune: error: "))
    said = said.removeprefix("slurmtune: error: ").replace(str(place), "/home/anna").replace(str(ROOT), "slurmtune")
    return said.replace("|", "\\|")


def make_place(folder: Path) -> Path:
    """A folder with photographs, whole and damaged data, sweep files and site files."""
    import numpy as np
    from PIL import Image

    from launch import prepare

    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(15):
            pixels = rng.integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{i}.png")
    for data in ("data", "short", "lost", "spoilt"):
        flags = [str(folder / "photos"), "--out", str(folder / data), "--encoding", "raw", "--size", "32"]
        assert prepare.main(flags) == 0
    shard = {data: next((folder / data).glob("*.h5")) for data in ("short", "lost", "spoilt")}
    shard["short"].write_bytes(shard["short"].read_bytes()[:-100])
    shard["lost"].unlink()
    shard["spoilt"].write_bytes(b"\0" * shard["spoilt"].stat().st_size)
    for name, text in {**FILES, "sweep.yaml": SWEEP}.items():
        (folder / name).write_text(text)
    return folder
