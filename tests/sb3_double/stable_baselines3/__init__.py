"""Stands for Stable-Baselines3 in tests: as much of its shape as a trusted agent meets."""
