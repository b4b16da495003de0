"""A one-node SLURM for tests, run as root from the Debian packages slurm-wlm and munge, without systemd or cgroups."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

PROGRAMS = ("setpriv", "munged", "slurmctld", "slurmd", "sinfo", "squeue", "scancel", "scontrol", "sbatch", "srun")
SEARCH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

# Each start numbers its jobs from elsewhere, as submitit keeps the state of every job id it has seen in this process.
SETTINGS = """
ClusterName=test SlurmctldHost=localhost(127.0.0.1) SlurmctldPort={controller_port} SlurmdPort={node_port} SlurmUser=root
AuthInfo=socket={folder}/run/munge.sock StateSaveLocation={folder}/state SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid SlurmctldLogFile={folder}/slurmctld.log SlurmdPidFile={folder}/slurmd.pid
SlurmdLogFile={folder}/slurmd.log ProctrackType=proctrack/linuxproc TaskPlugin=task/none JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres SelectTypeParameters=CR_CPU SchedulerParameters=batch_sched_delay=0
SlurmdParameters=config_overrides ReturnToService=2 KillWait=2 MinJobAge=0 FirstJobId={first_job}
"""
NODE = """
NodeName=localhost NodeAddr=127.0.0.1 NodeHostname={host} CPUs=2 RealMemory=4000
PartitionName=debug Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""

# sacct needs a database daemon; scontrol knows the same jobs for as long as the controller runs (MinJobAge=0: for ever),
# but for the array tasks that were cancelled before they were given a job of their own: those are in its log.
SACCT = r"""#!{python}
import os, re, subprocess, sys
os.environ["SLURM_BITSTR_LEN"] = "0"  # do not shorten the lists of array tasks
log = open("{folder}/slurmctld.log").read()
rows = dict.fromkeys(re.findall(r"REQUEST_KILL_JOB JobId=(\d+_\S+) uid", log), ("CANCELLED", ""))
for line in subprocess.check_output(["scontrol", "show", "job", "-o"], text=True).splitlines():
    job, array, task, state, nodes = ((re.search(rf"(?:^| ){{name}}=(\S*)", line) or ["", ""])[1]
        for name in ("JobId", "ArrayJobId", "ArrayTaskId", "JobState", "NodeList"))
    rows[(array or job) + (task and ("_" + task if task.isdigit() else f"_[{{task}}]"))] = (state, nodes)
print("JobID|State|NodeList")
for job, (state, nodes) in rows.items():
    if job and ("-j" not in sys.argv or job.split("_")[0] in sys.argv):
        print(f"{{job}}|{{state}}{{' by 0' * (state == 'CANCELLED')}}|{{nodes}}")
"""


class OneNodeSlurm:
    """Two CPUs in one partition; merge `environment` into os.environ to use it. `missing` says why it cannot run, or ''."""

    @staticmethod
    def missing() -> str:
        if absent := [program for program in PROGRAMS if shutil.which(program, path=SEARCH) is None]:
            return f"a one-node SLURM needs {', '.join(absent)}: install the Debian packages slurm-wlm, munge and util-linux"
        return "" if os.geteuid() == 0 else "a one-node SLURM needs root, to start munged as the user munge"

    def __enter__(self) -> Self:
        if reason := self.missing():
            raise RuntimeError(reason)
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short, as the path of a socket must be
        run, key, conf, sacct = (self.folder / name for name in ("run", "munge.key", "slurm.conf", "bin/sacct"))
        self.environment = {"SLURM_CONF": str(conf), "PATH": f"{sacct.parent}:{SEARCH}"}
        try:
            for folder in (self.folder, run, sacct.parent, self.folder / "state", self.folder / "spool"):
                folder.mkdir(exist_ok=True)
                folder.chmod(0o755)  # whatever the umask: the user munge walks through them
            key.touch(mode=0o600)
            key.write_bytes(os.urandom(1024))
            for path in (run, key):
                shutil.chown(path, "munge", "munge")
            with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
                ports = {"controller_port": one.getsockname()[1], "node_port": two.getsockname()[1]}
            settings = SETTINGS.format(folder=self.folder, first_job=1000 * (1 + int(time.time()) % 60_000), **ports)
            conf.write_text("\n".join(settings.split()) + NODE.format(host=socket.gethostname().split(".")[0]))
            sacct.write_text(SACCT.format(python=sys.executable, folder=self.folder))
            sacct.chmod(0o755)
            files = (f"--{option}={run}/munge.{option[:4]}" for option in ("socket", "pid-file", "log-file", "seed-file"))
            self._daemon("--reuid=munge", "--regid=munge", "--init-groups", "munged", "-F", f"--key-file={key}", *files)
            self._wait("munged listens", (run / "munge.sock").exists)
            self._daemon("slurmctld", "-D", "-f", str(conf))
            self._daemon("slurmd", "-D", "-f", str(conf), "-N", "localhost")
            self._wait("the node is idle", lambda: self._output("sinfo", "--noheader", "--format=%T") == "idle")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _daemon(self, *command: str) -> None:
        """Start a daemon that ends with this process, however this process ends, and that Ctrl-C does not reach."""
        with (self.folder / "output.log").open("ab") as log:
            command = ("setpriv", "--pdeathsig=TERM", *command)
            environment = os.environ | self.environment
            self.daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True))

    def _output(self, *command: str) -> str:
        environment = os.environ | self.environment
        return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=30).stdout.strip()

    def _wait(self, what: str, true: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not true():
            if time.monotonic() > end or any(daemon.poll() is not None for daemon in self.daemons):
                logs = "\n".join(path.read_text()[-2000:] for path in sorted(self.folder.rglob("*.log")))
                raise RuntimeError(f"SLURM did not reach the point where {what}; its logs say:\n{logs}")
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        try:
            if [daemon.poll() for daemon in self.daemons] == [None] * 3:
                self._output("scancel", "--user=root")
                self._wait("no job is left", lambda: not self._output("squeue", "--noheader"))
        finally:
            for daemon in reversed(self.daemons):
                daemon.terminate()
            for daemon in self.daemons:
                daemon.wait(30)
            shutil.rmtree(self.folder, ignore_errors=True)
