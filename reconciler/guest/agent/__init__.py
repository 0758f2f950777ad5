"""Tell the host how this VM's security software is: the reconciler's counterpart inside the VM.

One self-contained file: Linux, Python 3.8 or newer, standard library only. Copy it into the VM and run it as root:

    python3 -I -S agent.py --config /etc/reconciler-agent.conf         (--check only validates the config)

What goes to the host: *beats*, one ASCII JSON object per line, at most 4096 bytes with the newline:

    {"v":1,"boot":"<boot_id of the kernel>","run":"<32 hex digits, new for each agent process>","seq":1,
     "interval_ms":100,"checks":{"suricata":{"state":"healthy","reason":"pid 312 is alive"}}}

- `seq` begins at 1 and rises by 1 with each beat that was sent.
- `state` is healthy, degraded (reported, no reason to bypass) or failed; `reason` is at most 120 printable characters.
- The first beat comes when each check has had its first result or its time limit; then one each `interval_ms`.
- A beat that the channel cannot take (no host, or one that does not read) is dropped, never queued. A line that was
  begun is finished before the next one.
- The last beat of an agent that is told to stop (SIGTERM, as when the VM shuts down) has `"stopping":true` at its end.
- No beats: the agent cannot run its checks, or is dead. What the host sends is read and thrown away.

Each check runs in a thread of its own, so that one that hangs is a failed check and blocks no other.
"""
