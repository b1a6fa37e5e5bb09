"""How good a policy is before it acts: off-policy evaluation of logged episodes, and a decision."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from offrl.ope.arrays import estimate
    from offrl.ope.findings import Decision, Estimate, Findings
    from offrl.ope.judging import Judgement, judge

_HOME = {
    "Decision": "findings",
    "Estimate": "findings",
    "Findings": "findings",
    "Judgement": "judging",
    "estimate": "arrays",
    "judge": "judging",
}

__all__ = ["Decision", "Estimate", "Findings", "Judgement", "estimate", "judge"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'offrl.ope' has no attribute {name!r}")
    value: object = getattr(import_module(f"offrl.ope.{_HOME[name]}"), name)
    globals()[name] = value
    return value
