"""Stands for `disttrain_runtime.worker`, without torch: does what a variable says, when imported and when run."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

exec(os.environ.get("WHEN_IMPORTED", ""))


def main(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    exec(environment.get("DISTTRAIN_PROGRAM", ""), {"argv": argv})
    return int(environment.get("DISTTRAIN_CODE", "0"))


def leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main(sys.argv[1:], os.environ))
