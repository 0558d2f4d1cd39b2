"""Build the tools from Go modules, once per version: named at the end, checksummed, verified before use."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dev.cluster import golang
from dev.cluster.command import Trouble, run, stream
from dev.cluster.gomod import go_mod, staging_modules
from dev.cluster.paths import GO_SOURCES, Paths
from dev.cluster.progress import Step, step
from dev.cluster.versions import KUBE, Tool


def ensure(paths: Paths, tools: Sequence[Tool]) -> dict[str, Path]:
    """Every tool's path; what is missing or damaged is built first. Also refreshes the links in `bin`."""
    found = {}
    for tool in tools:
        target = paths.tool(tool.name, tool.version)
        if not is_intact(target, recipe(tool)):
            _build_visibly(paths, tool, target)
        for name in (tool.name, *tool.links):
            _link(paths.bin / name, target)
        found[tool.name] = target
    # Ten gigabytes that served their purpose. An interrupted build never comes here, so the next one goes on with them.
    if paths.go_work.exists():
        with step("removing what the compiler left"):
            shutil.rmtree(paths.go_work)
    return found


def find_or_ensure(paths: Paths, tools: Sequence[Tool]) -> None:
    """Use what was built before, else link what the machine has on PATH, else build: for clusters that are not ours."""
    for tool in tools:
        elsewhere = shutil.which(tool.name)
        if elsewhere and Path(elsewhere).parent != paths.bin and missing(paths, (tool,)):
            _link(paths.bin / tool.name, Path(elsewhere))
        else:
            ensure(paths, (tool,))


def missing(paths: Paths, tools: Sequence[Tool]) -> tuple[Tool, ...]:
    """The tools that still have to be built (a glance: existence only)."""
    return tuple(tool for tool in tools if not checksum_file(paths.tool(tool.name, tool.version)).exists())


def checksum_file(binary: Path) -> Path:
    """Where the sha256 of a binary is kept."""
    return binary.with_name(binary.name + ".sha256")


def recipe(tool: Tool) -> str:
    """A digest of how the tool is built: another recipe of the same version is another program."""
    source = GO_SOURCES / f"{tool.name}.go"
    main = source.read_bytes() if source.exists() else b""
    return hashlib.sha256(f"{tool.module}\0{tool.command}\0{tool.ldflags}\0".encode() + main).hexdigest()


def is_intact(binary: Path, wanted_recipe: str) -> bool:
    """Whether the binary is there, was built by this recipe, and is still what was built.

    Hashing 150 MB takes 0.1 s; the size and time of the verified file are remembered, so that it happens once.
    """
    recorded = checksum_file(binary)
    if not (binary.is_file() and recorded.is_file()):
        return False
    kept = json.loads(recorded.read_text())
    stamp = _stamp(binary)
    if kept.get("recipe") != wanted_recipe:
        return False
    if kept.get("stamp") == stamp:
        return True
    if kept.get("sha256") != sha256(binary):
        return False
    recorded.write_text(json.dumps({**kept, "stamp": stamp}))
    return True


def sha256(path: Path) -> str:
    """The digest of a file."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    # ctime cannot be set back by a program that writes into the file.
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _link(link: Path, target: Path) -> None:
    if link.is_symlink() and link.readlink() == target:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.symlink_to(target)
    fresh.replace(link)


def _build_visibly(paths: Paths, tool: Tool, target: Path) -> None:
    go = golang.find_or_install(paths)
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(".build-*"):  # of a build that was killed; the caller holds the lock
        shutil.rmtree(leftover)
    with (
        step(f"building {tool.name} {tool.version}") as current,
        tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as scratch,
    ):
        work = Path(scratch)
        built = _build(go, tool, work, paths.go_work, current)
        # The checksum comes last: a binary without its own is never used.
        os.utime(built)
        digest = sha256(built)
        built.replace(target)
        record = {"sha256": digest, "recipe": recipe(tool), "stamp": _stamp(target)}
        checksum_file(target).write_text(json.dumps(record))
        current.note = f"{target.stat().st_size // 1_000_000} MB"


def _build(go: Path, tool: Tool, work: Path, kept: Path, current: Step) -> Path:
    """Compile into `work`. Go keeps what it compiled in `kept`, so an interrupted build goes on where it stopped."""
    env = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod -buildvcs=false -modcacherw", "GOBIN": str(work),
           "GOPATH": str(kept), "GOCACHE": str(kept / "compiled")}  # fmt: skip
    build = ["-v", "-trimpath", "-ldflags", tool.ldflags]
    counted = Counted(current)
    if tool.command:
        env["GOFLAGS"] = "-buildvcs=false -modcacherw"
        argv = [str(go), "install", *build, f"{tool.command}@v{tool.version}"]
    else:
        current.note = "resolving modules"
        (work / "go.mod").write_text(go_mod(tool, _staging(go, tool, env)))
        shutil.copy(GO_SOURCES / f"{tool.name}.go", work / "main.go")
        stream([str(go), "list", "-deps", "."], counted.listed, env=env, cwd=work)
        argv = [str(go), "build", *build, "-o", tool.name, "."]
    stream(argv, counted.compiled, env=env, cwd=work)
    built = work / tool.name
    if not built.is_file():
        raise Trouble(f"`go install {tool.command}` made no program called {tool.name}: see versions.py")
    return built


class Counted:
    """What go says line by line, as a note: how many packages it compiled, and of how many."""

    def __init__(self, shown: Step) -> None:
        self._shown = shown
        self._all = 0
        self._done = 0

    def listed(self, text: str) -> None:
        """A line of `go list -deps`: a download, or a package that the program needs."""
        if not self._is_download(text):
            self._all += 1

    def compiled(self, text: str) -> None:
        """A line of `go build -v`: a download, or a package that is being compiled (kept ones are not mentioned)."""
        if not self._is_download(text):
            self._done += 1
            most = f" of at most {self._all}" if self._all else ""
            self._shown.note = f"{self._done}{most} packages compiled, now {text}"

    def _is_download(self, text: str) -> bool:
        if text.startswith("go: "):
            self._shown.note = text.removeprefix("go: ")
        return text.startswith("go: ")


def _staging(go: Path, tool: Tool, env: dict[str, str]) -> tuple[str, ...]:
    if tool is not KUBE:
        return ()
    answer = json.loads(run([str(go), "mod", "download", "-json", f"{tool.module}@v{tool.version}"], env=env))
    return staging_modules(Path(answer["GoMod"]).read_text())
