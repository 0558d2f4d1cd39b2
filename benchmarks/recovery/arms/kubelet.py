"""Plays the kubelet of one node: `python -m benchmarks.recovery.arms.kubelet SERVER TOKEN NAMESPACE FOLDER`.

It watches the pods of a namespace in a real API server, binds them to its node, projects their tokens, starts the command
of each (for ours the real agent) as a process with the environment of the pod's container, and writes what becomes of it
into the pod's status. There are no containers: a mount is a folder, and a pod's address is one of the loopback network's.
So a pod starts faster than a real one, by what the container runtime would take.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from disttrain_contract import names, paths
from disttrain_operator.manifests.pod import AGENT

NODE = "node-1"
LINE_BYTES = 2**20
"""A pod in a watch event is one line."""
DRIVER = """
import os, sys
from pathlib import PurePosixPath as P
from disttrain_runtime.agent.app import Places
from disttrain_runtime.agent.entry import run_agent
os._exit(run_agent(os.environ, Places(P(sys.argv[1]) / "token", P(sys.argv[1]) / "last-words")))
"""
"""`python -m disttrain_runtime.agent`, with its two files somewhere else."""

COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"

Raw = dict[str, Any]


def address(index: int) -> str:
    """Of the pod with this index: a stable one, as a headless Service would give it a stable name."""
    return f"127.0.1.{index + 1}"


def index_of(pod: Raw) -> int:
    """Ours have it in their name, a Job's in an annotation."""
    meta = pod["metadata"]
    return int(meta.get("annotations", {}).get(COMPLETION_INDEX) or meta["name"].rsplit("-", 1)[1])


class Api:
    """The few requests of a kubelet, and of who plays one."""

    def __init__(self, session: aiohttp.ClientSession, namespace: str) -> None:
        self._session, self._namespace = session, namespace

    async def send(self, method: str, path: str, body: Raw, kind: str = "application/json") -> Raw:
        """To something in the namespace. Raises aiohttp.ClientResponseError."""
        where = f"/api/v1/namespaces/{self._namespace}/{path}"
        headers = {"Content-Type": kind}
        async with self._session.request(method, where, data=json.dumps(body), headers=headers) as reply:
            reply.raise_for_status()
            answer: Raw = await reply.json()
            return answer

    async def status(self, pod: str, status: Raw) -> None:
        """Only the kubelet writes these fields, so nothing guards them."""
        await self.send("PATCH", f"pods/{pod}/status", {"status": status}, "application/merge-patch+json")

    async def watch(self) -> Any:
        """Events from now on, the pods that are there first."""
        query = f"/api/v1/namespaces/{self._namespace}/pods?watch=1&allowWatchBookmarks=false"
        async with self._session.get(query, timeout=aiohttp.ClientTimeout(total=None)) as reply:
            async for line in reply.content:
                yield json.loads(line)


class Kubelet:
    """All pods of the node."""

    def __init__(self, api: Api, folder: Path) -> None:
        self._api, self._folder = api, folder
        self._agents: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until the watch ends."""
        async for event in self._api.watch():
            pod: Raw = event["object"]
            uid = pod["metadata"]["uid"]
            if event["type"] == "DELETED":
                self._kill(uid)
            elif "deletionTimestamp" in pod["metadata"]:
                if uid not in self._ending:
                    self._ending[uid] = asyncio.create_task(self._end(pod))
            elif uid not in self._tasks:
                self._tasks[uid] = asyncio.create_task(self._live(pod))

    async def _live(self, pod: Raw) -> None:
        """From the binding to the exit code. A pod that is deleted meanwhile answers 404 or 409, and is over."""
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        ip = address(index_of(pod))
        with suppress(aiohttp.ClientResponseError):
            binding = {"metadata": {"name": name, "uid": uid}, "target": {"kind": "Node", "name": NODE}}
            await self._api.send("POST", f"pods/{name}/binding", binding)
            agent = await self._start(pod, ip)
            up = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}
            await self._api.status(name, up | _container({"running": {}}, ready=True))
            code = await agent.wait()
            words = (self._folder / uid / "last-words").read_text()
            over = {"exitCode": code % 256 if code >= 0 else 128 - code, "reason": "Error" if code else "Completed"}
            phase = {"phase": "Failed" if code else "Succeeded"}
            await self._api.status(name, phase | _container({"terminated": over | {"message": words}}, ready=False))

    async def _start(self, pod: Raw, ip: str) -> asyncio.subprocess.Process:
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        container = pod["spec"]["containers"][0]
        folder = self._folder / uid
        (folder / "scratch").mkdir(parents=True)
        if any("projected" in volume for volume in pod["spec"].get("volumes", ())):
            (folder / "token").write_text(await self._token(name, uid))
        (folder / "last-words").touch()
        mounts = {str(paths.CHECKPOINT_MOUNT): self._folder / "volume", str(paths.SCRATCH): folder / "scratch"}
        known = {"metadata.uid": uid, "status.podIP": ip, "spec.nodeName": NODE}
        for kind in ("labels", "annotations"):
            known |= {f"metadata.{kind}['{k}']": v for k, v in pod["metadata"].get(kind, {}).items()}
        environment = container_environment(container["env"], known, mounts)
        agent = ["-c", DRIVER, str(folder)]
        argv = agent if container["command"] == AGENT else container["command"][1:]
        with (self._folder / f"{name}.log").open("ab") as out:
            made = await asyncio.create_subprocess_exec(
                sys.executable, *argv, stdout=out, stderr=out, stdin=asyncio.subprocess.DEVNULL,
                env={"PATH": os.environ["PATH"], **environment},
            )  # fmt: skip
        self._agents[uid] = made
        return made

    async def _token(self, name: str, uid: str) -> str:
        bound = {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}
        asked = {"spec": {"audiences": [names.TOKEN_AUDIENCE], "expirationSeconds": 3600, "boundObjectRef": bound}}
        reply = await self._api.send("POST", "serviceaccounts/default/token", asked)
        return str(reply["status"]["token"])

    async def _end(self, pod: Raw) -> None:
        """An orderly deletion: SIGTERM, the grace period, SIGKILL, gone."""
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        if agent := self._agents.get(uid):
            with suppress(ProcessLookupError):
                agent.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(agent.wait(), pod["metadata"]["deletionGracePeriodSeconds"])
            self._kill(uid)
        with suppress(aiohttp.ClientResponseError):
            await self._api.send("DELETE", f"pods/{name}", {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})

    def _kill(self, uid: str) -> None:
        if agent := self._agents.get(uid):
            with suppress(ProcessLookupError):
                agent.kill()


def container_environment(variables: list[Raw], known: Mapping[str, str], mounts: Mapping[str, Path]) -> dict[str, str]:
    """As the kubelet resolves it; a path below a mount becomes the folder's."""
    found = {}
    for variable in variables:
        field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        value: str = known[field] if field else variable.get("value", "").replace("$$", "$")
        for mount, folder in mounts.items():
            if value == mount or value.startswith(mount + "/"):
                value = str(folder) + value.removeprefix(mount)
        found[variable["name"]] = value
    return found


def _container(state: Raw, *, ready: bool) -> Raw:
    return {
        "containerStatuses": [
            {"name": names.CONTAINER, "ready": ready, "restartCount": 0, "image": "x", "imageID": "x", "state": state}
        ]
    }


async def main(server: str, token: str, namespace: str, folder: Path) -> None:
    """Until SIGTERM."""
    (folder / "volume").mkdir(parents=True, exist_ok=True)
    session = aiohttp.ClientSession(
        server, headers={"Authorization": f"Bearer {token}"}, read_bufsize=LINE_BYTES,
        connector=aiohttp.TCPConnector(ssl=False),
    )  # fmt: skip
    async with session:
        running = asyncio.ensure_future(Kubelet(Api(session, namespace), folder).run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
        with suppress(asyncio.CancelledError):
            await running


if __name__ == "__main__":
    _, server, token, namespace, folder = sys.argv
    asyncio.run(main(server, token, namespace, Path(folder)))
