"""The dead-man switch: what the kernel shall hold, and what follows from what it holds."""
