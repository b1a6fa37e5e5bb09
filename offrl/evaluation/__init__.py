"""How good a policy is when it is tried: rollouts, scores, intervals."""
