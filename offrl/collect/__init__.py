"""Behaviours that act with exact log-probabilities, and the recorder of what they do."""
