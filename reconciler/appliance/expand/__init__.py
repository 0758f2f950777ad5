"""From what is written to what it amounts to."""
