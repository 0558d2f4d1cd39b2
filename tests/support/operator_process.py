"""`python -m disttrain_operator` as a process of its own, and a player of kubelets and agents around it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from kubernetes.aio.client.configuration import Configuration

from disttrain_contract import names
from disttrain_contract.messages import AgentState, Assignment, Report, decode_assignment, encode
from disttrain_operator.shell.cluster import Cluster
from disttrain_operator.shell.errors import ClusterError
from disttrain_operator.shell.kinds import JOBS, PODS, Kind, Raw
from support.own_apiserver import OPERATOR, REPOSITORY, ApiServer, _free_ports

SERVICE_ACCOUNTS = Kind("api/v1", "serviceaccounts")


class OperatorProcess:
    """One replica."""

    def __init__(self, server: ApiServer, folder: Path, name: str = "operator-0") -> None:
        self.name = name
        self.stream_port, self.health_port = _free_ports(2)
        self.log = folder / f"{name}-{time.monotonic_ns()}.log"
        env = os.environ | {
            "KUBECONFIG": str(server.kubeconfig(OPERATOR)),
            "PYTHONPATH": f"{REPOSITORY / 'operator'}:{REPOSITORY / 'trainer_image'}",
            "DISTTRAIN_OPERATOR_NAMESPACE": "disttrain-system",
            "DISTTRAIN_OPERATOR_POD": name,
            "DISTTRAIN_STREAM_URL": f"ws://127.0.0.1:{self.stream_port}",
            "DISTTRAIN_STREAM_PORT": str(self.stream_port),
            "DISTTRAIN_HEALTH_PORT": str(self.health_port),
            "DISTTRAIN_LEASE_NAME": "disttrain",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "disttrain_operator"], env=env, stdout=log, stderr=log
            )

    def get(self, path: str) -> str:
        """From the health port; empty when nobody is there."""
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}{path}", timeout=5) as reply,
        ):
            return reply.read().decode()
        return ""

    def count(self, metric: str) -> float:
        """Of one counter or gauge; 0 when there is none yet."""
        found = (line.rsplit(" ", 1) for line in self.get("/metrics").splitlines())
        return next((float(value) for name, value in found if name == f"disttrain_{metric}"), 0.0)

    @property
    def leads(self) -> bool:
        return "disttrain_leader 1.0" in self.get("/metrics")

    def end(self, hard: bool = True) -> int:
        if hard:
            self.process.kill()
        else:
            self.process.terminate()
        return self.process.wait(30)


class Player:
    """Plays kubelets and agents, as admin."""

    def __init__(self, server: ApiServer) -> None:
        user = yaml.safe_load(server.kubeconfig("admin").read_text())
        configuration = Configuration(host=user["clusters"][0]["cluster"]["server"])
        configuration.verify_ssl = False
        configuration.api_key["BearerToken"] = "Bearer admin-token"
        self.api = Cluster(configuration)

    async def until(self, what: Callable[[], Any], seconds: float = 60) -> Any:
        """The first true answer; `what` may be a coroutine function."""
        last = None
        async with asyncio.timeout(seconds):
            while True:
                with suppress(ClusterError):
                    last = await found if asyncio.iscoroutine(found := what()) else found
                    if last:
                        return last
                await asyncio.sleep(0.05)

    async def job(self, name: str) -> Raw:
        return await self.api.get(JOBS, "team", name)

    async def pods(self, job: str) -> list[Raw]:
        listed = [i async for i in self.api.listing(PODS, "team", f"disttrain.dev/job={job}")]
        return [await self.api.get(PODS, "team", i.name) for i in listed]

    async def annotate(self, job: str, **annotations: str) -> None:
        """Whatever the job's version is."""
        headers = {"Content-Type": "application/merge-patch+json", "Authorization": "Bearer admin-token"}
        url = self.api._configuration.host + JOBS.path("team", job)
        reply = await self.api._rest.request("PATCH", url, headers, {"metadata": {"annotations": annotations}})  # type: ignore[no-untyped-call]
        assert reply.status == 200, await reply.text()

    async def kubelet_starts(self, name: str, bind: bool = True) -> Raw:
        """The pod gets a node, unless a scheduler has given it one, and an address, and runs."""
        await self.until(lambda: self.api.get(PODS, "team", name))
        if bind:
            binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": "node-1"}}
            await self.api._ask("create", PODS, PODS.path("team", name, "binding"), binding)
        pod = await self.api.get(PODS, "team", name)
        index = int(name.rsplit("-", 1)[1])
        ready = {
            "name": "trainer",
            "ready": True,
            "restartCount": 0,
            "image": "x",
            "imageID": "x",
            "state": {"running": {}},
        }
        ip = f"198.18.0.{index + 1}"
        pod["status"] = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "containerStatuses": [ready]}
        return await self.api.replace(PODS, pod, "status")

    async def kubelet_ends(self, name: str, code: int, message: str = "") -> None:
        pod = await self.api.get(PODS, "team", name)
        over = {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "message": message}
        pod["status"]["phase"] = "Succeeded" if code == 0 else "Failed"
        pod["status"]["containerStatuses"][0] |= {"state": {"terminated": over}, "ready": False}
        await self.api.replace(PODS, pod, "status")

    async def token(self, pod: Raw, account: str = "default") -> str:
        """As the kubelet projects it: for our audience, bound to the pod."""
        bound = {"kind": "Pod", "apiVersion": "v1", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
        asked = {"spec": {"audiences": [names.TOKEN_AUDIENCE], "expirationSeconds": 3600, "boundObjectRef": bound}}
        path = SERVICE_ACCOUNTS.path("team", account, "token")
        reply = await self.api._ask("create", SERVICE_ACCOUNTS, path, asked)
        return str(reply["status"]["token"])


class Agent:
    """One agent's stream; dials again whenever it is cut off."""

    def __init__(self, operators: Callable[[], list[int]], token: str) -> None:
        self._operators, self._token = operators, token
        self.report = Report(incarnation=0, state=AgentState.IDLE)
        self.told: Assignment | None = None
        self.refused: list[int] = []
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def say(self, report: Report) -> None:
        self.report = report
        self._changed.set()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        headers = {"Authorization": f"Bearer {self._token}"}
        async with aiohttp.ClientSession() as session:
            while True:
                for port in self._operators():
                    url = f"ws://127.0.0.1:{port}{names.STREAM_PATH}"
                    try:
                        async with session.ws_connect(url, headers=headers, heartbeat=2.0) as socket:
                            await self._talk(socket)
                    except aiohttp.WSServerHandshakeError as error:
                        self.refused.append(error.status)
                    except (aiohttp.ClientError, OSError):
                        pass
                await asyncio.sleep(0.1)

    async def _talk(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        listening = asyncio.create_task(self._listen(socket))
        try:
            while not listening.done():
                self._changed.clear()
                await socket.send_str(encode(self.report))
                waiting = asyncio.create_task(self._changed.wait())
                await asyncio.wait({waiting, listening}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
        finally:
            listening.cancel()

    async def _listen(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                self.told = decode_assignment(message.data)
