"""Read the Dockerfile: which files of the checkout does a target depend on? Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """One `FROM … AS name`, what it builds on, and what it copies from the checkout."""

    name: str
    builds_on: tuple[str, ...]
    sources: tuple[str, ...]


def instructions(text: str) -> list[str]:
    """The instructions, each on one line, without comments."""
    joined: list[str] = []
    pending = ""
    for raw in text.splitlines():
        if not raw.strip() or raw.lstrip().startswith("#"):
            continue
        pending += raw.rstrip().removesuffix("\\") + " "
        if not raw.rstrip().endswith("\\"):
            joined.append(pending.strip())
            pending = ""
    return joined


def stages(text: str) -> dict[str, Stage]:
    """The stages by name, in order."""
    found: dict[str, Stage] = {}
    for instruction in instructions(text):
        word, *rest = shlex.split(instruction)
        if word == "FROM":
            name = rest[2] if len(rest) == 3 and rest[1].upper() == "AS" else str(len(found))
            found[name] = Stage(name, (rest[0],), ())
        elif word in ("COPY", "ADD") and found:
            name, stage = next(reversed(found.items()))
            origin = [option.removeprefix("--from=") for option in rest if option.startswith("--from=")]
            plain = tuple(part for part in rest if not part.startswith("--"))[:-1]
            found[name] = Stage(
                name, (*stage.builds_on, *origin), stage.sources if origin else (*stage.sources, *plain)
            )
    return found


def inputs(text: str, target: str) -> tuple[str, ...]:
    """The paths of the checkout that reach the target, through all stages it builds on."""
    known = stages(text)
    if target not in known:
        raise KeyError(f"the Dockerfile has no target {target}: it has {', '.join(known)}")
    seen: set[str] = set()
    queue = [target]
    paths: set[str] = set()
    while queue:
        stage = known.get(queue.pop())
        if stage is None or stage.name in seen:
            continue
        seen.add(stage.name)
        paths.update(stage.sources)
        queue.extend(stage.builds_on)
    return tuple(sorted(paths))
