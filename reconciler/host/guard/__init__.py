"""The guard's room: the way into the kernel's nf_tables."""
