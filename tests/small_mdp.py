"""The MDP of the lecture's numbers: two states, two actions, every figure of it known."""

import numpy as np

from offrl.tabular import MDP

M2 = MDP(
    transition=np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.1, 0.9]]]),
    reward=np.array([[0.0, 1.0], [2.0, -1.0]]),
    discount=0.9,
    start=np.array([1.0, 0.0]),
)
MU = np.array([[0.5, 0.5], [0.5, 0.5]])  # made the log
PI = np.array([[0.2, 0.8], [0.9, 0.1]])  # to be judged on it

Q_MU = np.array([[4.5, 5.5], [6.5, 3.5]])
Q_PI = np.array([[11.6155234657, 13.1272563177], [13.9079422383, 11.2003610108]])
Q_STAR = np.array([[14.1732283465, 15.6692913386], [16.4566929134, 13.7401574803]])
