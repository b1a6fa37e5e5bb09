"""Sweeps: algorithms x datasets x seeds x settings, each a run of its own, one table of results.

SWEEP/results.parquet                                  one row a trial
SWEEP/runs/<algo>/<dataset>/<settings>/seed=<n>/       a run like any other, and
                                            trial.json what came of it
"""
