"""Clients, a host and a VM as network namespaces: what a rehearsal, a test or a benchmark plays on.

    client0 ─wire── nic0 ┐        host         ┌ vnet0 ──eth0─┐
                         │  (nothing enslaved) │              ├ br0   vm
    client1 ─wire── nic1 ┘                     └ vnet1 ──eth1─┘
    office ──lan0── mgmt0

Each line is a veth pair. The host enslaves nothing: which switch joins what there is the reconciler's business. The VM
bridges the adapters of each segment, as an inline appliance that passes everything does.
"""

import contextlib
import itertools
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from pyroute2 import IPRoute

from reconciler.lab import bridges
from reconciler.lab.namespaces import LabError, Namespace, in_lab_thread, set_link_up
from reconciler.lab.source import MIN_SIZE
from reconciler.lab.traffic import Flow, Traffic

T = TypeVar("T")

MANAGEMENT = "mgmt0"
MANAGEMENT_ADDRESS = "192.0.2.1"
GATEWAY = "192.0.2.254"
_PREFIX_LENGTH = 24
_OFFICE_LINK = "lan0"
_WIRE = "wire"

_POLL_S = 0.001
_RELEASE_S = 5.0


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Wait until a condition holds.

    Raises:
        LabError: It did not hold within `timeout_s` seconds; the message says `what` was waited for.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(_POLL_S)


def netlink(namespace: Namespace, action: Callable[[IPRoute], T]) -> T:
    """Run `action` with a pyroute2 socket of the namespace, and return its result. Fit for async callers, too."""

    def run() -> T:
        # pyroute2 opens its socket in the namespace that the thread is in at that moment, and it stays there.
        with namespace.entered(), IPRoute() as ipr:
            return action(ipr)

    return in_lab_thread(run)


def _mac(prefix: str, index: int) -> str:
    return f"{prefix}:{index >> 16 & 0xFF:02x}:{index >> 8 & 0xFF:02x}:{index & 0xFF:02x}"


class Lab:
    """The whole laboratory. Build it with a `with` statement.

    Attributes:
        host: The namespace of the host; `run` and `Namespace.spawn` start programs there.
        ports: Names of the host's NICs, ``nic0`` and so on.
        adapters: Names of the VM's adapters as the host sees them, ``vnet0`` and so on. Those of a dead VM are gone.
        segments: The ports, by index, that are one wire together.
        clients: One namespace per port; its end of the port's cable is called ``wire``. Empty without `traffic`.
        office: Where the management port leads.
        vm: The VM's namespace, with ``eth0`` and so on; None while the VM is dead.
    """

    def __init__(
        self,
        ports: int = 2,
        *,
        segments: Sequence[Sequence[int]] | None = None,
        traffic: bool = True,
        vm: bool = True,
        mtu: int = 1500,
    ) -> None:
        """Declare the lab; entering it builds it.

        Args:
            ports: How many NICs the host has besides the management port, and how many adapters the VM.
            segments: Which ports are one wire together, by index. Default: all.
            traffic: False leaves out the clients and the VM's bridges, for a thousand ports: all cables of the NICs
                then end in one namespace, and nothing passes from one to another.
            vm: False leaves the VM dead until `start_vm`: for a host whose adapters somebody else makes.
            mtu: Of the ports' and the adapters' cables, at both ends, in bytes.
        """
        self.segments = tuple(tuple(segment) for segment in segments or [range(ports)])
        flat = list(itertools.chain.from_iterable(self.segments))
        if len(flat) != len(set(flat)) or not set(flat) <= set(range(ports)):
            raise ValueError(f"segments {self.segments} must name each of {ports} ports at most once")
        self.ports = tuple(f"nic{index}" for index in range(ports))
        self.adapters = tuple(f"vnet{index}" for index in range(ports))
        self.clients: tuple[Namespace, ...] = ()
        self.vm: Namespace | None = None
        self._traffic = traffic
        self._mtu = mtu
        self._vm_from_start = vm
        self._streams = itertools.count(1)
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._open:
            self.host = self._open.enter_context(Namespace("host"))
            _bridge_netfilter_off(self.host)
            self.office = self._open.enter_context(Namespace("office", ipv6=False))
            self._build_management()
            self._build_ports()
            self._open.callback(self._release_vm)
            if self._vm_from_start:
                self.start_vm()
            self._open = self._open.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _build_management(self) -> None:
        def host_side(ipr: IPRoute) -> None:
            _add_cable(ipr, MANAGEMENT, self.office, _OFFICE_LINK)
            index = ipr.link_lookup(ifname=MANAGEMENT)[0]
            ipr.addr("add", index=index, address=MANAGEMENT_ADDRESS, prefixlen=_PREFIX_LENGTH)
            ipr.route("add", dst="default", gateway=GATEWAY)

        def office_side(ipr: IPRoute) -> None:
            index = ipr.link_lookup(ifname=_OFFICE_LINK)[0]
            ipr.addr("add", index=index, address=GATEWAY, prefixlen=_PREFIX_LENGTH)

        netlink(self.host, host_side)
        with self.office.entered():
            set_link_up(_OFFICE_LINK, up=True)
        netlink(self.office, office_side)

    def _build_ports(self) -> None:
        count = len(self.ports)
        if self._traffic:
            self.clients = tuple(
                self._open.enter_context(Namespace(f"client{index}", ipv6=False)) for index in range(count)
            )
            ends = [(client, _WIRE) for client in self.clients]
        else:
            beyond = self._open.enter_context(Namespace("beyond", ipv6=False))
            ends = [(beyond, f"{_WIRE}{index}") for index in range(count)]

        def connect(ipr: IPRoute) -> None:
            for index, (namespace, ifname) in enumerate(ends):
                _add_cable(ipr, self.ports[index], namespace, ifname, address=_mac("02:00:00", index), mtu=self._mtu)

        netlink(self.host, connect)
        for namespace, ifname in ends:
            with namespace.entered():
                set_link_up(ifname, up=True)

    # The VM

    def start_vm(self, *, bridge: bool = True) -> None:
        """Bring the VM up: the same names as before, other interface indices.

        Args:
            bridge: False leaves its adapters apart, so that it forwards nothing until a program does.

        Raises:
            LabError: It is up already.
        """
        if self.vm is not None:
            raise LabError("the VM is up already")
        vm = self.vm = Namespace("vm", ipv6=False)
        _bridge_netfilter_off(vm)

        def plug(ipr: IPRoute) -> None:
            for index, adapter in enumerate(self.adapters):
                _add_cable(ipr, adapter, vm, f"eth{index}", address=_mac("52:54:00", index), mtu=self._mtu)

        netlink(self.host, plug)
        with vm.entered():
            for index in range(len(self.adapters)):
                set_link_up(f"eth{index}", up=True)
        if self._traffic and bridge:
            self.bridge_vm()

    def bridge_vm(self, segments: Iterable[int] | None = None) -> None:
        """Let bridges in the VM join the adapters of these segments, by number, or of all, as `start_vm` does."""
        chosen = {number: self.segments[number] for number in self._numbers(segments)}
        netlink(self._living_vm(), lambda ipr: bridges.build(ipr, chosen))

    def unbridge_vm(self, segments: Iterable[int] | None = None) -> None:
        """Take the VM's bridges away, for a program that forwards in their place. Its adapters stay up."""
        netlink(self._living_vm(), lambda ipr: bridges.remove(ipr, self._numbers(segments)))

    def _numbers(self, segments: Iterable[int] | None) -> tuple[int, ...]:
        return tuple(range(len(self.segments)) if segments is None else segments)

    def _living_vm(self) -> Namespace:
        if self.vm is None:
            raise LabError("the VM is dead")
        return self.vm

    def kill_vm(self) -> None:
        """Let the VM die: its processes and its namespace go, and with them its adapters, also at the host's end.

        Returns once the host does not have them any more.

        Raises:
            LabError: The VM is dead already, or something (a `Sink` in the VM?) still holds its namespace.
        """
        if self.vm is None:
            raise LabError("the VM is dead already")
        self._release_vm()
        # The kernel takes a namespace apart in a worker of its own.
        wait_until(lambda: not self._adapters_present(), _RELEASE_S, "the dead VM's adapters to leave the host")

    def _release_vm(self) -> None:
        if self.vm is not None:
            self.vm.close()
            self.vm = None

    def _adapters_present(self) -> set[str]:
        with self.host.entered():
            return {name for _, name in socket.if_nameindex()} & set(self.adapters)

    def blackhole_vm(self, towards: Iterable[int] | None = None) -> None:
        """Make the VM swallow frames, while its links stay up and its bridges look healthy from outside.

        This is a thing of its bridges: it takes `bridge_vm`.

        Args:
            towards: Indices of the adapters that the VM sends nothing out of any more. ``[1]`` blocks one direction,
                ``lab.segments[0]`` one segment. Default: all.
        """
        self._set_forwarding(towards, forward=False)

    def unblock_vm(self, towards: Iterable[int] | None = None) -> None:
        """Let the VM forward again, out of these adapters or all."""
        self._set_forwarding(towards, forward=True)

    def _set_forwarding(self, towards: Iterable[int] | None, *, forward: bool) -> None:
        indices = tuple(itertools.chain.from_iterable(self.segments) if towards is None else towards)
        netlink(self._living_vm(), lambda ipr: bridges.set_forwarding(ipr, indices, forward=forward))

    # The cables

    def unplug(self, port: int) -> None:
        """Pull the cable of a port: the NIC loses its carrier."""
        self._plug(port, up=False)

    def replug(self, port: int) -> None:
        """Put the cable of a port back."""
        self._plug(port, up=True)

    def _plug(self, port: int, *, up: bool) -> None:
        if not self.clients:
            raise LabError("this lab was built without clients")
        with self.clients[port].entered():
            set_link_up(_WIRE, up=up)

    # Traffic and programs

    def flows(self, rate: int, *, size: int = MIN_SIZE, capacity: int = 200_000) -> Traffic:
        """Make flows between all ordered pairs of clients of each segment, ready to start.

        Args:
            rate: Frames per second of each flow.
            size: Bytes per frame.
            capacity: Frames that each flow's sink can hold between two looks; 128 bytes of kernel memory each.
        """
        if not self.clients:
            raise LabError("this lab was built without clients")
        return Traffic(
            Flow(
                self.clients[first],
                _WIRE,
                self.clients[second],
                _WIRE,
                rate=rate,
                stream=next(self._streams),
                size=size,
                capacity=capacity,
            )
            for first, second in self._pairs()
        )

    def _pairs(self) -> Iterator[tuple[int, int]]:
        for segment in self.segments:
            yield from itertools.permutations(segment, 2)

    def run(
        self,
        argv: Sequence[str],
        *,
        namespace: Namespace | None = None,
        timeout_s: float = 10.0,
        check: bool = True,
        **popen_kwargs: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, in the host's namespace unless told otherwise, and return its output as text.

        Raises:
            subprocess.CalledProcessError: It failed, and `check` is true.
            subprocess.TimeoutExpired: It took longer than `timeout_s` seconds; it has been killed.
        """
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with (namespace or self.host).spawn(argv, **(pipes | popen_kwargs)) as process:
            try:
                output, errors = process.communicate(timeout=timeout_s)
            except BaseException:
                process.kill()
                raise
        done = subprocess.CompletedProcess(list(argv), process.returncode, output, errors)
        if check:
            done.check_returncode()
        return done

    @staticmethod
    def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """See `wait_until` of this module."""
        wait_until(condition, timeout_s, what)


def _bridge_netfilter_off(namespace: Namespace) -> None:
    """Keep the firewall from seeing bridged frames, as hosts and VMs that bridge must; new namespaces begin with on."""
    with namespace.entered():
        for name in ("arptables", "ip6tables", "iptables"):
            # Not there where br_netfilter is not loaded.
            with contextlib.suppress(FileNotFoundError):
                Path(f"/proc/sys/net/bridge/bridge-nf-call-{name}").write_text("0", encoding="ascii")


def _add_cable(ipr: IPRoute, ifname: str, far: Namespace, far_ifname: str, mtu: int = 1500, **more: Any) -> None:
    """Add a veth pair, the near end up, the far end down (pyroute2's `peer` cannot say otherwise)."""
    peer = {"ifname": far_ifname, "net_ns_fd": far.fileno(), "mtu": mtu, **more}
    ipr.link("add", ifname=ifname, kind="veth", state="up", mtu=mtu, peer=peer)
