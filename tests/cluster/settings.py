"""The texts of slurm.conf, gres.conf and slurmdbd.conf."""

from __future__ import annotations

from .plan import Plan

CLUSTER_NAME = "emulated"
ACCOUNT = "clip"
GRACE = 15  # seconds at most: who has saved leaves earlier

# Preemption is a property of the partition that loses the job: one for each way of losing it, all over the same nodes.
PARTITIONS = {
    "booster": "Default=YES PriorityTier=10 PreemptMode=REQUEUE",
    "booster-grace": f"PriorityTier=10 PreemptMode=REQUEUE GraceTime={GRACE}",
    "booster-cancel": "PriorityTier=10 PreemptMode=CANCEL",
    "booster-cancel-grace": f"PriorityTier=10 PreemptMode=CANCEL GraceTime={GRACE}",
    "urgent": "PriorityTier=100 PreemptMode=OFF",
}


def slurm_conf(plan: Plan) -> str:
    pairs = _addresses(plan) | _behaviour() | (_accounting(plan) if plan.accounting else {}) | dict(plan.settings)
    lines = [f"{name}={value}" for name, value in pairs.items()]
    for name, rest in PARTITIONS.items():
        # A job has its nodes to itself, for a day at most, as on JUWELS Booster.
        lines.append(f"PartitionName={name} Nodes=ALL OverSubscribe=EXCLUSIVE MaxTime=24:00:00 {rest}")
    return "\n".join([*lines[: len(pairs)], _nodes(plan), *lines[len(pairs) :], ""])


def _addresses(plan: Plan) -> dict[str, object]:
    folder = plan.folder
    return {
        "ClusterName": CLUSTER_NAME,
        "SlurmctldHost": "localhost(127.0.0.1)",
        "SlurmctldPort": plan.port,
        "FirstJobId": plan.first_job,
        "SlurmUser": plan.user,
        "SlurmdUser": plan.user,
        "AuthType": "auth/munge",
        # A job that is requeued waits until its credential has expired: two minutes, if nothing is said.
        "AuthInfo": f"socket={plan.munge_socket},cred_expire=5",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool/%n",
        "SlurmctldPidFile": folder / "run/slurmctld.pid",
        "SlurmdPidFile": folder / "run/%n.pid",
        "SlurmctldLogFile": plan.log("slurmctld"),
        "SlurmdLogFile": plan.log("%n"),
    }


def _behaviour() -> dict[str, object]:
    return {
        "SlurmdParameters": "config_overrides",  # believe the node lines, not what this machine has
        "ProctrackType": "proctrack/linuxproc",  # no cgroups, no root
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/linux",
        "SelectType": "select/cons_tres",
        "GresTypes": "gpu",
        "MpiDefault": "none",
        "ReturnToService": 2,
        "TreeWidth": 65533,  # the controller speaks to each slurmd itself: a dead node silences no other
        "BatchStartTimeout": 60,  # hundreds of ranks start on few cores
        "KillWait": 10,
        # InactiveLimit stays off: whoever freezes the controller would get srun's jobs killed at the thaw.
        "EnforcePartLimits": "NO",  # Slurm's default: what can never run is accepted, and waits
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,bf_interval=1",
    }


def _accounting(plan: Plan) -> dict[str, object]:
    return {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "127.0.0.1",
        "AccountingStoragePort": plan.port + 1,
        "AccountingStoragePass": plan.munge_socket,  # AuthInfo does not count for the way to slurmdbd
        "AccountingStorageTRES": "gres/gpu",
        "AccountingStoreFlags": "job_comment,job_env,job_script",
        "AccountingStorageEnforce": "associations,limits,qos",
    }


def _nodes(plan: Plan) -> str:
    """Names that do not resolve; 48 cores and 500 GB each, whatever there is here."""
    return (
        f"NodeName=jwb[0001-{plan.nodes:04}] NodeHostname=localhost NodeAddr=127.0.0.1"
        f" Port=[{plan.port + 2}-{plan.port + 1 + plan.nodes}]"
        f" Sockets=2 CoresPerSocket=24 ThreadsPerCore=1 RealMemory=500000 Gres=gpu:{plan.gpus}"
    )


def gres_conf(plan: Plan) -> str:
    """With Count= in place of device files the nodes are INVAL. Tasks see the numbers at the end of the names."""
    return f"NodeName=jwb[0001-{plan.nodes:04}] Name=gpu File={plan.folder}/gpu/nvidia[0-{plan.gpus - 1}]\n"


def slurmdbd_conf(plan: Plan) -> str:
    pairs = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={plan.munge_socket}",
        "DbdHost": "localhost",
        "DbdAddr": "127.0.0.1",
        "DbdPort": plan.port + 1,
        "SlurmUser": plan.user,
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "localhost",  # by $MYSQL_UNIX_PORT
        "StorageUser": plan.user,
        "StorageLoc": "slurm",
        "PidFile": plan.folder / "run/slurmdbd.pid",
        "LogFile": plan.log("slurmdbd"),
    }
    return "".join(f"{name}={value}\n" for name, value in pairs.items())
