"""A private Slurm on this machine: everything in one folder, nothing in /etc, no service, stopped by its processes."""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

HOST = socket.gethostname().partition(".")[0]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo", "scontrol")
CONFIGURATION = """\
ClusterName=nclib
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={base}/munge.socket,cred_expire={timeout}
CryptoType=crypto/munge
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool.%n
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd.%n.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd.%n.log
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
SlurmdTimeout={timeout}
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=1-00:00:00 State=UP
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=64000 Gres=gpu:2 "
    "State=UNKNOWN"
)


@contextmanager
def slurm_node(names: Sequence[str] = (HOST,), *, timeout: int = 300) -> Iterator[Path]:
    """Start it, and point `SLURM_CONF` and `PATH` there; a node claims 4 processors, 64 GB and 2 (pretended) GPUs.

    Args:
        names: of the nodes, all of them this machine.
        timeout: seconds until a node that does not answer is down, and its jobs start elsewhere.

    Yields:
        Its folder, with the logs and `slurmd.NAME.pid`.
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
            _configure(base, names, timeout)
            for command in _daemons(base, names):
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


def _configure(base: Path, names: Sequence[str], timeout: int) -> None:
    base.chmod(0o711)  # munged wants its socket within everybody's reach
    for folder in ("state", *(f"spool.{name}" for name in names)):
        (base / folder).mkdir()
    key = base / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    user, (port, *ports) = pwd.getpwuid(os.geteuid()).pw_name, _free_ports(1 + len(names))
    nodes = "\n".join(NODE.format(name=name, host=HOST, port=port) for name, port in zip(names, ports, strict=True))
    facts = {"base": base, "host": HOST, "user": user, "port": port, "timeout": timeout, "nodes": nodes}
    (base / "slurm.conf").write_text(CONFIGURATION.format(**facts))
    devices = "".join(f"NodeName={name} Name=gpu File=/dev/{device}\n" for name in names for device in ("null", "zero"))
    (base / "gres.conf").write_text(devices)  # two pretended GPUs


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _daemons(base: Path, names: Sequence[str]) -> list[list[str]]:
    munge = ["munged", "--foreground", f"--key-file={base}/munge.key", f"--socket={base}/munge.socket"]
    munge += [f"--pid-file={base}/munged.pid", f"--log-file={base}/munged.log", f"--seed-file={base}/munged.seed"]
    return [munge, ["slurmctld", "-D"], *(["slurmd", "-D", "-N", name] for name in names)]


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
