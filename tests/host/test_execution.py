"""What only the live kernel's hands can meet, in the middle of a plan."""

import errno
import sys
from collections.abc import Callable

import pytest
from kernels import real

from reconciler.host import ioctl
from reconciler.host.netlink import connection, encoder, execution
from reconciler.host.netlink.sockets import Failure, RefusedError
from reconciler.network.plan import MakeLink, Plan, SetLink, Status
from reconciler.network.state import Kind, Link, Setting

pytestmark = pytest.mark.netns

TAP = Link("tap0", Kind.TAP, {Setting.MARK: "reconciler:x:adapter:t", Setting.PERSISTENT: True})


def test_a_tap_that_vanishes_before_it_is_marked_is_a_failure_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def vanishing(_: str, before_persistent: Callable[[], None]) -> None:
        before_persistent()

    monkeypatch.setattr(ioctl, "make_tap", vanishing)
    with real() as kernel:
        plan = Plan((MakeLink(TAP), SetLink(TAP, Setting.UP, None, True)), ((), (0,)))
        made, raised = kernel.execute(plan, kernel.observe())
    assert (made.status, made.errno) == (Status.FAILED, errno.ENODEV)
    assert "vanished" in made.why
    assert raised.status is Status.SKIPPED


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOENT, errno.EBUSY, errno.ENOMEM, errno.EMFILE])
def test_every_refusal_of_an_ioctl_is_told(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refusing(*_: object) -> None:
        raise OSError(number, "because")

    monkeypatch.setattr(ioctl, "make_tap", refusing)
    with real() as kernel:
        kernel.nic("nic0", 1)
        other = SetLink(Link("nic0", Kind.OTHER, {}), Setting.MTU, None, 1400)
        made, changed = kernel.execute(Plan((MakeLink(TAP), other), ((), ())), kernel.observe())
        assert (made.status, made.errno) == (Status.FAILED, number)
        assert changed.status is Status.DONE
        assert kernel.observe().by_name["nic0"].settings[Setting.MTU] == 1400


def test_a_sysctl_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "/proc/sys/x")

    monkeypatch.setattr(execution, "_write_sysctl", refusing)
    with real() as kernel:
        kernel.nic("nic0", 1)
        operation = SetLink(Link("nic0", Kind.OTHER, {}), Setting.IPV6, True, False)
        (outcome,) = kernel.execute(Plan((operation,), ((),)), kernel.observe())
    assert (outcome.status, outcome.errno) == (Status.FAILED, errno.EROFS)
    assert "/proc/sys/x" in outcome.why


def test_what_was_prepared_is_sent_without_encoding_or_importing_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    with real() as kernel:
        kernel.nic("nic0", 1)
        kernel.bridge("br0", "02:00:00:00:0b:01")
        operations = [SetLink(Link("nic0", Kind.OTHER, {}), Setting.SWITCH, None, "br0")]
        operations += [SetLink(Link("nic0", Kind.OTHER, {}), Setting.GROUP_FWD_MASK, 0, 0xFFF8)]
        send = kernel.prepare(Plan(tuple(operations), ((), ())), kernel.observe())
        assert send is not None
        monkeypatch.setattr(encoder, "_encoded", None)
        before = set(sys.modules)
        send()
        assert set(sys.modules) == before
        nic = kernel.observe().by_name["nic0"]
        assert (nic.switch, nic.settings[Setting.GROUP_FWD_MASK]) == ("br0", 0xFFF8)


def test_what_becomes_of_what_was_prepared_is_left_to_who_looks_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object) -> None:
        raise RefusedError("switch over", Failure(errno.ENOBUFS))

    with real() as kernel:
        kernel.nic("nic0", 1)
        operation = SetLink(Link("nic0", Kind.OTHER, {}), Setting.MTU, None, 1400)
        send = kernel.prepare(Plan((operation,), ((),)), kernel.observe())
        kernel.delete("nic0")
        assert send is not None
        send()
        monkeypatch.setattr(connection.Connection, "send", refusing)
        send()
