"""The connection to a Dask scheduler, or a cluster of processes on this machine."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from slidescan.errors import ClusterError, SlidescanError
from slidescan.scanning.cluster.slots import LOOK_S, Slots
from slidescan.tools.extras import install_command
from slidescan.tools.worker_processes import sigint_blocked

if TYPE_CHECKING:
    from distributed import Client, Future

LOCAL = "local"

CONNECT_S = 10.0

TASKS_A_THREAD = 2
"""Tasks alive for each thread of a worker: one runs, the next waits beside it."""

WATCH_S = 1.0
"""How often workers are counted."""

KILLS = 10
"""A task ends in an error when so many workers were killed while they had it. Dask counts the tasks
that wait on a worker as well as the one that it runs, so its own 3 would end healthy ones."""

SETTINGS = {
    "distributed.scheduler.allowed-failures": KILLS,
    # By default a cluster on this machine gives up a worker that was killed and needs more than 15
    # seconds to start again, as it does where the processors are busy.
    "distributed.deploy.lost-worker-timeout": "1h",
    # By default Dask watches itself up to a hundred times a second, for pages that no scan has.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
}
"""Dask's settings of a cluster on this machine."""

R = TypeVar("R")


class Cluster:
    """Runs functions on workers; a bounded number of `scan_blocks` tasks at a time."""

    def __init__(self, client: Client, name: str, warn: Callable[[str], object]) -> None:
        self.client = client
        self.name = name
        self._warn = warn
        self.slots = Slots(0)
        self.lost = False
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Cluster:
        """Begin to count workers."""
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop counting."""
        self._ended.set()
        self._watching.join()

    def check(self) -> None:
        """Raise ClusterError where the scheduler is gone."""
        if self.lost:
            raise ClusterError(
                f"--scheduler {self.name}: the scheduler has gone away; finished blocks are kept, "
                "and the same command resumes with a scheduler that runs"
            )

    def call(self, look: Callable[[], object], function: Callable[..., R], *args: object) -> R:
        """Run a function on some worker, before tasks that wait.

        `look` is called meanwhile, and what it raises ends the wait. Raises what the function
        raises, and ClusterError.
        """
        tasks = Tasks(self)
        try:
            tasks.submit(function, *args, priority=1)
            found: R = tasks.next(look)[1]
            return found
        finally:
            tasks.cancel()

    def on_all(self, function: Callable[..., R], *args: object) -> dict[str, R]:
        """Run a function on every worker, once there is one; the results by address."""
        while not self.slots.limit:
            time.sleep(LOOK_S / 10)
            self.check()
        try:
            found = self.client.run(function, *args, on_error="return")
        except OSError as error:
            self.lost = True
            self.check()
            raise AssertionError from error
        for address, each in found.items():
            if isinstance(each, Exception):
                raise ClusterError(
                    f"worker {address}: {type(each).__name__}: {each}; install slidescan there, "
                    "in the version of this one"
                )
        return dict(found)

    def tell_all(self, function: Callable[[], object]) -> None:
        """Run a function on every worker that is still there."""
        if not self.lost:
            with suppress(OSError, RuntimeError, TimeoutError):
                self.client.run(function, on_error="ignore")

    def _watch(self) -> None:
        idle = False
        while not self._ended.wait(WATCH_S if self.slots.limit else 0.05):
            if self.client.status != "running":
                self.lost = not self._ended.is_set()
                return
            try:
                threads = sum(self.client.nthreads().values())
            except (OSError, RuntimeError, ValueError, TimeoutError):
                continue  # a scheduler that is busy, or gone: then the status tells
            if not threads and not idle:
                self._warn(f"--scheduler {self.name}: no worker is there; waiting for one")
            idle = not threads
            self.slots.resize(threads * TASKS_A_THREAD)


class Tasks:
    """Tasks of one slide; hands out their results as they end."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._ended: SimpleQueue[Future] = SimpleQueue()
        self._alive: dict[str, Future] = {}

    def __len__(self) -> int:
        """How many have no result yet, or one that was not handed out."""
        return len(self._alive)

    def submit(
        self,
        function: Callable[..., Any],
        *args: object,
        priority: int = 0,
        on_end: Callable[[], object] = lambda: None,
    ) -> str:
        """Start a task; returns its key. `on_end` is called from another thread as it ends."""

        def ended(future: Future) -> None:
            on_end()
            self._ended.put(future)

        self._cluster.check()
        future = self._cluster.client.submit(function, *args, pure=False, priority=priority)
        self._alive[future.key] = future
        future.add_done_callback(ended)
        return str(future.key)

    def next(self, look: Callable[[], object]) -> tuple[str, Any]:
        """Wait for the next result, and return it after its task's key; see `Cluster.call`."""
        while True:
            try:
                return self._result(self._ended.get(timeout=LOOK_S))
            except Empty:
                look()
                self._cluster.check()

    def ready(self) -> Iterator[tuple[str, Any]]:
        """The results that need no wait, as `next` gives them."""
        with suppress(Empty):
            while True:
                yield self._result(self._ended.get_nowait())

    def _result(self, future: Future) -> tuple[str, Any]:
        from distributed import KilledWorker

        del self._alive[future.key]
        if future.status in ("cancelled", "lost"):  # only an end of the connection cancels tasks
            self._cluster.lost = True
            self._cluster.check()
        try:
            return future.key, future.result()
        except KilledWorker:
            raise SlidescanError(
                "workers that had the same task were killed one after the other, perhaps for want "
                "of memory; the same command resumes"
            ) from None
        except ImportError as error:
            raise ClusterError(
                f"--scheduler {self._cluster.name}: a worker has no {error.name or 'slidescan'}; "
                "install slidescan there, in the version of this one"
            ) from None

    def cancel(self) -> None:
        """Drop the tasks that have not begun; those that run end by themselves."""
        if self._alive:
            # A client that lost its scheduler cannot tell it.
            with suppress(Exception):
                self._cluster.client.cancel(list(self._alive.values()), force=True)


@contextmanager
def connected(where: str, jobs: int, warn: Callable[[str], object]) -> Iterator[Cluster]:
    """Connect to a scheduler, and disconnect at the end.

    Args:
        where: the scheduler's address, its file (JSON), or "local" for processes of this machine.
        jobs: the processes of "local".
        warn: is told that there are no workers.

    Raises:
        ClusterError: the extra is not installed, or there is no scheduler.
    """
    _import_dask()
    import dask
    from distributed import Client

    with ExitStack() as stack:
        stack.enter_context(dask.config.set(SETTINGS))
        how: dict[str, Any] = {}
        if where == LOCAL:
            how["address"] = stack.enter_context(_local(jobs))
        elif where.endswith(".json") or Path(where).is_file():
            how["scheduler_file"] = _checked_file(where)
        else:
            how["address"] = where
        try:
            client = Client(**how, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise ClusterError(
                f"--scheduler {where}: no scheduler answers there "
                f"({type(error).__name__}: {error}); start one (dask scheduler), or correct the "
                "address"
            ) from error
        stack.callback(_close, client)
        yield stack.enter_context(Cluster(client, where, warn))


def _import_dask() -> None:
    try:
        import distributed  # noqa: F401  # whether it is there
    except ImportError as error:
        raise ClusterError(
            f"--scheduler needs Dask; install it: {install_command('cluster')}"
        ) from error
    # Workers that come and go are no news, and what ends the scan is said in one line.
    logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)


def _close(client: Client) -> None:
    with suppress(OSError, TimeoutError, RuntimeError):
        client.close(timeout=CONNECT_S)


@contextmanager
def _local(jobs: int) -> Iterator[Any]:
    """A scheduler in this process and workers of one thread, all on the loopback interface."""
    from distributed import LocalCluster

    # The thread that starts workers, also in the place of killed ones, begins inside.
    with sigint_blocked():
        cluster = LocalCluster(
            n_workers=jobs,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # not 8787, which may be taken
            memory_limit=0,  # as --jobs: the system's own limits count
            silence_logs=logging.CRITICAL + 1,
        )
    with cluster:
        yield cluster


def _checked_file(name: str) -> str:
    import json

    try:
        address = json.loads(Path(name).read_text(encoding="utf-8"))["address"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(
            f"--scheduler {name}: not a scheduler file, which dask scheduler --scheduler-file "
            f"writes ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(address, str):
        raise ClusterError(f"--scheduler {name}: its address is {address!r}")
    return name
