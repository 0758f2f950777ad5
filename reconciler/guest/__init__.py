"""The counterpart in the VM: a single file that says, ten times a second, how the security software is.

`agent.py` is not imported by anything here: it is copied into the VM, with its config and a service file, which
`reconcile guest --print` gives out (`files`). Its docstring fixes the protocol that the host's heartbeat signal reads.
"""
