"""The extract step on a Dask cluster, through Prefect's task runner: one task for each part of a dataset.

Only names and counts travel. Workers read the pictures and write the store themselves, so both must be on storage
that all of them share. A part whose worker is lost is given to another one by Dask, and finds what was committed.
"""

# no `from __future__ import annotations`: Prefect checks the flow's parameters by their real types

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import dask.config
from distributed import Client, KilledWorker, LocalCluster, Worker, WorkerPlugin, rpc
from distributed.client import FutureCancelledError
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.futures import as_completed
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from prefect_dask.task_runners import DaskTaskRunner

from flows.features.backbone import backbone_files
from flows.features.extraction import Computed, Extracted, Part, extract_part, plan_parts, summarize
from flows.progress import Quiet
from flows.stopwatch import stage
from pipeline.errors import ConflictError, ServerUnreachableError, UsageError
from pipeline.machine import usable_cores
from pipeline.types import BackboneSpec, Progress
from storage.datasets.manifests import DatasetRef, read_manifest
from storage.features.store import SHARD_ROWS
from storage.workspace import Workspace

CONNECT_SECONDS = 5.0  # how long a scheduler, or a worker's way to the server, may take to answer
SERVER_START_SECONDS = 120  # a temporary Prefect server took 20 s on a busy machine
CORES_PER_WORKER = 4  # one process decodes and infers on several cores at once; more processes are for more cores

Say = Callable[[str], None]


def extract_on(address: str | None, say: Say, part_rows: int = SHARD_ROWS) -> Callable[..., Extracted]:
    """Return the extract step as it runs on the cluster at `address`, or on processes started for it.

    Raises
    ------
    ServerUnreachableError
        No scheduler answers there, it has no workers, or the Prefect server that is set does not answer.
    """
    if address is not None and not asyncio.run(_find_workers(address)):
        raise ServerUnreachableError(
            f"The Dask scheduler at {address} has no workers. Start some: dask worker {address}"
        )
    if url := PREFECT_API_URL.value():
        with get_client(sync_client=True) as client:
            if problem := client.api_healthcheck():
                raise ServerUnreachableError(
                    f"No Prefect server answers at {url} ({problem}). Start it, or unset PREFECT_API_URL."
                )

    def extract(
        workspace: Workspace,
        dataset: DatasetRef,
        spec: BackboneSpec,
        num_views: int = 0,
        progress: Progress | None = None,
    ) -> Extracted:
        """Compute what the store does not have, all taps in one pass, on the cluster."""
        root = str(workspace.root)
        parts = plan_parts(workspace, dataset, spec, num_views, part_rows)
        computed: list[Computed] = []
        if parts:  # else no cluster is needed
            backbone_files(workspace, spec)  # compiled here, once, not by every worker
            pictures = read_manifest(workspace, dataset.name, dataset.fingerprint).root
            with stage("cluster"), _quiet(), _prefect_server(say) as server, _scheduler(address, say) as scheduler:
                _check_workers(scheduler, root, pictures, server)
                with stage("extract"), _log_level("distributed.nanny", logging.WARNING):  # it reports lost processes
                    computed = _run(scheduler, root, dataset, spec, parts, progress or Quiet())
        return summarize(workspace, dataset, spec, num_views, computed)

    return extract


# The feature store is the cache, as in `flows.service.flows`.
@task(name="extract_part", cache_policy=NO_CACHE)
def _extract_part(workspace_root: str, dataset: DatasetRef, spec: BackboneSpec, part: Part) -> Computed:
    return extract_part(Workspace.open(workspace_root), dataset, spec, part)


@flow(name="extract")
def extract_parts(workspace_root: str, dataset: DatasetRef, spec: BackboneSpec, parts: list[Part]) -> Iterator[Any]:
    """Compute parts as tasks; yields each with its result, as they finish."""
    part_of: dict[Any, Part] = {_extract_part.submit(workspace_root, dataset, spec, part): part for part in parts}
    future: Any
    for future in as_completed([*part_of]):
        yield part_of[future], future.result()
        future.wrapped_future.release()  # else Dask would run it again if the worker that holds the answer were lost


def _run(
    scheduler: str,
    workspace_root: str,
    dataset: DatasetRef,
    spec: BackboneSpec,
    parts: Sequence[Part],
    progress: Progress,
) -> list[Computed]:
    runner: Any = DaskTaskRunner(address=scheduler)
    on_dask: Any = extract_parts.with_options(task_runner=runner)
    computed = []
    progress.start("extract", sum(part.stop - part.start for part in parts))
    try:
        with closing(on_dask(workspace_root, dataset, spec, list(parts))) as finished:
            for part, result in finished:
                computed.append(result)
                progress.advance(part.stop - part.start)
    except FutureCancelledError as error:
        raise ServerUnreachableError(
            f"The Dask scheduler at {scheduler} went away. What was committed is kept: run again when it is back."
        ) from error
    except KilledWorker as error:
        raise ConflictError(
            "One worker after the other was lost over the same pictures; their logs say why. If it was memory, "
            "give them more, and run again: what was committed is kept."
        ) from error
    finally:
        progress.finish()
    return computed


@contextmanager
def _scheduler(address: str | None, say: Say) -> Iterator[str]:
    """Yield the address of a scheduler: the one named, or that of processes started on this machine."""
    if address is not None:
        yield address
        return
    with local_cluster() as cluster:
        say(f"started {len(cluster.workers)} Dask workers on this machine")
        yield cluster.scheduler_address


@contextmanager
def local_cluster(num_workers: int | None = None) -> Iterator[LocalCluster]:
    """Start worker processes on this machine, by default at least two that have a core each; stop them at the end."""
    num_workers = num_workers or min(usable_cores(), max(2, usable_cores() // CORES_PER_WORKER))
    # on a busy machine a worker needs longer to come back than the 15 s after which Dask would forget it
    patient = dask.config.set({"distributed.deploy.lost-worker-timeout": "120s"})
    with (
        patient,
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=num_workers,
            threads_per_worker=1,  # a task uses the cores of its worker itself
            processes=True,  # spawned, not forked: Dask's default
            memory_limit=0,  # what a part needs is bounded; Dask would kill workers by its own guess
            dashboard_address="127.0.0.1:0",  # any free port
            silence_logs=logging.ERROR,
            plugins=[_OwnCores(num_workers)],
        ) as cluster,
    ):
        yield cluster


class _OwnCores(WorkerPlugin):
    """Give each worker of this machine its own cores: decoders and networks would take all they see."""

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers

    def setup(self, worker: Worker) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; Dask stops us
        logging.getLogger("prefect").propagate = False
        if hasattr(os, "sched_setaffinity"):  # Linux
            cores = sorted(os.sched_getaffinity(0))
            place, total = int(worker.name), self._num_workers
            own = cores[place * len(cores) // total : (place + 1) * len(cores) // total]
            os.sched_setaffinity(0, own or cores)


async def _find_workers(address: str) -> list[str]:
    """Ask a scheduler for its workers."""
    try:
        async with rpc(address, timeout=CONNECT_SECONDS) as scheduler:  # type: ignore[no-untyped-call]
            return list((await scheduler.identity())["workers"])
    except Exception as error:  # what listens there may answer anything
        raise ServerUnreachableError(
            f"No Dask scheduler answers at {address}. Start one (dask scheduler, then dask worker {address}), "
            "or leave the address out to use processes of this machine."
        ) from error


def _check_workers(scheduler: str, workspace_root: str, pictures: str, server: str) -> None:
    """Make sure that every worker can do its part, before any is asked to."""
    with Client(scheduler, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        answers = client.run(find_obstacle, workspace_root, pictures, server, on_error="return")
    for worker, answer in answers.items():
        if answer is not None:
            raise UsageError(f"The Dask worker {worker} cannot take part: {answer}")


def find_obstacle(workspace_root: str, pictures: str, server: str) -> str | None:
    """Run on a worker: say what it lacks, if anything."""
    for folder in (workspace_root, pictures):
        if not Path(folder).is_dir():
            return f"it does not see {folder}. Workspace and pictures must be on storage that all workers share."
    try:
        urlopen(f"{server.rstrip('/')}/health", timeout=CONNECT_SECONDS).close()
    except HTTPError:
        pass  # it is reached; Prefect has the credentials that it asks for
    except OSError as error:
        return f"it does not reach the Prefect server at {server} ({error}). Set PREFECT_API_URL to one it reaches."
    return None


@contextmanager
def _prefect_server(say: Say) -> Iterator[str]:
    """Yield the URL of the Prefect server: the one that is set, or a temporary one, which Prefect stops at exit."""
    if url := PREFECT_API_URL.value():
        yield url
        return
    say("no Prefect server is set (PREFECT_API_URL): starting a temporary one, which takes some seconds")
    with temporary_settings({PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: SERVER_START_SECONDS}):
        try:
            with _deaf_to_ctrl_c():
                client = get_client(sync_client=True)
        except (RuntimeError, ValueError) as error:
            raise ServerUnreachableError(f"A temporary Prefect server could not be started: {error}") from error
    with temporary_settings({PREFECT_API_URL: str(client.api_url)}):  # workers are handed our settings
        yield str(client.api_url)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Keep Ctrl-C, which reaches every process of a terminal, from processes started here: this process stops them.

    A blocked signal stays blocked in what is started meanwhile, whatever handlers that installs.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's log off the terminal, and Prefect's, which the server has all the same."""
    prefect = logging.getLogger("prefect")
    before, prefect.propagate = prefect.propagate, False
    try:
        with _log_level("distributed", logging.CRITICAL):
            yield
    finally:
        prefect.propagate = before


@contextmanager
def _log_level(name: str, level: int) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
