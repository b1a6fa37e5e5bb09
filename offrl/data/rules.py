"""The rules of a sound dataset: a stable code, how grave a breach is, and what to do about it.

An error makes what is learned from the data wrong or impossible, a warning is what a person should
look at, a note is worth knowing and breaks nothing. A finding that is minor is a note.
"""

from typing import Literal

from offrl.data.import_checks import IMPORT_RULES

Severity = Literal["error", "warning", "note"]

# code: severity, and what a person would advise.
RULES: dict[str, tuple[Severity, str]] = {
    "unreadable": (
        "error",
        "Download or collect the dataset again, or go on with the episodes that are whole:"
        " data filter --skip-corrupt.",
    ),
    "file-damaged": ("error", "Restore the file from a copy, or collect the dataset again."),
    "metadata-changed": (
        "error",
        "Restore it from a copy; what was changed on purpose is accepted by saving a copy.",
    ),
    "episode-damaged": ("error", "Restore the file from a copy, or collect the dataset again."),
    "fingerprint-mismatch": (
        "error",
        "The contents changed after they were written; find out why.",
    ),
    "count-mismatch": ("error", "Write the dataset again: its metadata and its files disagree."),
    "missing-episode": ("error", "Download or write the dataset again; an episode is gone."),
    "missing-column": (
        "error",
        "Every episode needs the same columns; add it or drop the episode.",
    ),
    "empty-episode": ("error", "Leave empty episodes out of the log."),
    "length-mismatch": (
        "error",
        "T steps need T actions, rewards and flags and T+1 observations; log the last one too.",
    ),
    "shape-mismatch": ("error", "Give every row the shape that its space declares."),
    "type-mismatch": ("error", "Convert the column to the type that its space declares."),
    "end-inside-episode": ("error", "Start a new episode after each end."),
    "non-finite-observation": (
        "error",
        "Repair the sensor log, or leave them out: data filter --finite.",
    ),
    "non-finite-action": (
        "error",
        "Repair the log, or leave such episodes out: data filter --finite.",
    ),
    "non-finite-reward": ("error", "Repair it, or leave such episodes out: data filter --finite."),
    "action-out-of-range": (
        "error",
        "Check the number of choices and the number of the first one.",
    ),
    "action-out-of-bounds": (
        "error",
        "Log the action that was executed, after clipping, or correct the action space.",
    ),
    "observation-out-of-space": (
        "warning",
        "Correct the observation space, or the sensor's units.",
    ),
    "choice-out-of-space": ("error", "Correct the number of choices in the observation space."),
    "log-prob-shape": ("error", "Log one number per step, or one more for the reset."),
    "log-prob-infinite": ("error", "Log the log-probability of the executed action only."),
    "log-prob-positive": ("error", "No probability is above 1: take the natural log of it first."),
    "log-prob-shifted": (
        "error",
        "Row t+1 belongs to action t and row 0 to the reset; move the column by one row.",
    ),
    "log-prob-gap": (
        "warning",
        "Log it at every step, or importance weights cannot be used there.",
    ),
    "log-prob-partial": (
        "note",
        "Methods that weigh by the behaviour use the other episodes only (data filter --logged).",
    ),
    "log-prob-mean-ratio": (
        "error",
        "Log natural logs, in the units of the logged actions, of the policy that acted.",
    ),
    "action-mask-violated": (
        "error",
        "Row t of the mask belongs to the decision of step t; align the mask, or correct it.",
    ),
    "action-mask-shape": ("error", "Log one row of flags per decision, one flag per action."),
    "boundary-crossing": (
        "warning",
        "Flag the end before such a jump, or that step teaches a leap that cannot happen.",
    ),
    "continued-in-next": (
        "note",
        "If the log was cut into pieces, nothing need be done: values look beyond a cut.",
    ),
    "last-observation-repeated": (
        "warning",
        "Log the observation that follows the last action instead of repeating the one before.",
    ),
    "last-observation-from-next": (
        "warning",
        "Log the observation before the reset; after an automatic reset it is in the info.",
    ),
    "duplicate-episode": (
        "warning",
        "Keep one of each, or held-out episodes repeat trained ones: data filter --distinct.",
    ),
    "duplicate-row": (
        "warning",
        "Look for rows that were logged twice; a deterministic system may repeat some.",
    ),
    "reward-outlier": (
        "warning",
        "Look whether they are real; an error code such as -9999 must not reach the data.",
    ),
    "reward-scale": ("warning", "Scale the rewards to about 1."),
    "both-ends": ("note", "Such steps count as terminated; nothing need be done."),
    "open-end": ("note", "Such episodes count as truncated; nothing need be done."),
    "ends-at-one-length": (
        "warning",
        "If that is a time limit, mark it truncated instead, so that values look beyond it.",
    ),
    "saturated-action": (
        "note",
        "A policy that squashes its actions cannot reach a bound, and a log-probability there must"
        " count everything beyond it. If the log was cut off, log what was executed.",
    ),
    "observation-normalised": (
        "note",
        "If it was scaled before it was logged, keep the scale: a policy trained on it needs"
        " observations scaled alike when it acts.",
    ),
    "duplicate-observation": ("note", "One of the columns is enough; check that both were meant."),
    "duplicate-action": ("note", "Check that the columns of the action were not logged twice."),
    "constant-observation": ("note", "The column says nothing; leave it out if you can."),
    "constant-action": ("note", "Nothing can be learned about an action that never changes."),
    "constant-reward": (
        "note",
        "Every policy looks alike under it; check that rewards were logged.",
    ),
    **IMPORT_RULES,
    "few-episodes": ("note", "Intervals over episodes and held-out episodes need more of them."),
}
