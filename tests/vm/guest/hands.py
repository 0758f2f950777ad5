"""A test's hands inside the guest: does what it reads from its serial port, one JSON object per line, and answers so.

    {"id": 1, "do": "shell", "command": "uptime"}   →   {"id": 1, "status": 0, "output": " 18:00:00 up …"}

Beside that it starts "the application", whose life and death are a test's business.
"""

import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PORT = "/dev/virtio-ports/org.reconciler.test.0"
SOCKET = "/run/app.sock"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
SYSRQ = Path("/proc/sysrq-trigger")
PID_FILES = {"app": Path("/run/app.pid"), "agent": Path("/run/agent.pid")}
AGENT = Path("/run/agent.py")
FLAGS = ("learning", "unicast_flood", "multicast_flood", "broadcast_flood")


# The application


def start_app():
    """Serve a Unix socket in a process of its own: a line comes in, a line goes out."""
    ready, done = os.pipe()
    if os.fork():
        os.close(done)
        os.read(ready, 1)
        os.close(ready)
        return
    try:
        os.close(ready)
        os.setsid()
        # Not this port's: a process that has it open keeps others from opening it.
        os.closerange(3, done)
        os.closerange(done + 1, 256)
        Path("/proc/self/comm").write_text("app", encoding="ascii")
        _serve(done)
    finally:
        os._exit(1)


def _hang(*_):
    while True:
        pass


def _serve(done):
    # It hangs, and does not look stopped.
    signal.signal(signal.SIGUSR2, _hang)
    Path(SOCKET).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(SOCKET)
        server.listen()
        PID_FILES["app"].write_text(f"{os.getpid()}\n", encoding="ascii")
        os.close(done)
        while True:
            with server.accept()[0] as peer:
                try:
                    if peer.recv(4096):
                        peer.sendall(b"ok\n")
                except OSError:
                    pass


# What can be done


def ping():
    return {"boot": BOOT_ID.read_text(encoding="ascii").strip()}


def shell(command, timeout_s=20.0):
    done = subprocess.run(
        ["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=timeout_s, check=False,
    )  # fmt: skip
    return {"status": done.returncode, "output": done.stdout.decode(errors="replace")}


def send_signal(whom, name):
    os.kill(_pid(whom), signal.Signals[f"SIG{name}"])
    return {}


def start(whom):
    if whom == "app":
        start_app()
    else:
        _start_agent()
    return {"pid": _pid(whom)}


def replace_agent(script):
    """Put another program in the agent's place; an empty one brings the agent back."""
    pid = _pid("agent")
    try:
        os.kill(pid, signal.SIGKILL)
        while Path(f"/proc/{pid}/fd").exists() and list(Path(f"/proc/{pid}/fd").iterdir()):
            time.sleep(0.001)
    except (ProcessLookupError, FileNotFoundError):
        pass
    AGENT.unlink(missing_ok=True)
    if script:
        AGENT.write_text(script, encoding="utf-8")
    return start("agent")


def _start_agent():
    PID_FILES["agent"].unlink(missing_ok=True)
    # Through a shell that ends, so that the agent is init's child and reaped by it.
    shell("setsid start-agent < /dev/null &")
    while not (PID_FILES["agent"].exists() and PID_FILES["agent"].read_text(encoding="ascii").strip()):
        time.sleep(0.001)


def _pid(whom):
    return int(PID_FILES[whom].read_text(encoding="ascii"))


def bridge(up, number=0):
    return shell(f"ip link set br{number} {'up' if up else 'down'}")


def forward(on, towards):
    """Let frames out of these adapters, or keep them in, while all links stay up."""
    for index in towards:
        port = Path(f"/sys/class/net/eth{index}/brport")
        for flag in FLAGS:
            (port / flag).write_text(str(int(on)), encoding="ascii")
        (port / "flush").write_text("1", encoding="ascii")
    return {}


def panic():
    SYSRQ.write_text("c", encoding="ascii")


def reboot():
    SYSRQ.write_text("b", encoding="ascii")


def poweroff():
    SYSRQ.write_text("o", encoding="ascii")


ACTIONS = {
    action.__name__: action for action in (ping, shell, start, replace_agent, bridge, forward, panic, reboot, poweroff)
}
ACTIONS["signal"] = send_signal
LAST_WORDS = {"panic", "reboot", "poweroff"}


# The conversation


def carry_out(request, answer):
    number, name = request.pop("id"), request.pop("do")
    if name in LAST_WORDS:
        answer({"id": number})
        # The answer is on the host's side when this write returns, for the host takes it from the guest's memory.
    try:
        done = ACTIONS[name](**request) or {}
    except Exception as error:  # noqa: BLE001  # whatever it is, the test is to read it
        done = {"error": f"{type(error).__name__}: {error}"}
    if name not in LAST_WORDS or "error" in done:
        answer({"id": number, **done})


def main():
    port = os.open(PORT, os.O_RDWR)

    def answer(message):
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(port, data) :]

    start_app()
    poller = select.poll()
    poller.register(port, select.POLLIN)
    buffer = b""
    while True:
        poller.poll()
        try:
            read = os.read(port, 65536)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            read = b""
        if not read:
            # Nobody on the host; poll would report a hang-up again at once.
            time.sleep(0.02)
            continue
        buffer += read
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            try:
                request = json.loads(line)
            except ValueError:
                continue
            carry_out(request, answer)


if __name__ == "__main__":
    sys.exit(main())
