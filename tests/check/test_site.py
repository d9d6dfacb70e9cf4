"""A sound request is not refused for what SLURM says where little is configured, and rare forms of answers are read.

Answers are in the form of the commands that hpo.check.controller names, with the defaults of slurm.conf(5).
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from hpo.check.controller import (
    Site,
    is_away,
    parse_associations,
    parse_config,
    parse_hosts,
    parse_qos,
    parse_words,
)
from hpo.check.findings import Findings
from hpo.check.site import judge_request
from hpo.cluster.request import SlurmRequest

PARTITION = (  # a partition of which slurm.conf says nothing but the hosts
    "PartitionName=all AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=NO QoS=N/A "
    "DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED "
    "MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=n[1-4] PriorityJobFactor=1 RootOnly=NO ReqResv=NO "
    "OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State=UP TotalCPUs=4 DefMemPerNode=UNLIMITED"
)
HOSTS = "n1|(null)|(null)|1|1|idle\nn2|(null)|(null)|1|1|idle*\n"
BARE = Site(
    partition=parse_words(PARTITION),
    hosts=parse_hosts(HOSTS),
    associations=None,  # no slurmdbd: sacctmgr fails
    qos=None,
    enforced=frozenset(),
    groups=frozenset({"users"}),
)
QOS = "normal|||||\nlong|7-00:00:00|||PartitionTimeLimit,OverPartQOS\npart|1-00:00:00|gres/gpu=8||\nshort|2:00:00|||\n"
FULL = replace(
    BARE,
    partition=parse_words(PARTITION.replace("MaxTime=UNLIMITED", "MaxTime=2-00:00:00").replace("QoS=N/A", "QoS=part")),
    hosts=parse_hosts(
        "n1|gpu:a100:4(S:0-1),gpu:1g.10gb:7,shard:8|GPU_MEM:80GB,rack1,ib|256000|64|mixed\n"
        "n2|gpu:a100:4|GPU_MEM:80GB,rack2|256000+|64|idle~\n"
    ),
    associations=parse_associations("big|vision||normal,+long|vision\nbig|physics|all|normal|vision\n", "big"),
    qos=parse_qos(QOS.replace("|||||", "||||")),
    enforced=frozenset({"associations", "limits", "qos"}),
)


def judge(site, **words):
    findings = Findings()
    judge_request(SlurmRequest.from_words({"partition": "all", **words}), site, "all", findings)
    return [str(error) for error in findings.errors]


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"mem": "16G"},  # RealMemory=1
        {"time": "30-0"},
        {"time": "UNLIMITED"},
        {"account": "vision", "qos": "normal"},  # nobody knows them, nobody minds
        {"nodes": 2, "gpus_per_node": 0, "cpus_per_task": 1},
    ],
)
def test_where_nothing_is_configured_nothing_is_refused(words):
    assert judge(BARE, **words) == []


def test_where_slurm_says_nothing_nothing_is_refused():
    silent = replace(BARE, partition=None, hosts=None)
    assert judge(silent, gpus_per_node="h100:8", mem="2T", constraint="x", nodes=99, account="a", qos="b") == []


@pytest.mark.parametrize(
    "words",
    [
        {"gpus_per_node": "1g.10gb:7"},
        {"gpus_per_node": "a100:4", "nodes": 2},
        {"gpus_per_node": 2, "constraint": "GPU_MEM:80GB"},
        {"constraint": "[rack1*1|rack2*2]"},
        {"constraint": "(rack1|rack2)&GPU_MEM:80GB"},
        {"account": "Vision", "qos": "Normal"},  # SLURM keeps them in small letters
        {"qos": "long", "time": "5-0"},  # this QoS lifts the partition's limit, and goes before its QoS
        {"qos": "long", "time": "5-0", "gpus_per_node": 2},
        {"time": "1-0"},
        {"gres": "gpu:1g.10gb:4,shard:8"},
    ],
)
def test_what_a_site_has_is_taken(words):
    assert judge(FULL, **words) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"gpus_per_node": "1g.10gb:8"}, "has 0 hosts with 8 1g.10gb GPUs, and 1 are asked for; the most on one host"),
        ({"gpus_per_node": "1g.20gb:1"}, "no GPUs of type '1g.20gb'. Did you mean '1g.10gb'"),
        ({"gpus_per_node": "1g.10gb:4", "nodes": 2}, "has 1 hosts with 4"),
        ({"constraint": "GPU_MEM:40GB"}, "has the feature 'GPU_MEM:40GB'. Did you mean 'GPU_MEM:80GB'"),
        ({"constraint": "[rack1*1|rack3*2]"}, "has the feature 'rack3'"),
        ({"time": "3-0"}, "has at most 2880 minutes"),
        ({"time": "30:00:00"}, "QoS part allows 1-00:00:00"),  # the partition's QoS goes before the job's
        ({"qos": "long", "time": "8-0"}, "QoS long allows 7-00:00:00"),
        ({"nodes": 3, "gpus_per_node": 3}, "QoS part allows a job 8 GPUs"),
        ({"qos": "short"}, "QoS 'short' is not one of yours"),
        ({"account": "physic"}, "Did you mean 'physics'"),
        ({"mem": "300G"}, "the largest host of partition all has 256000M"),
    ],
)
def test_what_it_has_not_is_refused(words, said):
    errors = judge(FULL, **words)
    assert said in errors[0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"associations": []}, "this site demands an account and anna has none"),
        (
            {"associations": parse_associations("big|vision||normal|\nother|vision||normal|vision\n", "big")},
            "add --account with one of yours: vision",
        ),
        ({"partition": {"ReqResv": "YES"}}, "takes only jobs with a --reservation"),
        ({"partition": {"AllowAccounts": "physics", "DenyAccounts": "vision"}}, None),  # one list is heeded, not both
    ],
)
def test_an_account_where_one_must_be(answer, said):
    site = replace(FULL, user="anna", **answer)
    errors = judge(site, **({"account": "physics"} if said is None else {}))
    assert errors == [] if said is None else said in errors[0]


def test_partitions_of_others(monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    root = replace(BARE, partition=parse_words(PARTITION.replace("RootOnly=NO", "RootOnly=YES")))
    assert "is for root alone" in judge(root)[0]
    staff = replace(BARE, partition=parse_words(PARTITION.replace("AllowGroups=ALL", "AllowGroups=staff,users")))
    assert judge(staff) == []


@pytest.mark.parametrize(
    ("state", "away"),
    [("idle", False), ("mixed", False), ("allocated+", False), ("idle~", False), ("idle#", False), ("idle%", False),
     ("planned", False), ("reserved", False), ("mixed-", False), ("powered_down", False), ("idle@", False),
     ("idle*", True), ("down", True), ("down*", True), ("down$", True), ("drained", True), ("draining*", True),
     ("mixed+drain", True), ("maint", True), ("fail", True), ("unknown*", True), ("inval", True)],
)  # fmt: skip
def test_states_of_hosts_with_sinfos_marks(state, away):
    assert is_away(state) is away


def test_answers_of_other_clusters_and_none():
    assert parse_config("ClusterName             = big\nAccountingStorageEnforce = none\n")["ClusterName"] == "big"
    assert parse_hosts("") is None
    assert parse_qos("") is None
    assert parse_associations("") == []
    assert parse_hosts("CLUSTER: big\n" + HOSTS)[1].away
