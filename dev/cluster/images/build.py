"""Build the images from the project's Dockerfile: with Docker where there is one, else with buildah."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dev.cluster.command import run, stream
from dev.cluster.images import base, inputs, settings, storage
from dev.cluster.images.settings import FIND_LINKS, Settings
from dev.cluster.paths import REPOSITORY, Paths
from dev.cluster.progress import say, step

TARGETS = ("operator", "trainer")
# Built first, each under a name of its own, so that pruning keeps them: what takes long and changes seldom.
STAGES = {"operator": ("installer", "operator-packages"), "trainer": ("installer", "torch")}
# The build arguments that a person may set, as environment variables of the same names.
ARGUMENTS = {"BASE_IMAGE": "docker.io/library/debian:bookworm-slim", "TORCH_INDEX": "", "TORCH_VERSION": "2.15"}


def image_name(target: str) -> str:
    """What the cluster calls the image."""
    return f"docker.io/disttrain/{target}:dev"


def variable(target: str) -> str:
    """By it `dev.cluster env` says what the chosen cluster calls the image."""
    return f"DISTTRAIN_{target.upper()}_IMAGE"


def pulled_name(registry: str, target: str) -> str:
    """What a cluster calls the image that pulls it from there."""
    return f"{registry.rstrip('/')}/disttrain-{target}:dev"


def name_of(stage: str) -> str:
    """The name of a target's image, or of an intermediate stage that is kept."""
    return image_name(stage) if stage in TARGETS else f"localhost/disttrain/{stage}:dev"


def arguments(env: Mapping[str, str]) -> dict[str, str]:
    """The build arguments, with those of the environment over the defaults."""
    return {name: env.get(name) or default for name, default in ARGUMENTS.items()}


@dataclass(frozen=True, slots=True)
class Buildah:
    """buildah with a storage of its own below our folder, so that it meets nobody else's images."""

    paths: Paths

    @property
    def storage(self) -> Path:
        """Where the images lie."""
        return self.paths.images / "storage"

    @property
    def argv(self) -> list[str]:
        """The prefix of every command."""
        return ["buildah", "--root", str(self.storage), "--runroot", str(self.paths.images / "run"),
                "--storage-driver", "overlay"]  # fmt: skip


def build(paths: Paths, env: Mapping[str, str], *, docker: bool) -> list[str]:
    """Build every target whose inputs changed; returns the names of those that were built."""
    chosen = arguments(env)
    paths.images.mkdir(parents=True, exist_ok=True)
    built = []
    for target in TARGETS:
        wanted = inputs.digest(REPOSITORY, target, chosen)
        if _is_current(paths, target, wanted, docker):
            say(f"  ✓ image {target} is up to date")
            continue
        machine = settings.of_this_machine(env, can_mount=not docker)
        if docker:
            _with_docker(target, chosen, machine)
        else:
            _with_buildah(paths, target, chosen, machine)
        _record(paths, target, wanted)
        built.append(target)
    if built and not docker:
        # What the new images replaced; the named stages and their ancestors stay.
        run([*Buildah(paths).argv, "rmi", "--prune", "--force"], check=False)
    return built


def _is_current(paths: Paths, stage: str, wanted: str, docker: bool) -> bool:
    try:
        recorded = json.loads((paths.images / f"{stage}.json").read_text())["inputs"]
    except (OSError, ValueError, KeyError):
        return False
    if docker:
        exists = bool(run(["docker", "images", "--quiet", name_of(stage)]).strip())
    else:
        exists = storage.image_id(Buildah(paths).storage, name_of(stage)) is not None
    return bool(recorded == wanted) and exists


def _record(paths: Paths, stage: str, digest: str) -> None:
    (paths.images / f"{stage}.json").write_text(json.dumps({"inputs": digest}))


def _with_buildah(paths: Paths, target: str, chosen: Mapping[str, str], machine: Settings) -> None:
    buildah = Buildah(paths)
    scratch = paths.images / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    if storage.image_id(buildah.storage, chosen["BASE_IMAGE"]) is None:
        base.make(buildah.argv, chosen["BASE_IMAGE"], scratch)
    for stage in STAGES[target]:
        wanted = inputs.digest(REPOSITORY, stage, chosen)
        if not _is_current(paths, stage, wanted, docker=False):
            _stage_with_buildah(paths, stage, chosen, machine, scratch)
            _record(paths, stage, wanted)
    _stage_with_buildah(paths, target, chosen, machine, scratch)


def _stage_with_buildah(paths: Paths, stage: str, chosen: Mapping[str, str], machine: Settings, scratch: Path) -> None:
    with _secrets(machine, scratch) as (secrets, mounts), step(f"image: {stage}") as current:
        argv = [*Buildah(paths).argv, "build", "--isolation", "chroot", "--layers", "--pull-never", *secrets, *mounts,
                *_arguments(chosen), "--target", stage, "--tag", name_of(stage),
                "--file", str(REPOSITORY / "Dockerfile"), str(REPOSITORY)]  # fmt: skip
        # buildah unpacks gigabytes into TMPDIR, and /tmp may be a small tmpfs.
        env = {"TMPDIR": str(scratch)}
        stream(argv, lambda text: setattr(current, "note", text.strip()), env=env, log=paths.images / f"{stage}.log")
        current.note = ""


def _with_docker(target: str, chosen: Mapping[str, str], machine: Settings) -> None:
    with (
        tempfile.TemporaryDirectory() as scratch,
        _secrets(machine, Path(scratch)) as (secrets, _),
        step(f"image: {target} (docker build)") as current,
    ):
        argv = ["docker", "build", "--progress=plain", *secrets, *_arguments(chosen), "--target", target,
                "--tag", image_name(target), str(REPOSITORY)]  # fmt: skip
        stream(argv, lambda text: setattr(current, "note", text.strip()), env={"DOCKER_BUILDKIT": "1"})
        current.note = ""


def _arguments(chosen: Mapping[str, str]) -> list[str]:
    return [part for name, value in chosen.items() for part in ("--build-arg", f"{name}={value}")]


@contextmanager
def _secrets(machine: Settings, scratch: Path) -> Iterator[tuple[list[str], list[str]]]:
    """The machine's package settings as build options: secrets, and mounts that only buildah knows."""
    with (
        tempfile.NamedTemporaryFile("w", dir=scratch) as packages,
        tempfile.NamedTemporaryFile("w", dir=scratch) as apt,
    ):
        packages.write(machine.shell())
        packages.flush()
        options = ["--secret", f"id=packages,src={packages.name}"]
        mounts = []
        if machine.certificates and machine.certificates.is_file():
            options += ["--secret", f"id=certificates,src={machine.certificates}"]
        if machine.find_links:
            mounts += ["--volume", f"{machine.find_links}:{FIND_LINKS}:ro"]
        if configuration := settings.apt_configuration():
            apt.write(configuration)
            apt.flush()
            Path(apt.name).chmod(0o644)  # apt drops root before it reads
            mounts += ["--volume", f"{apt.name}:/etc/apt/apt.conf.d/99build:ro"]
        yield options, mounts
