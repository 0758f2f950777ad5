"""Peers that do the same switch, where they are installed.

ifupdown2 works on /etc/network and keeps its state in /run and /var/tmp: each call gets a private mount namespace in
which these are the bench's own. nmstate is not packaged by Debian; where `nmstatectl` is found, the table says that it
was not measured.
"""

import shutil
from collections.abc import Iterator

from bench.world import World, median, spawned, timed
from reconciler.lab.lab import Lab

_PRIVATE = """
set -e
cp -r /etc/network/. "$1/etc" 2>/dev/null || true
cp "$2" "$1/etc/interfaces"
mount --bind "$1/etc" /etc/network
mount -t tmpfs none /run; mount -t tmpfs none /var/tmp; mkdir -p /run/network /var/tmp/network
shift 2
exec "$@"
"""


def missing() -> Iterator[str]:
    """Which peers are not measured, and why."""
    if not shutil.which("ifreload"):
        yield "ifupdown2 (`ifreload`): not installed (Debian package ifupdown2)"
    yield "nmstate: " + ("found, but not measured" if shutil.which("nmstatectl") else "not installed")


def ifupdown2(made: World) -> tuple[float, float] | None:
    """Milliseconds of ifupdown2's audit (`ifquery --check`) and switch (`ifreload`) to bypass; None without it."""
    if not shutil.which("ifreload"):
        return None
    folder = made.file.parent / "ifupdown2"
    (folder / "etc").mkdir(parents=True, exist_ok=True)
    files = {name: folder / name for name in ("inspect", "bypass")}
    for name, path in files.items():
        path.write_text(_interfaces(made.lab, name), encoding="ascii")

    def call(topology: str, *argv: str) -> None:
        wrapper = ["unshare", "--mount", "sh", "-c", _PRIVATE, "sh", str(folder), str(files[topology])]
        spawned([*wrapper, *argv], made.environment, (0, 1))

    # It converges a network of its own making, so that both sides start from what they left themselves.
    call("inspect", "ifreload", "-a")
    audit = median(3, lambda: call("bypass", "ifquery", "-a", "--check"))
    switches = []
    for _ in range(3):
        switches.append(timed(lambda: call("bypass", "ifreload", "-a")))
        call("inspect", "ifreload", "-a")
    made.to("inspect")
    return audit, sorted(switches)[1]


def _interfaces(lab: Lab, topology: str) -> str:
    roles = ["outside", "inside"] if len(lab.ports) == 2 else [f"port{index}" for index in range(len(lab.ports))]
    switches = {"sw-bypass": list(lab.ports) if topology == "bypass" else []}
    for role, port, adapter in zip(roles, lab.ports, lab.adapters, strict=True):
        switches[f"sw-{role}"] = [adapter] if topology == "bypass" else [port, adapter]
    settings = "  bridge-stp no\n  bridge-mcsnoop no\n"
    return "".join(
        f"auto {name}\niface {name}\n  bridge-ports {' '.join(members) or 'none'}\n{settings}"
        for name, members in switches.items()
    )
