"""The scripts under examples/ run as they stand, on other people's data."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.slow
def test_open_bandit_data_beside_their_own_ab_test(realdata: Path):
    script = EXAMPLES / "open_bandit.py"
    assert len(script.read_text().splitlines()) < 40
    command = [sys.executable, "-W", "error", str(script), str(realdata / "open-bandit-dataset")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    forth, back = done.stdout.split("bts from the log of random")
    assert "656 effective of 10000" in forth  # as others have measured
    assert "ips         0.00301 [0.0016" in forth
    assert "snips       0.00319" in forth
    truth = float(back.split("A/B ")[1].split()[0])
    for line in back.splitlines():
        words = line.replace("[", "").replace("]", "").replace(",", "").split()
        if words and words[0] in ("ips", "snips", "clipped-ips", "switch-dr"):
            assert float(words[2]) <= truth <= float(words[3]), line


def test_every_example_says_how_it_is_run():
    for script in EXAMPLES.glob("*.py"):
        assert f"python examples/{script.name}" in script.read_text()
