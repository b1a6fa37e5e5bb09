"""What a training run tells of itself while it goes on."""

import pytest

from offrl.events import Trained
from offrl_cli import progress
from offrl_cli.progress import Training


@pytest.fixture(autouse=True)
def every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)


class TestTimeLeft:
    def test_on_a_log_it_is_told_by_gradient_steps(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        show = Training("td3 on a log", 1000)
        show(Trained(0, 400, {"critic/loss": 2.0}, 50.0))
        assert capsys.readouterr().err.strip() == (
            "td3 on a log seed 0: step 400 of 1000, 50 steps/s, 12 s left, critic/loss 2"
        )

    def test_in_an_environment_by_its_steps_whatever_is_learned_in_each(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        show = Training("sac in Hopper-v5", 580_000, 150_000)
        show(Trained(0, 40_000, {"critic/loss": 2.0, "env_step": 15_000}, 50.0))
        assert capsys.readouterr().err.strip() == (
            "sac in Hopper-v5 seed 0: env_step 15000 of 150000, 50 env_steps/s, 2700 s left,"
            " critic/loss 2"
        )
