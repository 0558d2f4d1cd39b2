"""Make the base image without a registry: debootstrap, under the very name that the Dockerfile's FROM uses."""

from __future__ import annotations

import shutil
from pathlib import Path

from dev.cluster.command import Trouble, run, stream
from dev.cluster.progress import step

# A slim image leaves out what nobody reads in a container.
DROPPED = ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "var/lib/apt/lists")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
NETWORK_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def suite_of(image: str) -> str:
    """`docker.io/library/debian:bookworm-slim` → `bookworm`; anything else must come from a registry. Pure."""
    repository, _, tag = image.rpartition(":")
    if repository.rpartition("/")[2] != "debian" or not tag:
        raise Trouble(
            f"the base image {image} cannot be made here: without Docker, BASE_IMAGE must be a debian:SUITE-slim, "
            "which debootstrap can build"
        )
    return tag.removesuffix("-slim")


def mirror_of(listing: str, suite: str) -> str | None:
    """The machine's own Debian mirror for the suite, from `apt-get indextargets`. Pure."""
    for text in listing.splitlines():
        address, _, codename = text.rpartition(" ")
        if codename == suite:
            return address
    return None


def make(buildah: list[str], image: str, scratch: Path) -> None:
    """Bootstrap the suite and commit it as an image."""
    suite = suite_of(image)
    root = scratch / "base-image"
    listing = run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"], check=False
    )
    mirror = mirror_of(listing, suite)
    with step(f"base image: debootstrap {suite}") as current:
        shutil.rmtree(root, ignore_errors=True)
        argv = ["debootstrap", "--variant=minbase", *_keyring(), suite, str(root), *([mirror] if mirror else [])]
        stream(argv, lambda text: setattr(current, "note", text.removeprefix("I: ")))
        _slim(root, suite, mirror)
        current.note = "committing"
        _commit(buildah, root, image)
        shutil.rmtree(root)
        current.note = image


def _keyring() -> list[str]:
    return [f"--keyring={KEYRING}"] if KEYRING.exists() else []


def _slim(root: Path, suite: str, mirror: str | None) -> None:
    for name in DROPPED:
        folder = root / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    if mirror:
        sources = f"Types: deb\nURIs: {mirror}\nSuites: {suite} {suite}-updates\nComponents: main\n"
        sources += f"Signed-By: {KEYRING}\n"
        (root / "etc/apt/sources.list").unlink(missing_ok=True)
        (root / "etc/apt/sources.list.d/debian.sources").write_text(sources)


def _commit(buildah: list[str], root: Path, image: str) -> None:
    container = run([*buildah, "from", "scratch"]).strip()
    try:
        run([*buildah, "copy", "--quiet", container, str(root), "/"])
        run([*buildah, "config", "--cmd", "bash", "--env", NETWORK_PATH, container])
        run([*buildah, "commit", "--quiet", container, image])
    finally:
        run([*buildah, "rm", container], check=False)
