"""Time batches, updates and acting, print what was measured and keep it as JSON."""

import argparse
import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import batches, online, updates

FOLDER = Path(__file__).parent
PARTS = ("batches", "updates", "online")


def bf16_instructions() -> list[str]:
    """Return what the processor has for bfloat16; without any, it is emulated and slow."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.is_file() else []
    return sorted({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS[:2]), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved measurements of each")
    parser.add_argument("--peer", default=online.PEER_PYTHON, help="python of `online`'s peer")
    parser.add_argument("--only", nargs="+", default=(), help="some algorithms of `updates`")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; use {', '.join(PARTS)}")

    report: dict[str, object] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "bf16_instructions": bf16_instructions(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "offrl": version("offrl"),
        "rounds": arguments.rounds,
    }
    for part in arguments.parts:
        if part == "batches":
            report[part] = batches.measure(arguments.rounds)
        elif part == "updates":
            report[part] = updates.measure(arguments.rounds, arguments.only)
        else:
            report[part] = online.measure(arguments.rounds, arguments.peer)
    out = FOLDER / "results" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\nwritten: {out.relative_to(FOLDER.parent)}")


main()
