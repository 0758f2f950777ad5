"""Evidence becomes a decision: readings of signals, the verdict that they add up to, and the policy. Pure."""
