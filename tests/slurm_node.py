"""A private Slurm of one node: everything in one folder, nothing in /etc, no service, stopped by its processes."""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo", "scontrol")
CONFIGURATION = """\
ClusterName=nclib
SlurmctldHost={node}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={base}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
MinJobAge=600
KillWait=2
NodeName={node} NodeAddr=127.0.0.1 CPUs=4 RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={node} Default=YES MaxTime=1-00:00:00 State=UP
"""


@contextmanager
def slurm_node() -> Iterator[Path]:
    """Start it, and point `SLURM_CONF` and `PATH` there; the node claims 4 processors, 64 GB and 2 (pretended) GPUs.

    Yields:
        Its folder, with the logs.
    """
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if not shutil.which(program, path=path)]
    if missing:
        pytest.skip(f"Slurm is not installed, no {', '.join(missing)}: apt-get install slurm-wlm munge")
    base = Path(tempfile.mkdtemp(prefix="nclib-slurm-", dir="/tmp"))  # short: sockets' paths end at 107 characters
    started: list[subprocess.Popen] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", path)
        patch.setenv("SLURM_CONF", str(base / "slurm.conf"))
        try:
            _configure(base)
            for command in _daemons(base):
                with (base / "daemons.log").open("a") as log:
                    started.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=base))
                if command[0] == "munged":
                    _wait((base / "munge.socket").exists, base)
            _wait(_idle, base)
            yield base
        finally:
            if started:
                subprocess.run(["scancel", "--me"], capture_output=True, timeout=60)
                _drained()
            for process in reversed(started):
                process.terminate()
            for process in started:
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
            shutil.rmtree(base, ignore_errors=True)


def _configure(base: Path) -> None:
    base.chmod(0o711)  # munged wants its socket within everybody's reach
    for folder in ("state", "spool"):
        (base / folder).mkdir()
    key = base / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    node = socket.gethostname().partition(".")[0]
    user = pwd.getpwuid(os.geteuid()).pw_name
    (base / "slurm.conf").write_text(CONFIGURATION.format(base=base, node=node, user=user, ports=_free_ports(2)))
    devices = "".join(f"NodeName={node} Name=gpu File={device}\n" for device in ("/dev/null", "/dev/zero"))
    (base / "gres.conf").write_text(devices)  # two pretended GPUs


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _daemons(base: Path) -> list[list[str]]:
    munge = ["munged", "--foreground", f"--key-file={base}/munge.key", f"--socket={base}/munge.socket"]
    munge += [f"--pid-file={base}/munged.pid", f"--log-file={base}/munged.log", f"--seed-file={base}/munged.seed"]
    return [munge, ["slurmctld", "-D"], ["slurmd", "-D"]]


def _idle() -> bool:
    answer = subprocess.run(["sinfo", "--noheader", "--format=%t"], capture_output=True, text=True)
    return answer.stdout.strip() == "idle"


def _drained() -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        queue = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True)
        if not queue.stdout.strip():
            return
        time.sleep(0.2)


def _wait(condition, base: Path, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            logs = "\n".join(path.read_text()[-2000:] for path in base.glob("*.log"))
            raise RuntimeError(f"Slurm did not start:\n{logs}")
        time.sleep(0.1)
