"""The volume provisioner: a small process beside the control plane (`python -m dev.cluster.provisioner`).

The one inside the controller-manager makes directories that only root can write, and a hostPath volume never gets
fsGroup applied. This one makes directories that every pod can write, file systems that really get full, and
read-only ones. Level-based: it lists, plans, acts; a watch only tells it when to look again.
"""

from __future__ import annotations

import http.client
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import assert_never

from dev.cluster.api import Api, ApiError, path_of
from dev.cluster.command import Trouble, run
from dev.cluster.paths import Paths, current_paths
from dev.cluster.render import READ_ONLY_CLASS, SHARED_CLASS
from dev.cluster.volumes import SMALLEST_SIZED, Action, Create, Remove, plan

CLAIMS = "/api/v1/persistentvolumeclaims"
VOLUMES = path_of("PersistentVolume")
# A watch is renewed this often; a failed action is tried again after the pause.
WATCH_SECONDS = 300
PAUSE_SECONDS = 3.0


def main() -> None:
    """Run until killed."""
    paths = current_paths()
    api = Api(paths.pki)
    changed = threading.Event()
    for path in (CLAIMS, VOLUMES):
        threading.Thread(target=_wake_on_change, args=(api, path, changed), daemon=True).start()
    while True:
        changed.clear()
        try:
            finished = work_through(api, paths)
        except (ApiError, OSError, http.client.HTTPException) as error:
            _log(f"the API server does not answer: {error}")
            finished = False
        changed.wait(timeout=None if finished else PAUSE_SECONDS)


def work_through(api: Api, paths: Paths) -> bool:
    """One pass; False if something has to be tried again."""
    finished = True
    claims, volumes = api.get(CLAIMS)["items"], api.get(VOLUMES)["items"]
    for action in plan(claims, volumes, str(paths.volumes)):
        try:
            perform(api, action)
        except (Trouble, OSError, ApiError) as error:
            _log(f"{action.volume}: {error}")
            finished = False
    return finished


def perform(api: Api, action: Action) -> None:
    """Carry out one action; doing it twice does no harm."""
    match action:
        case Create():
            make(action)
            try:
                api.request("POST", VOLUMES, action.object)
            except ApiError as error:
                if error.status != http.client.CONFLICT:
                    raise
            _log(f"{action.claim}: {action.storage_class} of {action.size} bytes at {action.folder}")
        case Remove():
            destroy(Path(action.folder))
            api.request("DELETE", f"{VOLUMES}/{action.volume}")
            _log(f"{action.volume}: deleted")
        case _:
            assert_never(action)


def make(action: Create) -> None:
    """The directory, or a file system of its own. World-writable: pods of any user may share it."""
    folder = Path(action.folder)
    folder.mkdir(exist_ok=True)
    if action.storage_class == SHARED_CLASS:
        folder.chmod(0o777)
    elif not folder.is_mount():
        _mount_file_system(folder, max(action.size, SMALLEST_SIZED), action.storage_class == READ_ONLY_CLASS)


def _mount_file_system(folder: Path, size: int, read_only: bool) -> None:
    """A file system in a sparse file: it takes room on the disk only as it fills."""
    image = _image(folder)
    with image.open("wb") as opened:
        opened.truncate(size)
    # No journal and no reserve: all of a small volume is the job's.
    run(["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", str(image)])
    run(["mount", "-o", "loop,noatime", str(image), str(folder)])
    (folder / "lost+found").rmdir()
    folder.chmod(0o777)
    if read_only:
        # Mounted anew, because only a mount (and no remount) reaches the nodes' mount namespaces.
        run(["umount", str(folder)])
        run(["mount", "-o", "loop,ro", str(image), str(folder)])


def destroy(folder: Path) -> None:
    """Unmount and delete."""
    if folder.is_mount():
        run(["umount", "--lazy", str(folder)])
    _image(folder).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _image(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.ext4")


def _wake_on_change(api: Api, path: str, changed: threading.Event) -> None:
    while True:
        try:
            for _ in api.watch(path, WATCH_SECONDS):
                changed.set()
        except (ApiError, OSError, ValueError, http.client.HTTPException) as error:
            _log(f"watch of {path}: {error}")
            time.sleep(PAUSE_SECONDS)
        changed.set()


def _log(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
