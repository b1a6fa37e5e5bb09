"""Datasets: where they lie, what they hold, whether they are sound; no torch in here."""
