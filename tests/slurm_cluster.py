"""A real Slurm of two nodes on this machine, for tests: munged, slurmctld and two slurmd in one temporary directory.

    with SlurmCluster() as cluster:
        job_id = cluster.submit("srun --nodes=2 hostname", "--nodes=2")
        assert cluster.wait(job_id) == "COMPLETED", cluster.output(job_id)

Contract: several clusters can run side by side (own key, sockets and ports); nothing outside the directory is written;
`stop` ends every process that the cluster or its jobs started and removes the directory. The daemons die with the
thread that started them (start from the main one), so that a killed test run leaves at most running job steps behind.
The node names n1 and n2 do not resolve: use the host name. Each node has two fake GPUs (copies of /dev/null). Without
`accounting=True`, which starts a MariaDB and a slurmdbd too, `sacct` fails, as it does on many small clusters.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

PROGRAMS = ("setpriv", "munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "sinfo", "squeue", "scancel")
NODES = ("n1", "n2")
ACCOUNTING_PROGRAMS = ("slurmdbd", "sacctmgr", "sacct", "mariadbd", "mariadb-install-db")
GPUS_PER_NODE = 2
CPUS_PER_NODE = 4  # more than the machine has: several small tasks fit, config_overrides makes slurmd accept it
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/bin", "/usr/sbin", "/bin", "/sbin"])
MARKER = "HPC_AE_SLURM_NODE"  # in the environment of every daemon, inherited by slurmstepd: whose process is this?
PATIENCE = 4.0  # how much slower than an idle machine a busy one may be: limits of waiting, no test is about them
FINAL_STATES = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"}
)


class SlurmError(RuntimeError):
    """A daemon or client command of the test cluster failed; the message ends with what it logged."""


def missing_requirement() -> str | None:
    """Why a cluster cannot be started here, or None where it can."""
    if (missing := _missing(PROGRAMS)) is not None:
        return f"{missing} (Debian: apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "a private Slurm must be started as root"
    return None


def missing_accounting() -> str | None:
    """Why a cluster with accounting cannot be started here, or None where it can."""
    if (missing := _missing(ACCOUNTING_PROGRAMS)) is not None:
        return f"{missing} (Debian: apt-get install slurmdbd mariadb-server)"
    return missing_requirement()


def _missing(programs: tuple[str, ...]) -> str | None:
    names = [program for program in programs if shutil.which(program, path=SEARCH_PATH) is None]
    return f"not on PATH: {', '.join(names)}" if names else None


def free_ports(count: int) -> list[int]:
    """Different TCP ports that nothing listens on, below the range from which the kernel draws for connections."""
    ports: set[int] = set()
    while len(ports) < count:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        ports.add(port)
    return sorted(ports)


def wait_until(done: Callable[[], bool], timeout: float, interval: float = 0.1) -> bool:
    """Polls until `done()` or the timeout in seconds of an idle machine, and says which of the two came."""
    deadline = time.monotonic() + PATIENCE * timeout
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


class SlurmCluster:
    """One private Slurm cluster; see the module's docstring."""

    def __init__(self, accounting: bool = False) -> None:
        self.accounting = accounting
        self.directory = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: a socket's path has 107 bytes at most
        self.conf = self.directory / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> SlurmCluster:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    # ---- life of the cluster

    def start(self, timeout: float = 60) -> None:
        """Starts the daemons and returns when all nodes are idle; otherwise raises with the tails of their logs."""
        try:
            self._write_files()
            self._start_munged()
            if self.accounting:
                self._start_accounting()
            self._spawn("slurmctld", "slurmctld", "-D")
            for name in NODES:
                self.start_node(name, wait=False)
            self._wait_for_nodes(dict.fromkeys(NODES, "IDLE"), timeout)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Cancels all jobs, ends every process of this cluster and removes its directory; harmless when repeated."""
        if self._is_running("slurmctld") and NODES[0] in self._daemons:
            self._cancel_jobs()
        for name in reversed(list(self._daemons)):
            self._end(name)
        wait_until(lambda: not self._kill_processes(), timeout=10)
        shutil.rmtree(self.directory, ignore_errors=True)

    def kill_node(self, name: str, declare: bool = False) -> None:
        """Loses a node: slurmd, its job steps and their tasks die by SIGKILL, as in a power cut.

        The controller finds out by itself after about 25 s; `declare`: it is told at once, as an administrator would.
        """
        self._daemons[name].kill()
        self._end(name)
        if not wait_until(lambda: not self._kill_processes(name), timeout=10):
            raise SlurmError(f"processes of node {name} survive SIGKILL")
        if declare:
            self.run("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=killed")

    def start_node(self, name: str, wait: bool = True, timeout: float = 60) -> None:
        """Starts a node's slurmd; `wait`: until the controller counts the node as up again."""
        self._spawn(name, "slurmd", "-D", "-N", name)
        if wait:
            self._wait_for_nodes({name: "IDLE"}, timeout)

    def clear(self) -> None:
        """Cancels all jobs and brings back nodes that were drained because a task would not die."""
        self._cancel_jobs()
        if set(self.node_states().values()) != {"IDLE"}:
            with contextlib.suppress(SlurmError):
                self.run("scontrol", "update", f"NodeName={','.join(NODES)}", "State=RESUME")
        self._wait_for_nodes(dict.fromkeys(NODES, "IDLE"), timeout=30)

    # ---- what a client needs

    def environment(self) -> dict[str, str]:
        """The variables with which Slurm's clients find this cluster: `{**os.environ, **cluster.environment()}`."""
        return {"SLURM_CONF": str(self.conf), "PATH": SEARCH_PATH}

    def run(self, *command: str, timeout: float = 240) -> str:
        """Standard output of a client command such as `sinfo`; raises SlurmError where it fails."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "PMI"))}
        try:
            done = subprocess.run(
                command,
                env={**inherited, **self.environment()},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise SlurmError(f"{' '.join(command)}: not done after {timeout} s\n{self.log_tails()}") from error
        if done.returncode != 0:
            raise SlurmError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def submit(self, script: str, *options: str) -> int:
        """Hands a shell script to `sbatch` with these options and returns the job's number."""
        path = self.directory / f"job-{secrets.token_hex(4)}.sh"
        path.write_text(f"#!/bin/bash\n{script}\n")
        printed = self.run("sbatch", "--parsable", f"--output={self.directory}/job-%j.out", *options, str(path))
        return int(printed.split(";")[0])

    def output(self, job_id: int) -> str:
        """What a job handed in by `submit` has printed so far, errors included."""
        path = self.directory / f"job-{job_id}.out"
        return path.read_text() if path.exists() else ""

    def state(self, job_id: int) -> str:
        """The state of a job now, such as PENDING or COMPLETED."""
        return self._job_field(job_id, "JobState")

    def wait(self, job_id: int, timeout: float = 60) -> str:
        """Waits until a job has ended and returns its state, or what that still is at the timeout."""
        wait_until(lambda: self.state(job_id) in FINAL_STATES, timeout)
        return self.state(job_id)

    def wait_for(self, job_id: int, state: str, timeout: float = 60) -> None:
        """Waits until a job is in this state, RUNNING for instance; raises SlurmError at the timeout."""
        if not wait_until(lambda: self.state(job_id) == state, timeout):
            raise SlurmError(
                f"job {job_id} is {self.state(job_id)}, not {state}, after {timeout} s\n{self.log_tails()}"
            )

    def queue(self) -> list[str]:
        """Numbers of the jobs that wait or run."""
        return self.run("squeue", "--noheader", "--format=%i").split()

    def restarts(self, job_id: int) -> int:
        """How often a job has been requeued."""
        return int(self._job_field(job_id, "Restarts"))

    def node_states(self) -> dict[str, str]:
        """The state of each node as the controller sees it, such as IDLE, DOWN or IDLE+DRAIN."""
        shown = self.run("scontrol", "show", "nodes", "--oneliner")
        return dict(re.findall(r"NodeName=(\S+).*? State=(\S+)", shown))

    def log_tails(self, lines: int = 15) -> str:
        """The last lines of every daemon's log, for error messages."""
        tails = []
        for path in sorted(self.directory.glob("*.log")):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            tails.append("\n".join([f"--- {path.name}", *tail]))
        return "\n".join(tails)

    # ---- files and daemons

    def _job_field(self, job_id: int, field: str) -> str:
        shown = self.run("scontrol", "show", "job", str(job_id), "--oneliner")
        found = re.search(rf"\b{field}=(\S+)", shown)
        if found is None:
            raise SlurmError(f"no {field} in {shown!r}")
        return found.group(1)

    def _write_files(self) -> None:
        key = self.directory / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        for name in ("state", *NODES):
            (self.directory / name).mkdir()
        for index in range(GPUS_PER_NODE):
            os.mknod(self.directory / f"gpu{index}", stat.S_IFCHR | 0o666, os.makedev(1, 3))  # as /dev/null
        gpus = f"Name=gpu File={self.directory}/gpu[0-{GPUS_PER_NODE - 1}]"
        (self.directory / "gres.conf").write_text(f"NodeName=n[1-{len(NODES)}] {gpus}\n")
        mail = self.directory / "mail"  # Slurm calls it with -s SUBJECT USER
        mail.write_text(f'#!/bin/sh\necho "$@" >> {self.directory}/mailed\n')
        mail.chmod(0o755)
        self.conf.write_text(self.conf_text())

    def conf_text(self) -> str:
        controller, self.database_port, self.dbd_port, *nodes = free_ports(3 + len(NODES))
        host, here = socket.gethostname(), self.directory
        settings = {
            "ClusterName": "hpcae",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": controller,
            "SlurmUser": "root",
            # cred_expire is also how long a requeued job waits before it starts again (Slurm's default: 120 s)
            "AuthInfo": f"socket={here}/munge.socket,cred_expire=20",
            "StateSaveLocation": here / "state",
            "SlurmdSpoolDir": f"{here}/%n",
            "SlurmctldPidFile": here / "slurmctld.pid",
            "SlurmdPidFile": f"{here}/%n.pid",
            "SlurmctldLogFile": here / "slurmctld.log",
            "SlurmdLogFile": f"{here}/%n.log",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            "SlurmdParameters": "config_overrides",
            "MpiDefault": "none",
            "SchedulerParameters": "sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0",
            "ReturnToService": 2,
            "KillWait": 2,
            "SlurmdTimeout": 10,
            # MPICH names its shared memory after the job's number: what a killed job of another cluster has left there
            # would be taken for this job's
            "FirstJobId": random.SystemRandom().randrange(1_000, 60_000_000),
            "InactiveLimit": 0,
            "MinJobAge": 300,
            "JobRequeue": 1,
            "MailProg": here / "mail",
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
            "GresTypes": "gpu",
        }
        if self.accounting:
            settings |= {
                "AccountingStorageType": "accounting_storage/slurmdbd",
                "AccountingStorageHost": "127.0.0.1",
                "AccountingStoragePort": self.dbd_port,
                "AccountingStoragePass": here / "munge.socket",
            }
        lines = [f"{key}={value}" for key, value in settings.items()]
        for name, port in zip(NODES, nodes, strict=True):
            place = f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
            lines.append(f"{place} CPUs={CPUS_PER_NODE} RealMemory=4000 Gres=gpu:{GPUS_PER_NODE} State=UNKNOWN")
        lines.append("PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE PreemptMode=OFF State=UP")
        lines.append("PartitionName=short Nodes=ALL MaxTime=10 PreemptMode=OFF State=UP")
        # Jobs of "high" take the nodes of the others, which have a minute to end.
        lines.append("PartitionName=low Nodes=ALL PreemptMode=REQUEUE GraceTime=60 State=UP")
        lines.append("PartitionName=lowest Nodes=ALL PreemptMode=CANCEL GraceTime=60 State=UP")
        lines.append("PartitionName=high Nodes=ALL PriorityTier=9 PreemptMode=OFF State=UP")
        return "\n".join(lines) + "\n"

    def _start_munged(self) -> None:
        here = self.directory
        files = [f"--{name}-file={here}/munge.{name}" for name in ("key", "pid", "seed")]
        self._spawn(
            "munged", "munged", "--foreground", "--force", "--num-threads=2", f"--socket={here}/munge.socket", *files
        )
        if not wait_until((here / "munge.socket").exists, timeout=20):
            raise SlurmError(f"munged did not open its socket\n{self.log_tails()}")

    def _start_accounting(self) -> None:
        """A MariaDB of this cluster's own, and slurmdbd on it."""
        here, password = self.directory, secrets.token_hex(16)
        self.run("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={here}/database", timeout=120)
        (here / "grant.sql").write_text(
            f"CREATE USER slurm@'127.0.0.1' IDENTIFIED BY '{password}';\nGRANT ALL ON *.* TO slurm@'127.0.0.1';\n"
        )
        places = [f"--datadir={here}/database", f"--socket={here}/database.socket", f"--pid-file={here}/database.pid"]
        network = [f"--port={self.database_port}", "--bind-address=127.0.0.1", f"--init-file={here}/grant.sql"]
        self._spawn("mariadbd", "mariadbd", "--no-defaults", "--user=root", *places, *network)
        settings = {
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={here}/munge.socket",
            "DbdHost": "localhost",
            "DbdPort": self.dbd_port,
            "SlurmUser": "root",
            "LogFile": here / "slurmdbd.log",
            "PidFile": here / "slurmdbd.pid",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "127.0.0.1",
            "StoragePort": self.database_port,
            "StorageUser": "slurm",
            "StoragePass": password,
        }
        conf = here / "slurmdbd.conf"
        conf.touch(0o600)
        conf.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        self._wait_for_port(self.database_port)
        self._spawn("slurmdbd", "slurmdbd", "-D")
        self._wait_for_port(self.dbd_port)
        self.run("sacctmgr", "--immediate", "add", "cluster", "hpcae")

    def _wait_for_port(self, port: int) -> None:
        def answers() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        if not wait_until(answers, timeout=60):
            raise SlurmError(f"nothing listens on port {port}\n{self.log_tails()}")

    def _spawn(self, name: str, program: str, *arguments: str) -> None:
        """Starts a daemon in a process group of its own; it dies with the calling thread, whatever ends that."""
        environment = {**self.environment(), MARKER: f"{self.directory}/{name}", "HOME": "/root", "LANG": "C.UTF-8"}
        with (self.directory / f"{name}.out.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [shutil.which("setpriv", path=SEARCH_PATH) or "setpriv", "--pdeathsig=KILL", program, *arguments],
                env=environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _is_running(self, name: str) -> bool:
        return name in self._daemons and self._daemons[name].poll() is None

    def _end(self, name: str) -> None:
        """Ends one daemon: politely, after 5 s by force."""
        process = self._daemons.pop(name)
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait_for_nodes(self, wanted: dict[str, str], timeout: float) -> None:
        """Waits until the controller shows these states; raises at once where a daemon has ended."""

        def reached() -> bool:
            ended = [name for name in self._daemons if not self._is_running(name)]
            if ended:
                raise SlurmError(f"ended at once: {', '.join(ended)}\n{self.log_tails()}")
            try:
                return wanted.items() <= self.node_states().items()
            except SlurmError:
                return False  # the controller does not answer yet

        if not wait_until(reached, timeout):
            raise SlurmError(f"nodes are not {wanted} after {timeout} s\n{self.log_tails()}")

    def _cancel_jobs(self) -> None:
        try:
            self.run("scancel", "--user=root")
            wait_until(lambda: not self.queue(), timeout=20)
        except SlurmError:
            pass  # a broken controller: the processes are ended below all the same

    def _kill_processes(self, node: str | None = None) -> list[int]:
        """Sends SIGKILL to all processes of one node, or of all, and returns their numbers."""
        found = list(self._processes(node))
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return found

    def _processes(self, node: str | None) -> Iterator[int]:
        """Daemons and job steps (by the marker they inherit) and tasks (by what Slurm put in their environment)."""
        marker = f"{MARKER}={self.directory}/{node or ''}".encode()
        conf = f"SLURM_CONF={self.conf}".encode()
        name = f"SLURMD_NODENAME={node or ''}".encode()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            task = conf in variables and any(one.startswith(name) for one in variables)
            if task or any(one.startswith(marker) for one in variables):
                yield int(entry.name)
