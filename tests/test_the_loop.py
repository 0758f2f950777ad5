"""Nothing on the loop may block: what may is called in `host.blocking`'s workers, in other processes, or before the loop.

Read from the text of the program. A function runs in a worker if it is handed to one (`Workers.call`, `Saver`, ...), or
if only such functions of its module call it. All others of the daemon's rooms run on the loop, and there no call that
may take a disk, a name service, a program or another process's goodwill is allowed, but for those in `ALLOWED`, each
with the reason why it cannot take long.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "reconciler"

# Rooms of which the daemon consists.
ROOMS = ("daemon", "control/server.py", "control/requests.py", "guard", "health", "host", "ledger", "network")
# These may block as a whole. Whoever asks for more of them than is named here calls what may block.
BLOCKING = {
    "control.ask": {"digest", "socket_of"},
    "host.accepted": {"Accepted", "InForce"},
    "host.guard.nftables": set[str](),
    "host.hypervisor.link": {"MISSING", "is_it", "text"},
    "host.ledgerfile": {"Booked", "Found", "LedgerFile"},
    "host.lock": set[str](),
    "host.names": set[str](),
    "host.path_notes": {"noted", "path_notes", "since"},
    "host.places": {"run_dir", "state_dir"},
    "host.programs": set[str](),
    "host.prover": set[str](),
    "host.run": {"Ended", "Run"},
    "host.statefile": {"StateFile"},
    "host.store": set[str](),
}
# Objects whose methods block, by what makes them.
MAKERS = {"LedgerFile", "StateFile", "notes_of", "path_notes"}
# No part of the daemon's process: the prober's own, and what the command line alone asks.
ELSEWHERE = {
    "host.blocking",
    "host.ledgers",
    "host.look",
    "host.guard.prober",
    "host.hardware",
    "host.privileges",
    "host.systemd.__init__",
}
# What hands a function to a worker.
DOORS = {"call", "dispose", "Saver", "Appender", "Thread", "_slowly", "_background", "_start"}
PRIMITIVES = {
    "open", "input", "time.sleep", "socket.getaddrinfo", "socket.gethostbyname", "socket.getfqdn", "fcntl.flock",
    "importlib.util.find_spec", "importlib.import_module", "os.system", "os.popen",
    *(f"os.{name}" for name in (
        "open", "fsync", "fdatasync", "replace", "rename", "remove", "unlink", "mkdir", "makedirs", "listdir", "scandir",
        "stat", "chown", "chmod", "pread", "pwrite", "waitpid", "wait", "posix_spawn", "fork", "link", "symlink",
    )),
    *(f"subprocess.{name}" for name in ("run", "Popen", "call", "check_call", "check_output")),
    *(f"{module}.{name}" for module in ("pwd", "grp") for name in ("getpwuid", "getpwnam", "getgrgid", "getgrnam")),
    *(f"libvirt.{name}" for name in ("open", "openReadOnly", "openAuth")),
}  # fmt: skip
# Of a `pathlib.Path`; no other class of ours has methods of these names.
OF_A_PATH = {
    "read_text", "write_text", "read_bytes", "write_bytes", "unlink", "mkdir", "iterdir", "glob", "rglob", "exists",
    "is_dir", "is_file", "stat", "chmod", "touch", "rmdir", "symlink_to",
}  # fmt: skip

BEFORE = "before the loop runs, if not in a worker"
KERNEL = "what the kernel makes as it is read, or a device: there is no disk behind it"
RUN = "in /run, which is memory, and never waited for"
HANDED = "handed to a worker, and to nobody else, by a name that others have, too"
ALLOWED = {
    ("daemon.journal", "DescriptorJournal.__init__"): BEFORE,
    ("daemon.kernel_guard", "KernelGuard.__init__"): BEFORE,
    ("daemon.kernel_guard", "_kept"): BEFORE,
    ("daemon.kernel_guard", "_forget"): BEFORE,
    ("daemon.ledger", "guard_switched_by_hand"): "by the command line, where no daemon runs",
    ("daemon.loop", "Daemon.__init__"): BEFORE,
    ("host.hypervisor.driver", "hypervisor_of"): BEFORE,
    ("host.netlink.encoder", "_in_parts"): BEFORE,
    ("control.server", "Control._attend"): KERNEL,
    ("host.clock", "boot_id"): KERNEL,
    ("host.ioctl", "make_tap"): KERNEL,
    ("host.ioctl", "persist_tap"): KERNEL,
    ("host.netlink.execution", "_write_sysctl"): KERNEL,
    ("host.netlink.observation", "_firewalled"): KERNEL,
    ("host.surroundings.survey", "Surveyor._uppers"): KERNEL,
    ("control.server", "Control._let_in"): RUN,
    ("control.server", "Control.close"): RUN,
    ("control.server", "Control.open"): RUN,
    ("host.guard.prober_client", "Probing._is_held"): RUN,
    ("host.guard.prober_client", "Probing._kill_holder"): RUN,
    ("host.guard.prober_client", "Probing.end"): RUN,
    ("host.signals.domain", "_Session.close"): HANDED,
    ("host.signals.guest_ping", "_Agent._drop"): HANDED,
    ("host.signals.http", "HttpGatherer._addresses.look_up"): "of a number: nobody is asked for a name",
    ("daemon.memory", "Remembering._set_aside"): HANDED,
    ("daemon.memory", "Remembering.find"): HANDED,
}


@dataclass
class Function:
    """A function, or a lambda. `calls`: what may block, by line; `asks`: the names of all that it calls."""

    module: str
    name: str
    calls: list[tuple[int, str]] = field(default_factory=list)
    asks: set[str] = field(default_factory=set)

    @property
    def last(self) -> str:
        """Its own name, without what it is defined in."""
        return self.name.rpartition(".")[2]


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of a name or an attribute; '' of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def _makes(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and dotted(node.func) in MAKERS


class Module(ast.NodeVisitor):
    """What the functions of one module call."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.functions: dict[str, Function] = {}
        self.handed: set[str] = set()
        self.methods: set[str] = set()
        """Of other modules' objects, that are handed over: ``self._table.find``."""
        self.blocking: dict[str, str] = {}
        self.objects: set[str] = set()
        self._stack: list[str] = []
        self._into(ast.parse(text))

    def _into(self, tree: ast.Module) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                self._imported(node)
            elif isinstance(node, ast.Assign) and _makes(node.value):
                self.objects |= {dotted(one).rpartition(".")[2] for one in node.targets}
            elif isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
                named = node.arg if isinstance(node, ast.arg) else dotted(node.target).rpartition(".")[2]
                if dotted(node.annotation) in MAKERS:
                    self.objects.add(named)
        self.visit(tree)

    def _imported(self, node: ast.ImportFrom) -> None:
        of = (node.module or "").removeprefix("reconciler").lstrip(".")
        for one in node.names:
            whole, name = f"{of}.{one.name}".lstrip("."), one.asname or one.name
            if whole in BLOCKING:
                self.blocking[name] = whole
            elif of in BLOCKING and one.name not in BLOCKING[of]:
                self.blocking[name] = of

    def _scope(self, name: str, node: ast.AST) -> None:
        self._stack.append(name)
        self._here()
        self.generic_visit(node)
        self._stack.pop()

    def _here(self) -> Function:
        return self.functions.setdefault(".".join(self._stack), Function(self.name, ".".join(self._stack)))

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._stack.append(node.name)
        self.generic_visit(node)
        self._stack.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._scope(node.name, node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._scope(node.name, node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._scope(f"<lambda {node.lineno}>", node)

    def visit_Call(self, node: ast.Call) -> None:
        called = dotted(node.func)
        last = called.rpartition(".")[2]
        here = self._here()
        if last in DOORS:
            self._hand_over(node)
        if reason := self._blocks(called, node.func):
            here.calls.append((node.lineno, reason))
        here.asks.add(last)
        self.generic_visit(node)

    def _hand_over(self, node: ast.Call) -> None:
        for one in (*node.args, *(keyword.value for keyword in node.keywords)):
            if isinstance(one, ast.Lambda):
                self.handed.add(f"<lambda {one.lineno}>")
            elif name := dotted(one):
                whose, _, last = name.rpartition(".")
                self.handed.add(last)
                if whose not in ("", "self"):
                    self.methods.add(last)

    def _blocks(self, called: str, node: ast.expr) -> str:
        first, _, rest = called.partition(".")
        if called in PRIMITIVES:
            return called
        if isinstance(node, ast.Attribute) and node.attr in OF_A_PATH and first not in ("os", "ast"):
            return f"Path.{node.attr}"
        if isinstance(node, ast.Attribute) and dotted(node.value).rpartition(".")[2] in self.objects:
            return f"a file's {node.attr}"
        if first in self.blocking and (not rest or rest.partition(".")[0] not in BLOCKING[self.blocking[first]]):
            return f"{self.blocking[first]}: {called}"
        return ""


def on_the_loop(found: list[Module]) -> Iterator[Function]:
    """The functions that are not of workers only. Methods are known by their names alone, whoever has one like that."""
    functions = [one for module in found for one in module.functions.values()]
    callers: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for one in functions:
        for name in one.asks:
            callers[name].add((one.module, one.name))
    handed = {(module.name, name) for module in found for name in module.handed}
    methods = set().union(*(module.methods for module in found))
    workers: set[tuple[str, str]] = set()
    while True:
        more = {
            (one.module, one.name)
            for one in functions
            if (
                (one.module, one.last) in handed
                and {who for who in callers[one.last] if who[0] == one.module} <= workers
            )
            or (callers[one.last] and callers[one.last] <= workers)
            or (not callers[one.last] and one.last in methods)
            or any(one.module == module and one.name.startswith(f"{name}.") for module, name in workers)
        }
        if more <= workers:
            return (one for one in functions if (one.module, one.name) not in workers)
        workers |= more


@cache
def rooms() -> list[Module]:
    """Each module that has a part in the daemon's process, but for those that may block."""
    paths = [path for room in ROOMS for path in [ROOT / room, *(ROOT / room).rglob("*.py")] if path.suffix]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(paths)}
    kept = names.keys() - BLOCKING.keys() - ELSEWHERE
    return [Module(name, names[name].read_text(encoding="utf-8")) for name in sorted(kept)]


def blocking_calls(found: list[Module]) -> dict[tuple[str, str], list[tuple[int, str]]]:
    """What is called on the loop that may block, by module and function."""
    return {(one.module, one.name): one.calls for one in on_the_loop(found) if one.calls}


def test_nothing_on_the_loop_calls_what_may_block() -> None:
    found = blocking_calls(rooms())
    assert {place: calls for place, calls in found.items() if place not in ALLOWED} == {}
    assert ALLOWED.keys() - found.keys() == set(), "no longer needed"


@pytest.mark.parametrize(
    "planted",
    [
        "def turn(): open('/etc/passwd')",
        "def turn(): time.sleep(1)",
        "import pwd\ndef turn(): pwd.getpwuid(0)",
        "import socket\nasync def turn(): socket.getaddrinfo('a', 1)",
        "import subprocess\ndef turn(): subprocess.run(['true'])",
        "import os\ndef turn():\n    def inner(): os.fsync(0)\n    inner()",
        "class A:\n    def __init__(self, path): self._path = path\n    def turn(self): return self._path.read_text()",
        "class A:\n    def __init__(self): self._file = StateFile('a')\n    def turn(self): return self._file.read()",
        "def turn(notes: StateFile): notes.write(1)",
        "from reconciler.host import names\ndef turn(): names.person(0, 0)",
        "from reconciler.host.programs import running_programs\ndef turn(): return running_programs()",
        "from reconciler.host.guard import nftables\nasync def turn(): nftables.run('')",
        "import os\ndef turn(workers): workers.call(work)\ndef work(): os.fsync(0)\ndef other(): work()",
    ],
)
def test_one_that_may_block_is_found(planted: str) -> None:
    assert blocking_calls([*rooms(), Module("daemon.planted", planted)]).keys() - ALLOWED.keys() != set()


@pytest.mark.parametrize(
    "planted",
    [
        "import os\ndef turn(workers): workers.call(work)\ndef work(): deeper()\ndef deeper(): os.fsync(0)",
        "import os\ndef turn(workers): workers.call(lambda: os.fsync(0))",
        "class A:\n    def __init__(self): self._file = StateFile('a'); self._s = Saver(self._file.write)",
    ],
)
def test_a_workers_own_is_not(planted: str) -> None:
    assert blocking_calls([*rooms(), Module("daemon.planted", planted)]).keys() - ALLOWED.keys() == set()


# --- one door ----------------------------------------------------------------------------------------------------------


def driven(text: str) -> list[int]:
    """The lines that drive the core, beside functions that are handed to the one door, `Turns.enter`."""
    module = Module("here", text)
    tree = ast.parse(text)
    entered = {
        dotted(one).rpartition(".")[2] or id(one)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and dotted(call.func).endswith(".enter")
        for one in call.args
    }
    inside = {
        id(node)
        for scope in ast.walk(tree)
        if (isinstance(scope, ast.FunctionDef) and scope.name in entered)
        or (isinstance(scope, ast.Lambda) and id(scope) in entered)
        for node in ast.walk(scope)
    }
    entered |= {name for one in module.functions.values() if one.last in entered for name in one.asks}
    inside |= {
        id(node)
        for scope in ast.walk(tree)
        if isinstance(scope, ast.FunctionDef) and scope.name in entered
        for node in ast.walk(scope)
    }
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and id(node) not in inside and drives(dotted(node.func))
    ]


def drives(called: str) -> bool:
    """Whether this is one of the calls that change what the core holds."""
    whose, _, what = called.rpartition(".")
    return whose.rpartition(".")[2] in ("core", "_core") and what in (
        "declare", "forget_stations", "leave", "listen", "start", "turn",
    )  # fmt: skip


def test_the_core_has_one_door() -> None:
    paths = [*(ROOT / "daemon").glob("*.py"), *(ROOT / "control").glob("*.py")]
    found = {path.name: driven(path.read_text(encoding="utf-8")) for path in paths if path.name != "turns.py"}
    assert {name: lines for name, lines in found.items() if lines} == {}
    assert driven((ROOT / "daemon" / "turns.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "planted", ["self._core.turn(())", "self._turns.core.declare(1)", "turns.enter(core.listen())"]
)
def test_another_door_is_found(planted: str) -> None:
    assert driven(f"def other(self, turns):\n    {planted}")
