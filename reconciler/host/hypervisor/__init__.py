"""The VM from outside: what restarts it, and the careful hands (workers, programs, libvirt) that also signals use."""
