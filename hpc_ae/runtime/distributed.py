"""Processes that train together: how they meet, and the few collectives that training needs.

Ranks come from the standard env:// variables. With MASTER_ADDR and MASTER_PORT (torchrun) the processes meet there.
Otherwise they meet through a directory that all of them see: a file store on one node; across nodes a port that rank 0
has already bound and publishes there. No address is predictable, and no object collective (pickle) is used.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import inspect
import os
import socket
import struct
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import FileStore, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from hpc_ae.errors import InputError, LostConnection, WorkError
from hpc_ae.files import make_dir, publish_json
from hpc_ae.layout import ADDRESS_NAME, STORE_NAME
from hpc_ae.record import Record, read_record
from hpc_ae.runtime import heartbeat
from hpc_ae.runtime.ranks import Ranks

_MEET_SECONDS = 300.0
_SIOCGIFADDR = 0x8915


def pick_device(ranks: Ranks) -> torch.device:
    """The GPU of this rank where there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", ranks.local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


class Group:
    """The processes that train together."""

    def __init__(self, ranks: Ranks, device: torch.device) -> None:
        self.ranks = ranks
        self.device = device
        self.is_lead = ranks.rank == 0
        self.alone = ranks.world_size == 1

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as DistributedDataParallel; itself where this process is alone."""
        if self.alone:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        kind: Any = nn.parallel.DistributedDataParallel
        # The buffers are the scaling, equal everywhere. Newer torch renames the option and warns of the old name.
        names = inspect.signature(kind).parameters
        option = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        wrapped: nn.Module = kind(model, device_ids=ids, gradient_as_bucket_view=True, **{option: False})
        # not compiled; here and not as decorators, which would import the compiler (1.3 s) into every process
        disable: Any = torch.compiler.disable
        wrapped.register_forward_pre_hook(disable(_computes))
        wrapped.register_forward_hook(disable(_waits))
        return wrapped

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sum float64 or int64 arrays over all ranks."""
        if self.alone:
            return values
        tensor = torch.from_numpy(np.ascontiguousarray(values)).to(self.device)
        heartbeat.wait_for_others()
        dist.all_reduce(tensor)
        sums = tensor.cpu().numpy()
        heartbeat.beat()
        return sums

    def gather_rows(self, rows: np.ndarray) -> np.ndarray:
        """The rows float32 (n, k) of all ranks, in their order, on each: (N, k). For what is small."""
        rank, world_size = self.ranks.rank, self.ranks.world_size
        counts = self.sum(np.bincount([rank], [len(rows)], world_size)).astype(int)
        gathered = np.zeros((counts.sum(), rows.shape[1]))
        start = counts[:rank].sum()
        gathered[start : start + len(rows)] = rows
        return self.sum(gathered).astype(np.float32)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.sum(np.zeros(1, np.int64))


def _computes(*_: Any) -> None:
    """A step begins: this rank's own work."""
    heartbeat.beat()


def _waits(*_: Any) -> None:
    """The gradients that follow need all ranks."""
    heartbeat.wait_for_others()


@contextlib.contextmanager
def process_group(ranks: Ranks, device: torch.device, meeting_dir: Path | None = None) -> Iterator[Group]:
    """Join the other ranks (NCCL on GPUs, Gloo on CPUs) and leave again."""
    if ranks.world_size == 1:
        yield Group(ranks, device)
        return
    with _names_lost_connections(ranks):
        _join(ranks, "nccl" if device.type == "cuda" else "gloo", meeting_dir)
        try:
            yield Group(ranks, device)
        finally:
            dist.destroy_process_group()
            gc.collect()  # DDP's cycles hold Gloo's threads, one of which may else abort the process at its exit


def _join(ranks: Ranks, backend: str, meeting_dir: Path | None) -> None:
    if "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
        _choose_interface(os.environ["MASTER_ADDR"])
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            store = _torchruns_store(ranks.world_size)
            dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world_size)
        else:
            dist.init_process_group(backend, init_method="env://", rank=ranks.rank, world_size=ranks.world_size)
    else:
        store = _meet(ranks, meeting_dir)
        dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world_size)


def _torchruns_store(world_size: int) -> Store:
    """The store of torchrun's own process, which outlives ranks that it starts again: those of each start have a part
    of it, lest they find the addresses of ranks that are gone.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    timeout = timedelta(seconds=_MEET_SECONDS)
    shared = TCPStore(address, port, world_size, is_master=False, timeout=timeout)
    return PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", shared)


@contextlib.contextmanager
def _names_lost_connections(ranks: Ranks) -> Iterator[None]:
    """LostConnection where another rank has gone, while this one joins the others too: that rank says why it went."""
    try:
        yield
    except RuntimeError as error:
        if _is_lost_connection(error):
            raise LostConnection(
                "the connection to another rank is lost", where=f"rank {ranks.rank}", got=str(error).splitlines()[0]
            ) from error
        raise


def _is_lost_connection(error: RuntimeError) -> bool:
    """Whether a collective failed because of its peers: Gloo says so in words of a plain RuntimeError."""
    return isinstance(error, dist.DistBackendError) or "gloo/transport" in str(error)


def _meet(ranks: Ranks, meeting_dir: Path | None) -> Store:
    if meeting_dir is None:
        raise InputError(
            "the ranks have no place to meet",
            where="environment",
            expected="MASTER_ADDR and MASTER_PORT, as torchrun sets them",
        )
    make_dir(meeting_dir)
    if ranks.local_world_size == ranks.world_size:
        _choose_interface("127.0.0.1")
        return FileStore(str(meeting_dir / STORE_NAME), ranks.world_size)
    return _lead_store(ranks, meeting_dir) if ranks.rank == 0 else _joined_store(ranks, meeting_dir)


class _Address(Record):
    """Where rank 0 listens."""

    host: str
    port: int


def _lead_store(ranks: Ranks, meeting_dir: Path) -> Store:
    """Bind a free port first, then publish it: nobody can take it in between."""
    host = os.environ.get("MASTER_ADDR", socket.gethostname())
    _choose_interface(host)
    store = TCPStore(
        "0.0.0.0", 0, ranks.world_size, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=_MEET_SECONDS)
    )
    publish_json(meeting_dir / ADDRESS_NAME, _Address(host=host, port=store.port).to_json())
    return store


def _joined_store(ranks: Ranks, meeting_dir: Path) -> Store:
    path = meeting_dir / ADDRESS_NAME
    deadline = time.monotonic() + _MEET_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise WorkError("rank 0 did not publish its address", where=path, expected=f"within {_MEET_SECONDS:.0f} s")
        time.sleep(0.1)
        list(meeting_dir.iterdir())  # refreshes the attribute cache of a network file system
    address = read_record(path, _Address)
    _choose_interface(address.host)
    return TCPStore(
        address.host, address.port, ranks.world_size, is_master=False, timeout=timedelta(seconds=_MEET_SECONDS)
    )


def _choose_interface(host: str) -> None:
    """Let Gloo use the interface on the route to `host`, unless the user chose one: it may else bind 127.0.1.1."""
    if "GLOO_SOCKET_IFNAME" not in os.environ and (name := interface_to(host)):
        os.environ["GLOO_SOCKET_IFNAME"] = name


def interface_to(host: str) -> str | None:
    """Name of the network interface that packets to `host` leave by; None where that cannot be told."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            address = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                with contextlib.suppress(OSError):
                    request = struct.pack("256s", name.encode()[:15])
                    if socket.inet_ntoa(fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)[20:24]) == address:
                        return name
    except OSError:
        return None
    return "lo" if address.startswith("127.") else None
