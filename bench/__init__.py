"""`python -m bench`: every figure of the README and of bench/README.md, beside its peer in the same run."""
