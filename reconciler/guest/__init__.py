"""The counterpart in the VM: it says, ten times a second, how the security software there is.

`agent/` is not imported by anything here: `assembly` makes one file of it, which is copied into the VM with its config
and a service file; `reconcile guest --print` gives them out (`files`). Its docstring fixes the protocol that the host's
heartbeat signal reads.
"""
