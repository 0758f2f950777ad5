"""A guard's table as text, and hands that are none of ours: nft's own program, and frames."""

import contextlib
import socket
import subprocess

from processes import PATIENCE_S

TABLE = "reconciler-lab/x"
RULES = f"""
table netdev {TABLE} {{
	comment "reconciler:lab+x:guard"
	counter edge/port/outside {{ packets 7 bytes 420 }}
	counter edge/port/inside {{ packets 0 bytes 0 }}
	set edge/granted {{ typeof ether daddr; }}
	set edge/lease/outside {{ typeof meta iiftype; size 4; flags dynamic,timeout; }}
	set edge/lease/inside {{ typeof meta iiftype; size 4; flags dynamic,timeout; }}
	set edge/drain {{ typeof meta iiftype; flags timeout; }}
	set edge/aside {{ typeof meta iiftype; flags timeout; }}
	set spare {{ type ether_addr; }}
	chain edge/probe/inside {{
		ether daddr @edge/granted update @edge/lease/inside {{ meta iiftype timeout 1m }}
		drop
	}}
	chain unused {{
		drop
	}}
	chain edge/port/outside {{
		type filter hook ingress device "nic0" priority -500; policy accept;
		ether daddr {{ 02:00:00:00:00:01, 02:00:00:00:00:02 }} drop
		meta iiftype @edge/lease/outside meta iiftype @edge/lease/inside counter accept
		counter name "edge/port/outside" fwd to "nic1"
	}}
	chain edge/adapter/inside {{
		type filter hook ingress device "nic1" priority -500; policy accept;
		ether saddr vmap {{ 02:00:00:00:00:10 : goto edge/probe/inside, 02:00:00:00:00:11 : drop }}
		counter name "edge/port/inside" drop
	}}
}}
"""
CHAIN = f"netdev {TABLE} edge/port/outside"
LEASE, GRANTED = "edge/lease/inside", "edge/granted"
# No test waits for this long: what shall not expire does not.
LONG_MS = 600_000
SOON_S = 10.0
# Of the probe: who it is for, and from whom.
TOKEN, MARK = bytes.fromhex("020000000099"), bytes.fromhex("020000000010")


def nft(*words: str, text: str | None = None) -> str:
    """Run nft's own program, which is none of ours, in the thread's namespace."""
    done = subprocess.run(["nft", *words], input=text, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, f"nft {' '.join(words)}: {done.stderr}"
    return done.stdout


def send(interface: str, *frames: bytes) -> None:
    """Send frames out of an interface of the thread's namespace."""
    with contextlib.closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as sender:
        sender.bind((interface, 0))
        for frame in frames:
            sender.send(frame)


def frame(target: bytes, source: bytes) -> bytes:
    return target + source + bytes.fromhex("88b5") + bytes(46)


def probe() -> None:
    """A probe enters at nic1 and renews the lease, if its token is granted."""
    send("far1", frame(TOKEN, MARK))
