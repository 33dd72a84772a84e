"""The configuration files of an emulated cluster, as text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CLUSTER_NAME = "emulated"
ACCOUNT = "clipctl"
CORES, MEMORY = 48, 500_000  # of a node, as on JUWELS Booster; MEMORY in MB


@dataclass(frozen=True, kw_only=True)
class Settings:
    folder: Path
    user: str
    nodes: int
    gpus: int
    port: int  # slurmctld's; slurmdbd has the next one, the nodes those after it
    accounting: bool
    kill_wait: int  # seconds between SIGTERM and SIGKILL
    min_job_age: int  # seconds that an ended job is remembered
    grace: int  # seconds, of the partitions whose victims get them

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"jwb{number:04d}" for number in range(1, self.nodes + 1))

    @property
    def all_names(self) -> str:
        return f"jwb[0001-{self.nodes:04d}]"


def slurm_conf(of: Settings) -> str:
    folder, first = of.folder, of.port + 2
    storage = "accounting_storage/slurmdbd" if of.accounting else "accounting_storage/none"
    return f"""\
ClusterName={CLUSTER_NAME}
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={of.port}
SlurmUser={of.user}
SlurmdUser={of.user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=5,sched_min_interval=0,bf_interval=1,bf_min_age_reserve=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait={of.kill_wait}
MinJobAge={of.min_job_age}
MessageTimeout=10
SlurmdTimeout=60
SlurmctldTimeout=60
InactiveLimit=0
UnkillableStepTimeout=120
TreeWidth=128
AccountingStorageType={storage}
{_accounting(of)}
NodeName={of.all_names} NodeHostname=localhost NodeAddr=127.0.0.1 Port=[{first}-{first + of.nodes - 1}] \
Sockets=2 CoresPerSocket={CORES // 2} ThreadsPerCore=1 RealMemory={MEMORY} Gres=gpu:{of.gpus} State=UNKNOWN
{_partitions(of)}
"""


def _accounting(of: Settings) -> str:
    if not of.accounting:
        return ""
    return f"""\
AccountingStorageHost=localhost
AccountingStoragePort={of.port + 1}
AccountingStoragePass={of.folder}/munge.socket
AccountingStorageEnforce=limits,qos
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment"""


def _partitions(of: Settings) -> str:
    """Victims of every kind over the same nodes, and one that preempts them. MaxTime is JUWELS Booster's."""
    common = f"Nodes={of.all_names} OverSubscribe=EXCLUSIVE MaxTime=24:00:00 State=UP"
    victims = {
        "booster": "Default=YES PreemptMode=REQUEUE",
        "booster-grace": f"PreemptMode=REQUEUE GraceTime={of.grace}",
        "booster-cancel": "PreemptMode=CANCEL",
        "booster-cancel-grace": f"PreemptMode=CANCEL GraceTime={of.grace}",
    }
    lines = [f"PartitionName={name} {common} PriorityTier=10 {kind}" for name, kind in victims.items()]
    return "\n".join([*lines, f"PartitionName=urgent {common} PriorityTier=100 PreemptMode=OFF"])


def gres_conf(of: Settings) -> str:
    return f"NodeName={of.all_names} Name=gpu File={of.folder}/gpu/nvidia[0-{of.gpus - 1}]\n"


def slurmdbd_conf(of: Settings) -> str:
    return f"""\
AuthType=auth/munge
AuthInfo=socket={of.folder}/munge.socket
DbdHost=localhost
DbdPort={of.port + 1}
SlurmUser={of.user}
LogFile={of.folder}/log/slurmdbd.log
PidFile={of.folder}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={of.user}
StorageLoc=slurm_acct
"""


def profile(root: Path, partition: str = "booster") -> str:
    """The cluster's profile for clipctl. Names of nodes do not resolve here, so that addresses are asked for."""
    return f"""\
scheduler: slurm
cluster_name: {CLUSTER_NAME}
gpus_per_node: 4
root: {root}
master_addr: node_address
env: {{OMP_NUM_THREADS: "1", GLOO_SOCKET_IFNAME: lo}}
slurm: {{partition: {partition}, time: "01:00:00", cpus_per_task: 6}}
limits:
  {{lost_after: 6, unanswered_for: 6, claim_wait: 60, rank_grace: 5, query_timeout: 10, submit_timeout: 60}}
"""
