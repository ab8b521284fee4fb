"""Workers that Ray places on a cluster, or on this machine; each is an actor."""

import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from probe.brief import counted
from probe.engines.engine import Answer, Batch, End, Engine
from probe.engines.worker import Worker
from probe.errors import ProbeError

CONNECT_S = 5.0


def _ray() -> Any:
    """The library, with its usage statistics off."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # A worker without a GPU sees none; Ray announces this as its behaviour to come.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    try:
        import ray
    except ImportError as error:
        raise ProbeError(
            "--engine ray: Ray is not installed. Install it: pip install 'layerprobe[ray]'."
        ) from error
    return ray


class Ray(Engine):
    """Actors of Ray.

    Args:
        n_cores: for each worker.
        n_gpus: for each worker.
        address: of a cluster, HOST:PORT; None takes ``RAY_ADDRESS``, or starts a cluster on this
            machine, which ends with the engine.

    Raises:
        ProbeError: Ray is not installed, nobody answers at the address, or the cluster has no room
            for the workers.
    """

    def __init__(
        self,
        n_workers: int,
        n_cores: int = 1,
        n_gpus: int = 0,
        address: str | None = None,
        limit_s: float | None = None,
    ) -> None:
        super().__init__(n_workers, limit_s)
        self._ray = _ray()
        self._resources = {"CPU": n_cores, "GPU": n_gpus}
        self._actors: dict[int, Any] = {}
        self._begun: dict[int, Any] = {}  # worker -> reference that is ready once it runs
        self._versions: dict[int, int] = {}
        self._answers: dict[int, Any] = {}  # worker -> reference
        self._stored = (0, None)  # version and reference of the work
        self._connect(address or os.environ.get("RAY_ADDRESS") or None)
        try:
            self._require_room()
        except ProbeError:
            self.close()
            raise

    def give(self, batches: Mapping[int, Batch]) -> None:
        """See `Engine.give`."""
        if self._stored[0] != self.version:
            self._stored = (self.version, self._ray.put(self.content))
        for worker, batch in batches.items():
            if worker not in self._actors:
                kind = self._ray.remote(_Actor).options(
                    num_cpus=self._resources["CPU"], num_gpus=self._resources["GPU"]
                )
                self._actors[worker] = kind.remote()
                self._begun[worker] = self._actors[worker].host.remote()
            is_new = self._versions.get(worker) != self.version
            self._versions[worker] = self.version
            content = self._stored[1] if is_new else None
            self._answers[worker] = self._actors[worker].answer.remote(content, batch.jobs)

    def answers(self, timeout_s: float) -> Iterator[tuple[int, Answer]]:
        """See `Engine.answers`."""
        numbers = {reference: worker for worker, reference in self._answers.items()}
        ready, _ = (
            self._ray.wait(list(numbers), num_returns=len(numbers), timeout=0)
            if numbers
            else ([], [])
        )
        if not ready and numbers:
            ready, _ = self._ray.wait(list(numbers), num_returns=1, timeout=timeout_s)
        for reference in ready:
            worker = numbers[reference]
            del self._answers[worker]
            try:
                answer = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                cause = next((line for line in lines if "because" in line), lines[0])
                answer = End(f"ended ({type(error).__name__}: {cause[:160]})")
            yield worker, answer

    def has_begun(self, worker: int) -> bool:
        """See `Engine.has_begun`: a worker may wait for a place in the cluster."""
        return bool(self._ray.wait([self._begun[worker]], timeout=0)[0])

    def end(self, worker: int) -> None:
        """See `Engine.end`."""
        for of_workers in (self._answers, self._versions, self._begun):
            of_workers.pop(worker, None)
        if actor := self._actors.pop(worker, None):
            self._ray.kill(actor)

    def close(self) -> None:
        """See `Engine.close`."""
        for worker in list(self._actors):
            self.end(worker)
        self._ray.shutdown()

    def _connect(self, address: str | None) -> None:
        is_here = address in (None, "local")
        if not is_here and address != "auto":
            _require_answer(str(address))
        dashboard = {"include_dashboard": False} if is_here else {}
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            self._ray.init(
                "local" if is_here else address,
                logging_level="ERROR",
                configure_logging=False,
                **dashboard,
            )
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            what = "--engine ray: no cluster starts on this machine"
            if not is_here:
                what = f"--ray-address {address}: no cluster there"
                if os.environ.get("RAY_AUTH_MODE") != "token":
                    reason += "; if it requires a token, set RAY_AUTH_MODE=token"
            raise ProbeError(f"{what} ({reason}).") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_sigterm)  # Ray would end with another exit code

    def _require_room(self) -> None:
        """Refuse workers that would wait for ever for a place."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        needed = {name: amount for name, amount in self._resources.items() if amount}
        room = sum(
            min(int(node.get(name, 0) // amount) for name, amount in needed.items())
            for node in nodes
        )
        if room < self.n_workers:
            units = {"CPU": "core", "GPU": "GPU"}
            text = " and ".join(counted(amount, units[name]) for name, amount in needed.items())
            totals = {name: sum(int(node.get(name, 0)) for node in nodes) for name in units}
            has = " and ".join(counted(total, units[name]) for name, total in totals.items())
            raise ProbeError(
                f"--engine ray: {counted(self.n_workers, 'worker')} with {text} each do not fit: "
                f"the cluster has {counted(len(nodes), 'node')} with {has}, which is room for "
                f"{room}. Lower --jobs or --cpus, or use --device cpu."
            )


class _Actor(Worker):
    """A worker, which also says where it is."""

    def host(self) -> str:
        """Return the name of the machine."""
        return socket.gethostname()


def _require_answer(address: str) -> None:
    """Refuse an address where nobody listens; Ray itself tries for a minute."""
    host, _, port = (
        address.partition("://")[2].rpartition(":")
        if "://" in address
        else (address.rpartition(":"))
    )
    if not host or not port.isdigit():
        raise ProbeError(f"--ray-address {address}: expected HOST:PORT, such as 10.0.0.1:6379.")
    if "://" in address:
        raise ProbeError(
            f"--ray-address {address}: expected HOST:PORT of the cluster itself. Ray's client "
            "(ray://) is not supported; run the command on a node of the cluster."
        )
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except OSError as error:
        raise ProbeError(
            f"--ray-address {address}: nobody answers ({error.strerror or error}). "
            "`ray start --head` prints the address of a cluster."
        ) from error
