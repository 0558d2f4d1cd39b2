"""The package settings of this machine (index, proxy, certificates), for a build and for nothing else.

They reach the build as secrets and as an apt configuration mounted for its duration: nothing of them is written into
an image, its history, or the repository.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dev.cluster.command import run, succeeds

CERTIFICATES = "/run/secrets/certificates"
FIND_LINKS = "/run/disttrain/find-links"
# pip's name of a setting → uv's. Everything else of pip is passed on for pip alone.
UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a build is given."""

    variables: tuple[tuple[str, str], ...]
    certificates: Path | None
    find_links: Path | None  # a folder of wheels on this machine

    def shell(self) -> str:
        """The `packages` secret: a shell file that exports the variables."""
        return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self.variables)


def pip_settings(listing: str) -> dict[str, str]:
    """Read `pip config list`: `global.index-url='…'`, `:env:.cert='…'`; the environment wins. Pure."""
    found: dict[str, str] = {}
    lines = [text for text in listing.splitlines() if "=" in text]
    for text in sorted(lines, key=lambda text: text.startswith(":env:")):
        key, _, value = text.partition("=")
        found[key.rpartition(".")[2]] = value.strip().strip("'\"")
    return found


def derive(
    pip: Mapping[str, str], env: Mapping[str, str], is_folder: Mapping[str, bool], *, can_mount: bool = True
) -> Settings:
    """Turn pip's settings and the environment into those of the build. Pure.

    `is_folder` tells about find-links: a folder of wheels reaches the build only if it can be mounted (buildah can,
    `docker build` cannot).
    """
    variables: dict[str, str] = {}
    find_links: Path | None = None
    for name, value in pip.items():
        if name == "cert":
            continue
        if name == "find-links" and is_folder.get(value):
            if not can_mount:
                continue
            find_links, value = Path(value), FIND_LINKS
        variables["PIP_" + name.upper().replace("-", "_")] = value
        if name in UV_NAMES:
            variables[UV_NAMES[name]] = value
    variables |= {name: value for name, value in env.items() if name.startswith("UV_") and name in UV_NAMES.values()}
    variables |= {name: env[name] for name in PASSED_ON if name in env}
    chosen = pip.get("cert") or next((env[name] for name in CERTIFICATE_VARIABLES if env.get(name)), None)
    certificates = Path(chosen) if chosen else None
    if certificates:
        variables |= {"SSL_CERT_FILE": CERTIFICATES, "PIP_CERT": CERTIFICATES}
    return Settings(tuple(sorted(variables.items())), certificates, find_links)


def of_this_machine(env: Mapping[str, str], *, can_mount: bool) -> Settings:
    """The settings of pip and of the environment, here and now."""
    pip = [sys.executable, "-m", "pip"]
    if not succeeds([*pip, "--version"]):
        pip = [shutil.which("pip3") or shutil.which("pip") or "pip"]
    listing = run([*pip, "config", "list"]) if succeeds([*pip, "--version"]) else ""
    settings = pip_settings(listing)
    links = settings.get("find-links", "")
    return derive(settings, env, {links: Path(links).is_dir()} if links else {}, can_mount=can_mount)


def apt_configuration() -> str:
    """The machine's proxy and certificate settings of apt, as an apt.conf; empty if it has none."""
    if not shutil.which("apt-config"):
        return ""
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Retries")
    lines = run(["apt-config", "dump"]).splitlines()
    return "".join(f"{text}\n" for text in lines if text.startswith(wanted) and not text.endswith('"";'))
