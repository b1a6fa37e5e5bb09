"""Looking into a damaged dataset in a process of its own, which a hang or a crash may take along.

A library that follows damaged structures can run for ever or die; its caller must not. The child
has a limit of processor time and of memory, and what it says is a report as plain values.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from offrl.data.cache import own_files

SECONDS_PER_GB = 60
LEAST_SECONDS = 60  # of processor time
LEAST_BYTES = 4 * 2**30  # of address space: the libraries alone take a good part of one
_LOOK = "from offrl.data.damaged import main; main()"


def look(folder: Path, ref: str) -> dict[str, Any] | str:
    """Return the report of `checks.check_folder` as plain values, or why there is none."""
    size = sum(path.stat().st_size for path in own_files(folder))
    request = {
        "folder": str(folder),
        "ref": ref,
        "seconds": LEAST_SECONDS + SECONDS_PER_GB * size // 10**9,
        "bytes": LEAST_BYTES + 8 * size,
    }
    # Our own code run by our own interpreter; -P: no module beside it is picked up.
    done = subprocess.run(
        [sys.executable, "-P", "-c", _LOOK],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return json.loads(done.stdout)
    if done.returncode < 0:
        return f"reading it ends with signal {-done.returncode}"
    return (done.stderr.strip().splitlines() or [f"reading it ends with {done.returncode}"])[-1]


def main() -> None:
    """Read a request from standard input and write the report to standard output."""
    from offrl.data.checks import check_folder  # which calls this module

    request = json.loads(sys.stdin.read())
    limit(request["seconds"], request["bytes"])
    json.dump(check_folder(Path(request["folder"]), request["ref"]).to_dict(), sys.stdout)


def limit(seconds: int, size: int) -> None:
    """Let this process end by a signal after seconds of work, and have no more memory than this."""
    kinds = ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, size), (resource.RLIMIT_CORE, 0))
    for kind, most in kinds:
        _, hard = resource.getrlimit(kind)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, hard))
