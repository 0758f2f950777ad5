"""The command line: exit statuses, what goes where, and that no traceback ever reaches a user."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import PROGRAM, environment, process, run
from processes import PATIENCE_S, ending
from worlds import FakeKernel, converge, host, two_ports, two_ports_document

from reconciler import __version__
from reconciler.cli import main as cli
from reconciler.host import places
from reconciler.network.desired import choice_of
from reconciler.network.record import dump
from reconciler.network.state import Kind, Role, Setting, mark

COMMANDS = ["validate", "discover", "observe", "schema", "demo"]


ENVELOPE = {"format", "time", "host", "version", "digest"}


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONCILER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("RECONCILER_RUN_DIR", str(tmp_path / "run"))


@pytest.fixture(autouse=True)
def _nothing_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests run beside the machine's own network: what gets as far as applying has failed already."""

    def applied(*_: object) -> int:
        raise AssertionError("this was about to be applied")

    monkeypatch.setattr(cli, "_apply", applied)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "two.yaml"
    path.write_text(json.dumps(two_ports_document()))
    return str(path)


@pytest.fixture
def kernel() -> FakeKernel:
    return host(two_ports())


def recorded(kernel: FakeKernel, tmp_path: Path) -> str:
    path = tmp_path / "state.json"
    path.write_text(json.dumps(dump(kernel.observe())))
    return str(path)


# --- exit statuses ---------------------------------------------------------------------------------------------------


def test_a_dry_run_that_finds_drift_exits_3(file: str, kernel: FakeKernel, tmp_path: Path) -> None:
    done = run("-f", file, "--dry-run", "--against", recorded(kernel, tmp_path))
    assert done.code == 3
    assert done.err == ""
    assert done.out.startswith("two: inspect\n")
    assert done.out.endswith("changes to make; nothing was changed\n")


def test_a_dry_run_that_finds_nothing_exits_0(file: str, kernel: FakeKernel, tmp_path: Path) -> None:
    converge(kernel, two_ports(), choice_of(two_ports()))
    done = run("-f", file, "-n", "--against", recorded(kernel, tmp_path))
    assert done == (0, "two: inspect\nnothing to do: the network is as declared\n", "")
    assert run("-f", file, "-n", "-o", "commands", "--against", recorded(kernel, tmp_path)) == (0, "", "")


def test_a_dry_run_with_a_problem_exits_1_and_tells_it_on_stderr(file: str, kernel: FakeKernel, tmp_path: Path) -> None:
    kernel.remove("eth0")
    done = run("-f", file, "-n", "--against", recorded(kernel, tmp_path))
    assert done.code == 1
    assert "no interface matches name eth0" in done.err
    assert "1 error" in done.out


@pytest.mark.parametrize(
    "words",
    [
        ["--topology", "nowhere"],
        ["--topology", "nowhere=bypass"],
        ["--topology", "=bypass"],
        ["--topology", "wire="],
        ["--topology", ""],
        ["--against", "x.json"],
        ["--output", "commands"],
        ["--output", "yaml"],
        ["--wait", "-1"],
        ["--wait", "nan"],
        ["--nonsense"],
        ["nonsense"],
        ["--dry-run", "validate", "x.yaml"],
        ["--output", "json", "schema"],
        ["--dry-run", "-f", "-", "--against", "-"],
    ],
)
def test_wrong_usage_exits_2_with_a_sentence(file: str, words: list[str]) -> None:
    given = words if "-f" in words else ["-f", file, *words]
    done = run(*given)
    assert done.code == 2
    assert done.out == ""
    assert "Error: " in done.err


def test_an_unknown_topology_or_segment_lists_the_known_ones(file: str) -> None:
    assert "two declares: inspect, bypass" in run("-f", file, "-n", "-t", "bypas").err
    assert "two declares: wire" in run("-f", file, "-n", "-t", "edge=bypass").err


def test_the_last_word_about_a_segment_counts(file: str, kernel: FakeKernel, tmp_path: Path) -> None:
    state = recorded(kernel, tmp_path)
    for words, title in (
        (["-t", "bypass"], "two: bypass"),
        (["-t", "wire=bypass"], "two: bypass"),
        (["-t", "wire=bypass", "-t", "inspect"], "two: inspect"),
    ):
        assert run("-f", file, "-n", "--against", state, *words).out.splitlines()[0] == title


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    for flag in ("-h", "--help"):
        done = run(command, flag)
        assert done.code == 0
        assert done.out.startswith(f"Usage: reconcile {command}")


def test_version_and_help() -> None:
    assert run("--version") == (0, f"reconcile {__version__}\n", "")
    assert run("--help").out.startswith("Usage: reconcile ")


# --- files -----------------------------------------------------------------------------------------------------------


def test_the_file_is_understood_before_and_after_a_command(file: str) -> None:
    assert run("-f", file, "validate") == run("validate", "-f", file) == run("validate", file)
    assert run("validate", file).code == 0
    assert run("-f", "nowhere.yaml", "validate", "-f", file).code == 0


def test_a_dash_reads_standard_input(file: str, kernel: FakeKernel, tmp_path: Path) -> None:
    text = Path(file).read_bytes()
    state = Path(recorded(kernel, tmp_path))
    assert run("validate", "-", stdin=text).code == 0
    assert run("-f", "-", "-n", "--against", str(state), stdin=text).code == 3
    assert run("-f", file, "-n", "--against", "-", stdin=state.read_bytes()).code == 3


@pytest.mark.parametrize("words", [["-n"], ["validate"], []])
def test_a_file_that_cannot_be_read_is_one_line(words: list[str], tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.yaml", tmp_path):
        done = run("-f", str(path), *words)
        assert done.code == 1
        assert len(done.err.splitlines()) == 1
        assert str(path) in done.err


def test_only_reading_tells_what_can_be_read(
    file: str, kernel: FakeKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """access(2) judges by the real user and knows nothing of capabilities; and what it refuses is no wrong usage."""
    state = recorded(kernel, tmp_path)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert run("-f", file, "-n", "--against", state).code == 3
    assert run("validate", file).code == 0


def test_without_a_file_the_default_is_named_and_a_way_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(places, "DEFAULT_FILE", tmp_path / "appliance.yaml")
    for words in (["-n"], ["validate"], []):
        done = run(*words)
        assert done.code == 1
        assert str(tmp_path / "appliance.yaml") in done.err
        assert "reconcile discover" in done.err


def test_a_broken_file_names_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(json.dumps(two_ports_document(topologies={"inspect": {"pair": "all"}})))
    for words in (["-n"], []):
        done = run("-f", str(path), *words)
        assert (done.code, done.out) == (1, "")
        assert f"{path}:1:" in done.err


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": "reconciler.state/1"}'])
def test_a_state_that_is_none_is_refused(file: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    done = run("-f", file, "-n", "--against", str(path))
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert str(path) in done.err


# --- JSON ------------------------------------------------------------------------------------------------------------


def test_the_plan_for_programs_has_its_documented_shape(file: str, kernel: FakeKernel, tmp_path: Path) -> None:
    kernel.remove("eth0")
    kernel.bridge_netfilter = ("bridge-nf-call-iptables",)
    kernel.add("old", Kind.BRIDGE, mark=mark("two", Role("switch", "old")))
    done = run("-f", file, "-n", "-o", "json", "--against", recorded(kernel, tmp_path))
    value = json.loads(done.out)
    assert (done.code, done.err) == (1, "")
    assert set(value) == {*ENVELOPE, "appliance", "choice", "converged", "changes", "warnings"}
    assert value["format"] == "reconciler.plan/2"
    assert value["choice"] == {"wire": "inspect"}
    assert value["converged"] is False
    assert {change["change"] for change in value["changes"]} == {"make", "set", "remove"}
    assert [(one["code"], one["severity"], one["about"]) for one in value["warnings"]] == [
        ("port-missing", "error", "port outside"),
        ("bridge-netfilter", "warning", ""),
    ]
    missing, danger = value["warnings"]
    assert set(missing) == {"code", "severity", "about", "text", "remedy"}
    assert "\n    eth1: " in missing["remedy"]
    assert "net.bridge.bridge-nf-call-iptables=0" in danger["remedy"]


def test_validation_for_programs_has_its_documented_shape(file: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("schema: reconciler/v1\n")
    done = run("validate", "-o", "json", file, str(broken), str(tmp_path / "nowhere.yaml"))
    value = json.loads(done.out)
    assert (done.code, done.err) == (1, "")
    assert value["format"] == "reconciler.validation/1"
    assert [one["valid"] for one in value["files"]] == [True, False, False]
    assert value["files"][1]["mistakes"][0].keys() == {"line", "column", "path", "what", "right"}


def test_what_a_valid_file_is_unwise_to_say_is_a_warning_and_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "unwise\x1b.yaml"
    signals = {"canary": {"kind": "canary", "required": False}}
    path.write_text(json.dumps(two_ports_document(guard={}, health={"signals": signals})))
    done = run("validate", str(path))
    assert done.code == 0
    assert done.err.startswith(f"{str(path)[:-6]}\\x1b.yaml: warning: signal canary: it is not required: ")
    ((told,),) = (one["warnings"] for one in json.loads(run("validate", "-o", "json", str(path)).out)["files"])
    assert (told["code"], told["severity"], told["about"]) == ("canary-not-required", "warning", "signal canary")


def test_schema_prints_a_schema() -> None:
    done = run("schema")
    assert done.code == 0
    assert json.loads(done.out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


# --- hostile text ----------------------------------------------------------------------------------------------------

HOSTILE = [
    "\x1b[8m",
    "\x1b[0m\x1b[31m",
    "\x1b]0;title\x07",
    "x\nnothing to do: the network is as declared",
    "\u202e",
    "\ud800",
    "\x9b1m",
    "a\rb",
]


def _hostile_states(evil: str) -> list[FakeKernel]:
    """A switch with an evil mark, a port in an evil bridge, an evil stranger, and a machine of evil NICs."""
    marked, held, strange, missing = (host(two_ports()) for _ in range(4))
    for kernel in (marked, strange):
        converge(kernel, two_ports(), choice_of(two_ports()))
    marked["tap0"].settings[Setting.ADDRGENMODE] = evil
    marked["sw-outside"].settings[Setting.MARK] = f"reconciler:{evil}:switch:x"
    held.add(evil, Kind.BRIDGE)
    held.enslave(held["eth0"], held[evil].index)
    strange.add(evil, switch="sw-outside")
    missing.remove("eth0")
    missing.add(evil, nic={"physical": True, "driver": evil, "mac": evil})
    return [marked, held, strange, missing]


@pytest.mark.parametrize("evil", HOSTILE)
@pytest.mark.parametrize("form", ["text", "commands"])
def test_hostile_names_in_a_state_are_escaped(file: str, tmp_path: Path, evil: str, form: str) -> None:
    for kernel in _hostile_states(evil):
        path = tmp_path / "state.json"
        path.write_text(json.dumps(dump(kernel.observe())))
        done = run("-f", file, "-n", "-o", form, "--against", str(path))
        assert done.code in (1, 3)
        assert all(c.isprintable() or c == "\n" for c in done.out + done.err)
        if form == "commands":
            assert_only_commands(done.out)
        else:
            assert not [line for line in (done.out + done.err).splitlines() if line.startswith("nothing to do")]


def assert_only_commands(text: str) -> None:
    """What a shell would start of `text`: the shell itself says."""
    spy = 'ip() { :; }; sysctl() { :; }; bridge() { :; }; command_not_found_handle() { echo "started $1"; }\n'
    bash, nowhere = ["/bin/bash", "-c", spy + text], {"PATH": "/nowhere"}
    done = subprocess.run(bash, capture_output=True, env=nowhere, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), text


def test_colour_goes_to_terminals_only(file: str, kernel: FakeKernel, tmp_path: Path) -> None:
    converge(kernel, two_ports(), choice_of(two_ports()))
    kernel["eth0"].settings[Setting.MTU] = 1400
    kernel["tap0"].settings[Setting.ADDRGENMODE] = "\x1b[8mhidden"
    state = recorded(kernel, tmp_path)
    plain = run("-f", file, "-n", "--against", state)
    assert "\x1b" not in plain.out
    master, slave = os.openpty()
    words = [*PROGRAM, "-f", file, "-n", "--against", state]
    with ending(subprocess.Popen(words, stdout=slave, env=environment(**_places()))) as program:
        os.close(slave)
        shown = b""
        try:
            while piece := os.read(master, 4096):
                shown += piece
        except OSError:
            pass  # the other end is closed
        program.wait(PATIENCE_S)
    os.close(master)
    assert program.returncode == 3
    assert b"\x1b[31m\xe2\x88\x92 1400\x1b[0m" in shown
    assert b"\x1b[8m" not in shown
    assert b"\\x1b[8mhidden" in shown


def _places() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key.startswith("RECONCILER_")}


# --- whatever happens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_a_locale_without_utf8_works(file: str, kernel: FakeKernel, tmp_path: Path, locale: dict[str, str]) -> None:
    converge(kernel, two_ports(), choice_of(two_ports()))
    kernel["eth0"].settings[Setting.MTU] = 1400
    kernel.add("n\u00efc", switch="sw-outside")
    done = process(["-f", file, "-n", "--against", recorded(kernel, tmp_path)], env={**_places(), **locale})
    assert done.code == 3
    assert done.err == ""
    assert "1400" in done.out
    if "PYTHONUTF8" in locale:
        assert done.out.isascii()


@pytest.mark.parametrize(
    "words", [["schema"], ["--help"], ["validate", "topologies"], ["validate", "-o", "json", "topologies"]]
)
def test_a_reader_that_leaves_is_no_failure_of_ours(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    root = Path(__file__).parents[2]
    with open(write, "wb") as closed:
        done = subprocess.run(
            [*PROGRAM, *words],
            stdout=closed,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd=root,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_make_no_traceback(file: str, closed: str) -> None:
    script = f'exec "$0" "$@" {closed}'
    done = subprocess.run(
        ["sh", "-c", script, *PROGRAM, "-f", "-" if "<" in closed else file, "validate"],
        capture_output=True,
        env=environment(**_places()),
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, 1)
    assert b"Traceback" not in done.stderr
    assert b"internal error" not in done.stderr
    if closed == "<&-":
        assert done.returncode == 1
        assert b"cannot read -" in done.stderr


def test_ctrl_c_is_one_line(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(places, "read_file", interrupted)
    done = run("-f", file, "-n")
    assert (done.code, done.out, done.err) == (1, "", "\nreconcile: interrupted\n")


def test_a_real_ctrl_c_while_waiting_for_input_is_one_line() -> None:
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with ending(subprocess.Popen([*PROGRAM, "-f", "-", "-n"], **pipes, env=environment(), text=True)) as program:
        # It is reading once the kernel says that it sleeps in a pipe.
        _wait_until_it_reads(program.pid)
        program.send_signal(signal.SIGINT)
        _, err = program.communicate(timeout=30)
    assert (program.returncode, err) == (1, "\nreconcile: interrupted\n")


def _wait_until_it_reads(pid: int) -> None:
    import time

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        # read(2) of descriptor 0
        if Path(f"/proc/{pid}/syscall").read_text().split()[:2] == ["0", "0x0"]:
            return
        time.sleep(0.005)
    raise AssertionError("it never read")


def test_a_bug_of_ours_is_a_sentence_and_a_traceback_only_on_demand(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(places, "read_file", broken)
    done = run("-f", file, "-n")
    assert done.code == 1
    assert "internal error: ZeroDivisionError: of all things; RECONCILER_DEBUG=1 shows where" in done.err
    monkeypatch.setenv("RECONCILER_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run("-f", file, "-n")


def test_a_user_without_a_home_has_no_store_and_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RECONCILER_STATE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert not places.state_dir().exists()


def test_a_dry_run_imports_only_what_it_uses(file: str, kernel: FakeKernel, tmp_path: Path) -> None:
    state = recorded(kernel, tmp_path)
    assert run("-f", file, "-n", "--against", state).code == 3  # fills the store
    code = (
        "import sys; from reconciler.cli.main import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "-f", file, "-n", "--against", state],
        capture_output=True,
        text=True,
        env=environment(**_places()),
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 3
    modules = {name.partition(".")[0] for name in done.stderr.split()}
    assert not modules & {"pydantic", "ruamel", "networkx", "pyroute2", "rich"}


def test_an_endless_file_is_refused() -> None:
    done = run("-f", "/dev/zero", "--dry-run")
    assert done.code == 1
    assert "more than" in done.err


def test_a_demo_without_rich_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['rich'] = None; from reconciler.cli.main import main; sys.argv[1:] = ['demo']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, env=environment(), check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "reconcile: the demo is drawn with rich, which is not installed: "
        "pip install rich, with the pip of this program's environment\n"
    )
