"""What a job asks for: SLURM's own forms, our defaults, and sbatch's refusals turned into a remedy."""

from __future__ import annotations

import pytest

from hpo.cluster.completion import combine
from hpo.cluster.partitions import (
    check_fits,
    choose_partition,
    choose_partitions,
    fill_in,
    parse_partitions,
    read_partitions,
)
from hpo.cluster.request import SlurmRequest
from hpo.cluster.sites import parse_site
from hpo.cluster.submission import ROOT, explain_refusal, render_script
from hpo.cluster.words import format_minutes, parse_minutes
from hpo.errors import UsageError
from hpo.layout import SweepDirectory
from launch.again import _asked_before

SINFO = """gpu*|3|gpu:4|1:00:00|8|8000
debug|1|(null)|10:00|8|8000
debug|2|gpu:a100:1(S:0-1)|10:00|16+|32000+
long|5|gpu:h100:8(S:0-1),nvme:1|infinite|96|1000000
"""


def test_partitions_are_read_as_sinfo_prints_them():
    gpu, debug, long = parse_partitions(SINFO)
    assert (gpu.default, gpu.nodes, gpu.gpus, gpu.minutes) == (True, 3, 4, 60)
    assert (debug.nodes, debug.gpus, debug.cpus, debug.memory_mb, debug.minutes) == (3, 1, 16, 32000, 10)
    assert (long.gpus, long.minutes) == (8, None)


def test_a_later_job_waits_for_nothing_that_is_over():
    first = SlurmRequest.from_words({"partition": "gpu", "begin": "16:00", "dependency": "afterok:12", "time": "5"})
    assert first.again().flags() == ["--partition=gpu", "--time=5"]
    assert _asked_before({"request": vars(first)}) == first.again()


def test_sbatchs_variables_are_the_weakest_words(monkeypatch):
    monkeypatch.setenv("SBATCH_ACCOUNT", "abc")
    monkeypatch.setenv("SBATCH_PARTITION", "gpu")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "30")
    site = parse_site({"slurm": {"partition": "debug", "time": "20"}})
    request, _ = combine({"time": "10"}, site)
    assert (request.account, request.partition, request.time) == ("abc", "debug", "10")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "soon")
    with pytest.raises(UsageError, match="time 'soon'"):
        combine({}, site)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("30", 30),
        ("30:00", 30),
        ("0:30", 1),
        ("1:30:00", 90),
        ("2-0", 2880),
        ("1-12:30", 2190),
        ("1-0:0:1", 1441),
        ("UNLIMITED", 525600),
    ],
)
def test_times(text, minutes):
    assert parse_minutes(text) == minutes


@pytest.mark.parametrize("text", ["", "1h", "1:2:3:4", "0", "-5", "tomorrow"])
def test_times_that_slurm_would_not_take(text):
    with pytest.raises(UsageError):
        parse_minutes(text)


def test_minutes_are_printed_in_slurms_form():
    assert [format_minutes(m) for m in (5, 90, 1500)] == ["00:05:00", "01:30:00", "1-01:00:00"]


def test_defaults_are_lowered_to_what_the_partition_has_and_said():
    gpu, debug, long = parse_partitions(SINFO)
    filled, notes = fill_in(SlurmRequest(partition="debug"), debug)
    assert (filled.nodes, filled.gpus_per_node, filled.time) == (1, 1, "00:10:00")
    assert "--gpus-per-node 1" in notes
    filled, _ = fill_in(SlurmRequest(), gpu)
    assert (filled.partition, filled.gpus_per_node, filled.cpus_per_task, filled.mem) == ("gpu", 2, 4, "4000M")
    filled, _ = fill_in(SlurmRequest(), long)
    assert (filled.gpus_per_node, filled.cpus_per_task, filled.time) == (2, 24, "01:00:00")


def test_what_was_asked_for_is_kept():
    gpu, _, _ = parse_partitions(SINFO)
    asked = SlurmRequest(nodes=9, gpus_per_node=0, time="5-0", cpus_per_task=2, mem="1G")
    filled, notes = fill_in(asked, gpu)
    assert (filled.nodes, filled.gpus_per_node, filled.time, filled.cpus_per_task, filled.mem) == (9, 0, "5-0", 2, "1G")
    assert notes == []
    assert not any("gpus" in line for line in filled.directives("n", "l"))


def test_a_partition_that_is_not_there_is_refused_with_the_nearest():
    partitions = parse_partitions(SINFO)
    assert [partition.name for partition in choose_partitions(None, partitions)] == ["gpu"]
    with pytest.raises(UsageError, match="Did you mean 'debug'"):
        choose_partitions("debugg", partitions)
    with pytest.raises(UsageError, match="no default partition"):
        choose_partitions(None, partitions[1:])


def test_of_several_partitions_the_first_that_takes_the_job_gives_the_defaults():
    partitions = parse_partitions(SINFO)
    asked = SlurmRequest(partition="debug,gpu", gpus_per_node=4)
    assert choose_partition(asked, partitions).name == "gpu"
    assert fill_in(asked, choose_partition(asked, partitions))[0].partition == "debug,gpu"
    with pytest.raises(UsageError, match="partition debug has at most 1 GPUs a host"):
        choose_partition(SlurmRequest(partition="debug,gpu", gpus_per_node=16), partitions)
    with pytest.raises(UsageError, match="partition 'gup' does not exist here. Did you mean 'gpu'"):
        choose_partition(SlurmRequest(partition="debug,gup"), partitions)


MIXED = """all*|4|gpu:a100:4(S:0-1),gpu:1g.10gb:14|infinite|64|256000
all*|2|gpu:v100:2|infinite|16|64000+
all*|9|(null)|UNLIMITED|128|1000000
"""


@pytest.mark.parametrize(
    ("words", "gpus", "cpus", "memory"),
    [
        ({}, 2, 7, "28444M"),  # of the most frequent hosts with two GPUs of any type
        ({"gpus_per_node": "v100:2"}, 2, 16, "64000M"),
        ({"gpus_per_node": "1g.10gb:7"}, 7, 32, "128000M"),
        ({"gpus_per_node": 0}, 0, 16, "125000M"),
        ({"gpus_per_node": 0, "nodes": 12}, 0, 16, "64000M"),  # so that every host will do
    ],
)
def test_defaults_are_those_of_hosts_that_can_take_the_job(words, gpus, cpus, memory):
    [partition] = parse_partitions(MIXED)
    filled, _ = fill_in(SlurmRequest.from_words(words), partition)
    assert (filled.gpus_per_node, filled.cpus_per_task, filled.mem) == (gpus, cpus, memory)


def test_hosts_without_gpus_may_be_the_largest():
    [partition] = parse_partitions(MIXED)
    assert (partition.minutes, partition.nodes, partition.gpus) == (None, 15, 18)
    check_fits(SlurmRequest(gpus_per_node=0, cpus_per_task=128, mem="900000M", time="UNLIMITED"), partition)


def test_what_sinfo_says_where_little_is_configured():
    """RealMemory is 1 until a site sets it; a partition may be empty; SLURM_CLUSTERS adds a line."""
    plain, empty = parse_partitions("CLUSTER: big\nplain*|2|(null)|infinite|1|1\nempty|0|(null)|n/a|0|0\n")
    filled, notes = fill_in(SlurmRequest(), plain)
    assert (filled.mem, filled.gpus_per_node, filled.cpus_per_task) == (None, 0, 1)
    assert not [note for note in notes if "--mem" in note]
    check_fits(SlurmRequest(mem="64G"), plain)
    with pytest.raises(UsageError, match="at most 0 hosts"):
        check_fits(SlurmRequest(nodes=1), empty)


def test_a_qos_may_lift_the_limit_on_time():
    gpu, _, _ = parse_partitions(SINFO)
    with pytest.raises(UsageError, match="at most 60 minutes"):
        check_fits(SlurmRequest(time="2:00:00"), gpu)
    check_fits(SlurmRequest(time="2:00:00", qos="long"), gpu)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"nodes": "two"}, "--nodes must be a whole number"),
        ({"nodes": 0}, "at least 1"),
        ({"time": "soon"}, "SLURM's forms"),
        ({"partition": "gpu; rm -rf"}, "one word"),
        ({"account": "a\nb"}, "one word"),
    ],
)
def test_bad_flags_are_refused_before_sbatch_sees_them(words, message):
    with pytest.raises(UsageError, match=message):
        SlurmRequest.from_words(words)


def test_flags_win_over_the_sweep_file():
    merged = SlurmRequest(partition="a", nodes=2).merged(SlurmRequest(nodes=4))
    assert (merged.partition, merged.nodes) == ("a", 4)


def test_the_script_is_the_template_with_other_settings(tmp_path):
    directory = SweepDirectory(tmp_path / "a run; $HOME 'x'")
    script = render_script(SlurmRequest(partition="gpu", nodes=2, time="5"), directory, "name")
    assert "#SBATCH --partition=gpu\n#SBATCH --nodes=2\n#SBATCH --time=5\n" in script
    assert script.count("#SBATCH --nodes") == 1
    assert "run_step" in script
    assert "srun " in (ROOT / "slurm" / "job.sh").read_text()
    assert "RUN='" in script  # quoted for the shell
    assert "@{" not in script


def test_refusals_are_explained():
    message = (
        "Command sbatch failed: sbatch: error: Batch job submission failed: "
        "Invalid account or account/partition combination specified\n"
    )
    explained = explain_refusal(message)
    assert "Invalid account" in explained
    assert "--account" in explained
    assert "\n" not in explained


def test_what_a_job_may_have_of_a_host_bounds_the_defaults(tmp_path, monkeypatch):
    """A partition of hosts whose other CPUs are for jobs of another one; and one that is hidden until it is named."""
    lines = {"sinfo": "case $* in *--all*) echo 'secret|1|gpu:4|infinite|64|256000';; esac\n"
                      "echo 'gpu*|3|gpu:4|1:00:00|64|256000'",
             "scontrol": "echo 'PartitionName=gpu MaxCPUsPerNode=16 MaxMemPerNode=64000 MaxNodes=UNLIMITED'",
             "sbatch": ""}  # fmt: skip
    for name, line in lines.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    [gpu] = read_partitions()
    filled, _ = fill_in(SlurmRequest(gpus_per_node=4), gpu)
    assert (filled.cpus_per_task, filled.mem) == (16, "64000M")
    with pytest.raises(UsageError, match="at most 16 CPUs a host"):
        check_fits(SlurmRequest(cpus_per_task=32), gpu)
    assert {partition.name for partition in read_partitions("secret")} == {"gpu", "secret"}
