"""Networks as values: desired, actual, what differs, and the plan that removes the difference. Pure."""
