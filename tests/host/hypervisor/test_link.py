"""The way to libvirt."""

import asyncio
import gc
import sys
import threading
import warnings
from typing import Any

import libvirt
import pytest

from reconciler.errors import HostError, TransientError
from reconciler.host.hypervisor import events, link

URI = "test:///default"
UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"  # of the test driver's one domain


def test_without_libvirt_python_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    with pytest.raises(HostError, match=r"pip install libvirt-python"):
        link.library()


def in_thread(scene: object) -> None:
    async def run() -> None:
        await asyncio.to_thread(scene, asyncio.get_running_loop())  # type: ignore[arg-type]

    asyncio.run(run(), debug=True)


def test_a_domain_is_found_by_name_and_by_uuid() -> None:
    def scene(loop: asyncio.AbstractEventLoop) -> None:
        connection = link.connect(URI, loop)
        for wanted in ("test", UUID, UUID.upper()):
            found = link.find(connection, wanted)
            assert found.name() == "test"
            assert link.is_it(found, wanted)
        assert not link.is_it(found, "other")
        assert link.find(connection, "other") is None
        assert link.find(connection, "00000000-0000-0000-0000-000000000000") is None
        link.close(connection)
        link.close(connection)  # once more does nothing

    in_thread(scene)


def test_nobody_there() -> None:
    def scene(loop: asyncio.AbstractEventLoop) -> None:
        with pytest.raises(TransientError, match="libvirt is not reachable at no://where: "):
            link.connect("no://where", loop)

    in_thread(scene)


def test_libvirt_does_not_print_its_errors(capfd: pytest.CaptureFixture[str]) -> None:
    test_nobody_there()
    assert capfd.readouterr() == ("", "")


def test_events_come_on_the_loop_whatever_thread_asked_for_them() -> None:
    """In debug mode the loop refuses to be used from another thread."""
    heard: list[tuple[int, str]] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def listen() -> tuple[Any, int]:
            connection = link.connect(URI, loop)

            def told(_: object, __: object, event: int, *___: object) -> None:
                heard.append((event, threading.current_thread().name))
                done.set()

            callback = connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, told, None)
            domain = connection.lookupByName("test")
            domain.suspend()
            return connection, callback

        def leave(connection: Any, callback: int) -> None:
            # A callback holds the connection open, and the test driver forgets nothing until its last one is closed.
            connection.domainEventDeregisterAny(callback)
            link.close(connection)

        connection, callback = await asyncio.to_thread(listen)
        async with asyncio.timeout(5):
            await done.wait()
        await asyncio.to_thread(leave, connection, callback)

    asyncio.run(scene(), debug=True)
    assert heard == [(libvirt.VIR_DOMAIN_EVENT_SUSPENDED, "MainThread")]


def test_an_error_is_one_line() -> None:
    assert link.text(OSError("a\n  b")) == "a b"
    assert link.text(ValueError()) == "ValueError"


def test_what_is_to_be_freed_when_the_loop_ends_is_dropped_without_a_word() -> None:
    """libvirtaio itself frees in a coroutine, which is then never awaited: Python would complain at the daemon's end."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loop = asyncio.new_event_loop()
        events._Inner(loop).schedule_ff_callback(1, object())
        loop.close()
        del loop
        gc.collect()
    assert [str(warning.message) for warning in said] == []


def test_what_libvirt_lets_go_of_is_freed_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[object] = []
    monkeypatch.setattr(libvirt, "virEventInvokeFreeCallback", freed.append)

    async def scene() -> None:
        inner = events._Inner(asyncio.get_running_loop())
        inner._pending_inc()
        inner.schedule_ff_callback(1, "handle")
        assert freed == []  # libvirt holds its locks while it lets go
        await asyncio.sleep(0)
        assert freed == ["handle"]
        assert inner.is_idle()

    asyncio.run(scene())
