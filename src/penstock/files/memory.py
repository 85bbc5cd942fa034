"""How much memory this process may have."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

if sys.platform == "win32":
    resource = None
else:
    import resource

_CGROUP = Path("/sys/fs/cgroup/memory.max")


def machine_bytes() -> int | None:
    """Of the machine, of the container, or of a limit on the process (``ulimit -v``), whichever is least; None where
    none of them says it."""
    found: list[int] = []
    with suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):
        found.append(int(_CGROUP.read_text(encoding="ascii")))
    if resource is not None:
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            found.append(limit)
    return min(found, default=None)
