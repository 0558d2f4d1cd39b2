"""The commands: `python -m dev.cluster up`, and what goes with it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from typing import Annotated, assert_never

import typer

from dev.cluster import given, kind, kwok, local, mounts, network, prerequisites, toolchain
from dev.cluster.addresses import NodeNet, node_number
from dev.cluster.choice import Choice, Facts, Provider, choose
from dev.cluster.command import Trouble, succeeds
from dev.cluster.images import build
from dev.cluster.images.load import load_built
from dev.cluster.paths import Paths, current_paths
from dev.cluster.progress import say, step
from dev.cluster.versions import CLUSTER_TOOLS, USER_TOOLS

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


def _chosen(paths: Paths) -> Choice:
    facts = Facts(
        kubeconfig=os.environ.get("KUBECONFIG", ""),
        own_kubeconfigs=(paths.kubeconfig, kind.kubeconfig(paths)),
        docker_engine=succeeds(["docker", "info"]),
        kind=shutil.which("kind") is not None,
        local_started=local.was_started(paths),
        override=os.environ.get("DISTTRAIN_CLUSTER", ""),
    )
    return choose(facts)


def _announced(paths: Paths) -> Provider:
    choice = _chosen(paths)
    say(f"cluster: {choice.provider} ({choice.reason})")
    return choice.provider


@app.command()
def up(
    nodes: Annotated[int, typer.Option(min=1, max=9, help="real nodes")] = 1,
    control_plane_only: Annotated[bool, typer.Option("--control-plane-only", help="API server, no node")] = False,
) -> None:
    """Start (or repair) the cluster; what is missing is built or installed first."""
    paths = current_paths()
    match _announced(paths):
        case Provider.GIVEN:
            toolchain.find_or_ensure(paths, USER_TOOLS)
            say("\n".join(given.describe(paths)))
        case Provider.KIND:
            toolchain.find_or_ensure(paths, USER_TOOLS)
            kind.up(paths, nodes)
        case Provider.LOCAL:
            _local_up(paths, nodes, control_plane_only)
        case _ as never:
            assert_never(never)


def _local_up(paths: Paths, nodes: int, control_plane_only: bool) -> None:
    prerequisites.check_machine(paths)
    with local.locked(paths):
        local.claim_machine(paths)
        prerequisites.ensure_packages(prerequisites.NODE, os.environ)
        prerequisites.check_disk(paths)
        toolchain.ensure(paths, (*CLUSTER_TOOLS, *USER_TOOLS))
        local.up(paths, nodes, control_plane_only=control_plane_only)
        if not control_plane_only:
            load_built(paths, local.node_names(paths), must_exist=False)
    say(f"use it:  eval $({sys.executable} -m dev.cluster env)")


@app.command()
def down() -> None:
    """End what `up` started; tools and images stay."""
    paths = current_paths()
    match _announced(paths):
        case Provider.GIVEN:
            say("this cluster is not ours: nothing is taken down")
        case Provider.KIND:
            kind.down(paths)
        case Provider.LOCAL:
            _local_down(paths)
        case _ as never:
            assert_never(never)


def _local_down(paths: Paths) -> None:
    owner = network.owner()
    if not paths.cluster.exists() and (owner not in (None, str(paths.root)) or not network.present()):
        say(f"no cluster is running{f' that was made from here: there is one of {owner}' if owner else ''}")
        return
    prerequisites.check_machine(paths)
    with local.locked(paths):
        local.down(paths)


@app.command()
def status() -> None:
    """What runs."""
    paths = current_paths()
    match _announced(paths):
        case Provider.GIVEN:
            say("\n".join(given.describe(paths)))
        case Provider.KIND:
            say("\n".join(kind.status(paths)))
        case Provider.LOCAL:
            say("\n".join(local.status(paths)))
        case _ as never:
            assert_never(never)


@app.command("image-build")
def image_build() -> None:
    """Build the images operator and trainer, if anything they are made from has changed."""
    paths = current_paths()
    if succeeds(["docker", "info"]) and _chosen(paths).provider is not Provider.LOCAL:
        build.build(paths, os.environ, docker=True)
        return
    prerequisites.check_machine(paths)
    with local.locked(paths):
        prerequisites.ensure_packages(prerequisites.IMAGES, os.environ)
        prerequisites.check_disk(paths)
        build.build(paths, os.environ, docker=False)


@app.command("image-load")
def image_load() -> None:
    """Bring the built images to every node."""
    paths = current_paths()
    match _announced(paths):
        case Provider.GIVEN:
            builder = ["docker"] if succeeds(["docker", "info"]) else build.Buildah(paths).argv
            registry = os.environ.get(given.REGISTRY, "")
            if not registry:
                raise Trouble(given.push_instructions(builder))
            say(given.push_instructions(builder, registry))
        case Provider.KIND:
            kind.load()
        case Provider.LOCAL:
            nodes = local.node_names(paths)
            if not nodes:
                raise Trouble("no node is running: start the cluster with `python -m dev.cluster up`")
            with local.locked(paths):
                load_built(paths, nodes, must_exist=True)
        case _ as never:
            assert_never(never)


@app.command()
def env() -> None:
    """Print the lines that make kubectl and helm use this cluster: `eval $(python -m dev.cluster env)`."""
    paths = current_paths()
    match provider := _chosen(paths).provider:
        case Provider.GIVEN:
            kubeconfig = os.environ["KUBECONFIG"]
        case Provider.KIND:
            kubeconfig = str(kind.kubeconfig(paths))
        case Provider.LOCAL:
            kubeconfig = str(paths.kubeconfig)
        case _ as never:
            assert_never(never)
    say(f"export KUBECONFIG={shlex.quote(kubeconfig)}")
    for target in build.TARGETS:
        say(f"export {build.variable(target)}={shlex.quote(_image(provider, target))}")
    say(f"export PATH={shlex.quote(str(paths.bin))}:$PATH")


def _image(provider: Provider, target: str) -> str:
    """Empty: nobody knows where that cluster would find it."""
    if provider is not Provider.GIVEN:
        return build.image_name(target)
    registry = os.environ.get(given.REGISTRY, "")
    return build.pulled_name(registry, target) if registry else ""


@app.command()
def tools() -> None:
    """Build or find kubectl and helm; with our own cluster also its servers."""
    paths = current_paths()
    with local.locked(paths):
        if _announced(paths) is Provider.LOCAL:
            toolchain.ensure(paths, (*CLUSTER_TOOLS, *USER_TOOLS))
        else:
            toolchain.find_or_ensure(paths, USER_TOOLS)
    for link in sorted(paths.bin.iterdir()):
        say(f"{link.name:26} {link.resolve()}")


@app.command("kwok-up")
def kwok_up(nodes: Annotated[int, typer.Option(min=1, max=200, help="fake nodes of 500 pods each")] = 10) -> None:
    """Add fake nodes for tests of scale."""
    with local.locked(paths := current_paths()):
        kwok.up(paths, nodes)


@app.command("kwok-down")
def kwok_down() -> None:
    """Remove the fake nodes and their pods."""
    with local.locked(paths := current_paths()):
        kwok.down(paths)


@app.command()
def partition(node: str) -> None:
    """Cut a node off: its cable to everything else is pulled."""
    network.partition(_existing(node))
    say(f"{node} is cut off; `python -m dev.cluster heal {node}` connects it again")


@app.command()
def heal(node: str) -> None:
    """Connect a node again."""
    network.heal(_existing(node))
    say(f"{node} is connected")


@app.command("remove-node")
def remove_node(node: str) -> None:
    """Take one node away for good (`up --nodes N` adds it again)."""
    with local.locked(paths := current_paths()):
        local.remove_node(paths, _existing(node))


def _existing(node: str) -> NodeNet:
    names = local.node_names(current_paths())
    if node not in names:
        raise Trouble(f"there is no node {node}: {', '.join(names) or 'no cluster is running'}")
    return NodeNet(node_number(node))


@app.command()
def clean(
    tools: Annotated[bool, typer.Option("--tools", help="also the built tools: minutes to make again")] = False,
) -> None:
    """Take the cluster down and remove its images; a given cluster is left alone."""
    paths = current_paths()
    _local_down(paths)
    with local.locked(paths), step("removing images") as current:
        folders = [paths.images, paths.stores, *([paths.root] if tools else [])]
        for folder in folders:
            if folder.exists():
                mounts.unmount_all(folder)
                shutil.rmtree(folder)
        current.note = "" if tools else f"the built tools stay in {paths.root} (`clean --tools` removes them too)"


def main() -> None:
    """Run a command; what a person must act on is printed without a traceback."""
    try:
        app()
    except (Trouble, ValueError, ConnectionError) as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None
