"""Online training: a policy that acts, remembers, and goes on learning."""
