"""A lab's host, an appliance for it, and the command line in it."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from commandline import PROGRAM, Done, environment, run
from kernels import has_tun
from processes import ending

from reconciler.appliance.declared import Appliance
from reconciler.appliance.load import load
from reconciler.exit_status import AS_DECLARED, BYPASSED, CUT, DIFFERS, of_paths
from reconciler.host.netlink.kernel import Kernel
from reconciler.lab.lab import Lab

TAP = has_tun()


class Live:
    """See the module. `outside` is the VM's own adapter, `inside` a tap of ours where the machine allows taps."""

    def __init__(self, lab: Lab, folder: Path, **segment: Any) -> None:
        self.lab = lab
        self.inside = "ips-in" if TAP else "vnet1"
        document = {
            "schema": "reconciler/v1",
            "appliance": {"sku": "live"},
            "ports": {
                "mgmt": {"match": {"name": "mgmt0"}, "role": "management"},
                "outside": {"match": {"name": "nic0"}},
                "inside": {"match": {"name": "nic1"}},
            },
            "segments": {"edge": {"ports": ["outside", "inside"], **segment}},
            "vm": {
                "adapters": {
                    "outside": {"interface": "vnet0"},
                    "inside": {"tap" if TAP else "interface": self.inside},
                }
            },
            "topologies": {"inspect": {"pair": "all"}, "bypass": {"join": "all"}},
        }
        self.file = folder / "live.yaml"
        self.file.write_text(json.dumps(document))
        self.environment = {
            "RECONCILER_STATE_DIR": str(folder / "state"),
            "RECONCILER_RUN_DIR": str(folder / "run"),
        }

    @property
    def appliance(self) -> Appliance:
        return load(self.file.read_bytes(), str(self.file))

    def words(self, *more: str) -> list[str]:
        return ["-f", str(self.file), *more]

    def here(self, *more: str) -> Done:
        """The command line in this process, in the host's namespace, about its file."""
        return self.here_alone(*self.words(*more))

    def here_alone(self, *words: str) -> Done:
        """The same, about no file."""
        before = {key: os.environ.get(key) for key in self.environment}
        os.environ.update(self.environment)
        try:
            with self.lab.host.entered():
                return run(*words)
        finally:
            for key, value in before.items():
                os.environ.pop(key) if value is None else os.environ.update({key: value})

    def start(self, *more: str, prefix: tuple[str, ...] = (), **popen: Any) -> "subprocess.Popen[str]":
        """The command line in a process of its own, in the host's namespace."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return self.lab.host.spawn(
            [*prefix, *PROGRAM, *self.words(*more)], env=environment(**self.environment), **{**pipes, **popen}
        )

    def apart(self, *more: str, **how: Any) -> Done:
        """The same, to its end."""
        with ending(self.start(*more, **how)) as program:
            out, err = program.communicate(timeout=60)
        assert "Traceback" not in err
        return Done(program.returncode, out, err)

    def hand(self, command: str) -> None:
        """A hand at the host's shell."""
        done = self.lab.run(["sh", "-ec", command], check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"

    def drift(self, *more: str) -> set[tuple[str, str]]:
        """What a dry run in a process of its own names: interface, and setting or kind of change."""
        done = self.apart("--dry-run", "-o", "json", *more)
        plan = json.loads(done.out)
        assert done.err == ""
        assert done.code == (DIFFERS if plan["changes"] else of_paths(one["path"] for one in plan["paths"]))
        # What does not forward is a difference, too, and repaired.
        assert {one["code"] for one in plan["warnings"] if one["severity"] == "error"} <= {"not-forwarding"}
        return {(one["interface"], one.get("setting", one["change"])) for one in plan["changes"]}

    def converge(self, *more: str) -> None:
        done = self.here(*more)
        assert done.code == 0, done

    def is_converged(self, *more: str) -> None:
        done = self.here("--dry-run", *more)
        assert done.out.endswith("nothing to do: the network is as declared\n"), done
        # Whatever becomes of frames there.
        assert done.code in (AS_DECLARED, BYPASSED, CUT)

    @contextlib.contextmanager
    def kernel(self) -> Iterator[Kernel]:
        with self.lab.host.entered(), Kernel() as kernel:
            yield kernel

    def dump(self, *names: str) -> list[Any]:
        """Everything that iproute2 tells of interfaces, and all routes."""
        found: list[Any] = []
        for words in (["addr"], ["route", "show", "table", "all"], ["-6", "route", "show", "table", "all"]):
            text = self.lab.run(["ip", "-d", "-j", *words]).stdout
            found += [_still(one) for one in json.loads(text or "[]") if one.get("ifname", one.get("dev")) in names]
        assert found
        return found


def _still(told: dict[str, Any]) -> Any:
    """Less what runs by itself, and so is no change of anybody's."""
    text = re.sub(r'"[a-z_]*timer": [0-9.]+', '"timer": 0', json.dumps(told))
    return json.loads(text.replace('"tentative": true, ', ""))


@contextlib.contextmanager
def live(folder: Path, *, traffic: bool = False, **segment: Any) -> Iterator[Live]:
    with Lab(2, traffic=traffic) as lab:
        yield Live(lab, folder, **segment)


PYTHON = sys.executable
