"""The two kernels of the contract, and hands that make the same scenery on both."""

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from fake_kernel import FakeKernel
from processes import PATIENCE_S

from reconciler.host.netlink.kernel import Kernel
from reconciler.lab.namespaces import Namespace
from reconciler.network.plan import Outcome, Plan
from reconciler.network.state import Kind, Network, Setting

TUN = "/dev/net/tun"


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


class Scenery(Protocol):
    """A kernel, and what other people's hands can do to it."""

    def observe(self, names: Any = None) -> Network: ...
    def execute(self, plan: Plan, actual: Network, stop: Callable[[], bool] = ...) -> tuple[Outcome, ...]: ...
    def nic(self, name: str, number: int, **more: Any) -> None: ...
    def bridge(self, name: str, mac: str) -> None: ...
    def tap(self, name: str, mac: str) -> None: ...
    def put(self, name: str, bridge: str | None) -> None: ...
    def up(self, name: str, up: bool = True) -> None: ...
    def delete(self, name: str) -> None: ...
    def rename(self, old: str, new: str) -> None: ...
    def address(self, name: str, *addresses: str) -> None: ...
    def occupy(self, name: str) -> None: ...
    def teach(self, name: str) -> None: ...
    def hold(self, name: str) -> None: ...


class Real:
    """The kernel of this machine, in the namespace that the thread is in."""

    def __init__(self, kernel: Kernel, beyond: Namespace, open_: contextlib.ExitStack) -> None:
        self._kernel, self._beyond, self._open = kernel, beyond, open_
        self.observe, self.execute, self.prepare = kernel.observe, kernel.execute, kernel.prepare

    def nic(self, name: str, number: int, **_: Any) -> None:
        ip(
            "link",
            "add",
            name,
            "address",
            f"02:00:00:00:00:{number:02x}",
            "type",
            "veth",
            "peer",
            "name",
            f"far{number}",
        )
        ip("link", "set", f"far{number}", "netns", f"/proc/{os.getpid()}/fd/{self._beyond.fileno()}")
        with self._beyond.entered():
            ip("link", "set", f"far{number}", "up")

    def bridge(self, name: str, mac: str) -> None:
        ip("link", "add", name, "address", mac, "type", "bridge")

    def tap(self, name: str, mac: str) -> None:
        ip("tuntap", "add", "dev", name, "mode", "tap")
        ip("link", "set", name, "address", mac)

    def put(self, name: str, bridge: str | None) -> None:
        ip("link", "set", name, *(("master", bridge) if bridge else ("nomaster",)))

    def up(self, name: str, up: bool = True) -> None:
        ip("link", "set", name, "up" if up else "down")

    def delete(self, name: str) -> None:
        ip("link", "delete", name)

    def rename(self, old: str, new: str) -> None:
        ip("link", "set", old, "name", new)

    def address(self, name: str, *addresses: str) -> None:
        for one in addresses:
            ip("address", "add", one, "dev", name)

    def occupy(self, name: str) -> None:
        ip("link", "add", "mv0", "link", name, "address", "02:00:00:00:01:00", "type", "macvlan")

    def teach(self, name: str) -> None:
        """Let the switch know a station behind its member, as a frame does."""
        done = subprocess.run(
            ["bridge", "fdb", "add", f"02:aa:00:00:00:{ord(name[-1]):02x}", "dev", name, "master", "dynamic"],
            capture_output=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stderr

    def hold(self, name: str) -> None:
        """Be the VM: hold the only queue of the tap."""
        descriptor = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
        self._open.callback(os.close, descriptor)
        fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1002))


class Fake(FakeKernel):
    """The fake, with the same hands."""

    def __init__(self, lacks: frozenset[Setting] = frozenset()) -> None:
        super().__init__()
        self.add("lo", mac="00:00:00:00:00:00", mtu=65536, up=True, addresses=("127.0.0.1/8",))
        self.lacks = lacks

    def nic(self, name: str, number: int, **_: Any) -> None:
        self.add(name, mac=f"02:00:00:00:00:{number:02x}")

    def bridge(self, name: str, mac: str) -> None:
        self.add(name, Kind.BRIDGE, mac=mac)

    def tap(self, name: str, mac: str) -> None:
        self.add(name, Kind.TAP, mac=mac)

    def put(self, name: str, bridge: str | None) -> None:
        self.enslave(self[name], self[bridge].index if bridge else 0)

    def up(self, name: str, up: bool = True) -> None:
        self.set_up(self[name], up)

    def delete(self, name: str) -> None:
        self.remove(name)

    def address(self, name: str, *addresses: str) -> None:
        self[name].settings[Setting.ADDRESSES] = addresses

    def occupy(self, name: str) -> None:
        self[name].busy = True
        self.add("mv0", mac="02:00:00:00:01:00")

    def teach(self, name: str) -> None:
        assert self[name].master
        self[name].settings[Setting.LEARNT] = True

    def hold(self, name: str) -> None:
        self[name].held = True
        self.plug(self[name], plugged=True)


@contextlib.contextmanager
def real() -> Iterator[Real]:
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(Namespace("contract"))
        beyond = stack.enter_context(Namespace("beyond"))
        stack.enter_context(here.entered())
        yield Real(stack.enter_context(Kernel()), beyond, stack)


def lacking(kernel: Real) -> frozenset[Setting]:
    """Features that this machine's kernel was built without."""
    words = {Setting.VLAN_FILTERING: "vlan_filtering", Setting.NF_CALL_IPTABLES: "nf_call_iptables"}
    found = set()
    for setting, word in words.items():
        words = ["ip", "link", "add", "probe0", "type", "bridge", word, "1"]
        done = subprocess.run(words, capture_output=True, timeout=PATIENCE_S, check=False)
        if done.returncode:
            found.add(setting)
        else:
            kernel.delete("probe0")
    kernel.bridge("probe0", "02:00:00:00:00:01")
    if Setting.FDB_MAX_LEARNED not in kernel.observe().by_name["probe0"].settings:
        found.add(Setting.FDB_MAX_LEARNED)
    kernel.delete("probe0")
    return frozenset(found)


def has_tun() -> bool:
    """Whether taps can be made here: not in a user namespace."""
    try:
        os.close(os.open(TUN, os.O_RDWR))
    except OSError:
        return False
    return os.geteuid() == 0 and _in_first_user_namespace()


def _in_first_user_namespace() -> bool:
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() == ["0", "0", "4294967295"]


def told(network: Network, *, less: frozenset[Setting] = frozenset()) -> dict[str, Any]:
    """A network less what two kernels cannot have in common: indexes, and that an index was given."""
    return {
        link.name: (link.kind, {one: value for one, value in link.settings.items() if one not in less})
        for link in network.links
    }
