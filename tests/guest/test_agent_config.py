import subprocess
import sys
from pathlib import Path

import pytest
from agents import SOURCE, agent


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "agent.conf"


def mistakes(file: Path, text: str) -> list[str]:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(agent.ConfigError) as caught:
        agent.load(str(file))
    return [line.removeprefix(f"{file}: ") for line in str(caught.value).splitlines()]


def test_an_empty_file_means_the_defaults(file: Path) -> None:
    file.write_text("", encoding="utf-8")
    config = agent.load(str(file))
    assert (config.interval_s, config.channel, config.watchdog, config.checks) == (0.1, agent.DEFAULT_CHANNEL, "", [])


def test_all_mistakes_come_at_once(file: Path) -> None:
    found = mistakes(
        file,
        """
        [agent]
        interval = 5ms
        chanel = /dev/null
        watchdog_stop = discard
        [check a]
        process = suricata
        every = 5
        [check 1b]
        tcp = localhost:80
        [check c]
        unit = x.service
        bridge = br0
        [alert]
        [check d]
        """.replace("        ", ""),
    )
    assert found == [
        "[check a] process: 'suricata' is not valid; write a pid file's absolute path, or name:NAME",
        "[check a] every: '5' is not valid; write a duration from 50ms to 60m, such as 500ms, 5s or 2m",
        "[check 1b]: a check's name is a letter, then up to 30 letters, digits, _ or -",
        "[check 1b] tcp: 'localhost:80' is not valid; write ADDRESS:PORT, such as 127.0.0.1:80 or [::1]:80 (no host name: looking it up takes time)",
        "[check c]: has unit and bridge; write exactly one of process, unit, tcp, socket, suricata, file, command, bridge",
        "[alert]: unknown section; known are [agent] and [check NAME]",
        "[check d]: has no kind; write exactly one of process, unit, tcp, socket, suricata, file, command, bridge",
        "[agent] interval: 5ms is out of bounds; write a duration from 10ms to 60s, such as 500ms, 5s or 2m",
        "[agent] watchdog_stop: there is no watchdog; leave it out, or add watchdog = /dev/watchdog",
        "[agent] chanel: unknown key; known here: interval, channel, watchdog, watchdog_stop",
    ]


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("process = name:x\nname = y", "name: belongs to a pid file; leave it out beside name:"),
        (
            "process = name:x\nnmae = y",
            "nmae: unknown key; known here: process, name, every, timeout, tolerate, on_silence, on_failure",
        ),
        ("unit = a b", "unit: 'a b' is not valid; write a systemd unit's name, such as suricata.service"),
        ("tcp = 127.0.0.1:99999", "tcp: 99999 is not a port; write ADDRESS:PORT"),
        ("tcp = 127.0.0.999:9", "tcp: 127.0.0.999 is not an address; write ADDRESS:PORT"),
        ("tcp = [::1::]:9", "tcp: [::1::] is not an address; write ADDRESS:PORT"),
        ("socket = x.sock", "socket: 'x.sock' is not valid; write an absolute path"),
        ("socket = /x\nsend = a", "expect: has fewer lines than send; write what each answer contains"),
        ("suricata = /x\ncommand = shutdown", "command: 'shutdown' is not valid; write uptime, or iface-stat"),
        ("file = /x", "fresher_than: missing; write a duration from 1s to 1440m"),
        ("command = a 'b", "command: No closing quotation; write a program and its arguments, quoted as for a shell"),
        ("command =", "command: is empty; write a program and its arguments"),
        ("bridge = br0", "interface: missing; write the interface's name"),
        ("bridge = ../br0\ninterface = e", "bridge: '../br0' is not valid; write the bridge's name"),
        ("tcp = [::1]:1\non_failure = healthy", "on_failure: 'healthy' is not valid; write failed or degraded"),
        ("tcp = [::1]:1\ntimeout = 2m", "timeout: 2m is out of bounds; write a duration from 10ms to 60s"),
        ("tcp = [::1]:1\ntimeout = ٣s", "timeout: '٣s' is not valid; write a duration"),
        ("tcp = [::1]:1\ntcp = [::1]:2", "tcp: stands there twice; keep one"),
    ],
)
def test_mistakes_are_explained(file: Path, lines: str, found: str) -> None:
    first = mistakes(file, f"[check x]\n{lines}\n")[0]
    assert first.startswith(f"[check x] {found}")


def test_a_section_that_stands_twice_does_not_hide_other_mistakes(file: Path) -> None:
    found = mistakes(file, "[check x]\nunit = a\n[check x]\nunit = a b\n")
    assert found[0] == "[check x]: stands there twice; keep one"
    assert found[1].startswith("[check x] unit: 'a b' is not valid")


@pytest.mark.parametrize("text", ["interval = 1s\n", "[agent]\ninterval\n", "[agent\n"])
def test_what_is_not_an_ini_file(file: Path, text: str) -> None:
    assert mistakes(file, text)[0].startswith("write sections and keys: ")


def test_default_is_a_section_like_any_other(file: Path) -> None:
    assert mistakes(file, "[DEFAULT]\nevery = 1s\n") == [
        "[DEFAULT]: unknown section; known are [agent] and [check NAME]"
    ]


def test_what_cannot_be_read(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(agent.ConfigError, match="cannot be read"):
        agent.load(str(file))
    with pytest.raises(agent.ConfigError, match="cannot be read"):
        agent.load(str(file.parent / "nowhere"))


def test_not_more_checks_than_fit_into_a_beat(file: Path) -> None:
    text = "".join(f"[check c{number}]\nunit = a\n" for number in range(33))
    assert mistakes(file, text) == ["has 33 checks; write at most 32"]


@pytest.mark.parametrize(("text", "status"), [("", 0), ("[agent]\ninterval = soon\n", 2)])
def test_check_only_validates(file: Path, text: str, status: int) -> None:
    file.write_text(text, encoding="utf-8")
    argv = [sys.executable, str(SOURCE), "--check", "--config", str(file)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == status
    assert (done.stdout if status == 0 else done.stderr).startswith(f"{file}: ")
    assert "Traceback" not in done.stderr
