"""sbatch's words in SLURM's own forms: what is taken, and what is refused with one line before sbatch sees it."""

from __future__ import annotations

import json
from dataclasses import asdict, fields

import pytest

from hpo.cluster.request import SlurmRequest
from hpo.cluster.words import Gpus, count_gpus, parse_gpus, parse_gres, parse_memory
from hpo.config import SLURM_KEYS
from hpo.errors import UsageError


def lines(**words):
    return SlurmRequest.from_words(words).directives("name", "log")


def test_every_word_is_a_flag_and_a_key_of_the_sweep_file():
    assert {field.name for field in fields(SlurmRequest)} == set(SLURM_KEYS)


@pytest.mark.parametrize(("text", "megabytes"), [("16G", 16384), ("16g", 16384), ("4000", 4000), ("1T", 2**20),
                                                  ("2048K", 2), ("0", 0), ("64GB", 65536)])  # fmt: skip
def test_memory(text, megabytes):
    assert parse_memory(text) == megabytes


def test_gpus():
    assert parse_gpus("gpus_per_node", 4) == Gpus(4)
    assert parse_gpus("gpus_per_node", "h100:4") == Gpus(4, "h100")
    assert parse_gpus("gpus_per_node", "1g.10gb:2") == Gpus(2, "1g.10gb")
    assert parse_gpus("gpus_per_node", "a100_1g.5gb+me:1") == Gpus(1, "a100_1g.5gb+me")
    assert parse_gres("gpu:1g.10gb:2") == (Gpus(2, "1g.10gb"), "")
    assert parse_gres("gpu:3g.20gb") == (Gpus(1, "3g.20gb"), "")
    assert parse_gres("gpu:2") == (Gpus(2), "")
    assert parse_gres("gpu:a100:2,nvme:1") == (Gpus(2, "a100"), "nvme:1")
    assert parse_gres("gpu:a100") == (Gpus(1, "a100"), "")
    assert parse_gres("gpu") == (Gpus(1), "")
    assert parse_gres("shard:8") == (None, "shard:8")


def test_gpus_of_a_host_by_type_slices_too():
    assert count_gpus("gpu:a100:4(S:0-1),gpu:1g.10gb:7,shard:8") == {"a100": 4, "1g.10gb": 7}
    assert count_gpus("gpu:a100_1g.5gb+me:1,gpu:a100:2") == {"a100_1g.5gb+me": 1, "a100": 2}
    assert count_gpus("gpu:4(S:0-1)") == {"": 4}
    assert count_gpus("(null)") == {}


def test_gpus_are_asked_for_in_the_sites_way():
    assert "--gpus-per-node=h100:4" in lines(gpus_per_node="h100:4")
    assert "--gres=gpu:h100:4,nvme:1" in lines(gres="gpu:h100:4,nvme:1")
    assert "--gres=gpu:4" in lines(gpus_per_node=4, gpus_as="gres")
    assert {"--gpus-per-node=2", "--gres=nvme:1"} <= set(lines(gpus_per_node=2, gres="nvme:1"))
    assert not [line for line in lines(gpus_per_node=0) if "gpu" in line]


def test_stronger_words_win_as_a_person_would_mean_them():
    site = SlurmRequest.from_words({"gpus_per_node": "a100:4", "gpus_as": "gres", "mem": "64G",
                                    "sbatch_arg": ["--switches=1"]})  # fmt: skip
    both = site.merged(
        SlurmRequest.from_words({"gpus_per_node": 2, "mem_per_gpu": "8G", "sbatch_arg": "--oversubscribe"})
    )
    assert (both.gpus_per_node, both.gpu_type, both.gpus_as) == (2, None, "gres")
    assert (both.mem, both.mem_per_gpu) == (None, "8G")
    assert both.sbatch_arg == ("--switches=1", "--oversubscribe")
    assert site.merged(SlurmRequest()) == site


def test_flags_that_are_written_as_sbatch_reads_them():
    said = lines(exclusive=True, comment="two words", mail_type="end,fail", dependency="afterok:12:13,singleton",
                 sbatch_arg=["--switches=1@10:00", "--oversubscribe"], job_name="mine")  # fmt: skip
    assert "--exclusive" in said
    assert "--comment='two words'" in said
    assert "--mail-type=END,FAIL" in said
    assert "--job-name=mine" in said
    assert {"--switches=1@10:00", "--oversubscribe"} <= set(said)
    assert "--exclusive=user" in lines(exclusive="user")
    assert not [line for line in lines(exclusive=False) if "exclusive" in line]


def test_a_request_survives_the_trip_through_json():
    words = {"gpus_per_node": "h100:4", "gres": "nvme:1", "gpus_as": "gres", "exclusive": "user", "time": "1-0",
             "sbatch_arg": ["--switches=1"], "comment": "a b"}  # fmt: skip
    request = SlurmRequest.from_words(words)
    assert SlurmRequest.from_words(json.loads(json.dumps(asdict(request)))) == request


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"gpus_per_node": "four"}, "must be a number of GPUs, or TYPE:NUMBER"),
        ({"gpus_per_node": "4:h100"}, "TYPE:NUMBER as in h100:4 or 1g.10gb:2, got '4:h100'"),
        ({"gpus_per_node": "2:4"}, "TYPE:NUMBER"),
        ({"gpus_per_node": "h100:4", "gres": "gpu:2"}, "ask for different GPUs"),
        ({"gres": "gpu:a100:1,gpu:h100:1"}, "one kind of GPU a job"),
        ({"gres": "gpu=4"}, "--gres takes NAME:NUMBER"),
        ({"gpus_as": "gpus"}, "gpus_as must be one of gpus-per-node, gres"),
        ({"mem": "4.5G"}, "one of SLURM's sizes"),
        ({"mem": "lots"}, "one of SLURM's sizes"),
        ({"mem": "4G", "mem_per_gpu": "2G"}, "--mem and --mem-per-gpu: give one of them"),
        ({"time": "4h"}, "SLURM's forms"),
        ({"cpus_per_task": "0"}, "at least 1"),
        ({"dependency": "after 12"}, "--dependency takes afterok:JOB"),
        ({"dependency": "afterok:job"}, "afterok:JOB"),
        ({"mail_type": "DONE"}, "there is no 'DONE'"),
        ({"mail_type": "ENDD"}, "Did you mean 'END'"),
        ({"exclusive": "hosts"}, "--exclusive stands alone or is user"),
        ({"sbatch_arg": ["switches=1"]}, "one flag of sbatch as --flag or --flag=value"),
        ({"sbatch_arg": ["--array=1-10"]}, "a sweep is one job, or a pool"),
        ({"sbatch_arg": ["--output=x"]}, "logs are in the sweep's directory"),
        ({"sbatch_arg": ["--partition=gpu"]}, "give --partition itself"),
        ({"sbatch_arg": ["--comment=a\n#SBATCH -p x"]}, "one flag"),
        ({"comment": "a\nb"}, "--comment must be one line"),
        ({"account": "two words"}, "--account must be one word"),
        ({"nodelist": True}, "--nodelist must be one word"),
    ],
)
def test_wrong_flags_are_refused_with_one_line(words, message):
    with pytest.raises(UsageError, match=message.replace("[", r"\[")) as refused:
        SlurmRequest.from_words(words)
    assert "\n" not in str(refused.value)
