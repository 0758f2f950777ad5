"""Telling a service manager how it goes: sd_notify(3), as far as it is used here."""

import os
import socket


class Service:
    """The service manager that started this process, if one did."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        watchdog = os.environ.get("WATCHDOG_USEC", "")
        ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        # Half of the time-out, as sd_watchdog_enabled(3) advises.
        self.watchdog_ms = int(watchdog) // 2_000 if watchdog.isdecimal() and ours and self._address else None

    def tell(self, **states: str) -> None:
        """Send states such as ``READY="1"``. A manager that does not listen is no reason to fail."""
        if not self._address:
            return
        # A leading @ stands for the zero byte of an abstract address.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        message = "\n".join(f"{key}={value}" for key, value in states.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as out:
            try:
                out.sendto(message.encode(), address)
            except OSError:
                return
