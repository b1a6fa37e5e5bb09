"""Demonstrations: `pendulum`, where a policy can be tried, and `logs`, where it cannot."""
