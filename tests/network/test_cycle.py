"""One turn of the loop: it acts on what is, and says what is true."""

import errno

from fake_kernel import FakeKernel
from worlds import host, two_ports

from reconciler.network.cycle import audit, reconcile
from reconciler.network.desired import choice_of
from reconciler.network.plan import Status
from reconciler.network.state import Kind, Setting


class Counting(FakeKernel):
    """Counts how often, and with what, it was looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[bool] = []

    def observe(self, names=None):
        self.looks.append(names is None)
        return super().observe(names)


def counting() -> Counting:
    kernel = host(two_ports())
    kernel.__class__ = Counting
    kernel.looks = []  # type: ignore[attr-defined]
    return kernel  # type: ignore[return-value]


def test_a_turn_looks_acts_and_looks_again() -> None:
    of, kernel = two_ports(), counting()
    report = reconcile(kernel, of, choice_of(of))
    assert report.converged
    assert kernel.looks == [False, False]
    assert report.before.changes
    assert report.after.changes == ()
    assert len(report.outcomes) == len(report.plan.operations) == len(kernel.log)


def test_where_nothing_is_to_do_nothing_is_done() -> None:
    of, kernel = two_ports(), counting()
    reconcile(kernel, of, choice_of(of))
    kernel.looks.clear()
    kernel.log.clear()
    report = reconcile(kernel, of, choice_of(of))
    assert (report.converged, report.outcomes, kernel.log) == (True, (), [])
    assert kernel.looks == [False]


def test_all_nics_are_looked_at_only_when_a_port_is_missing() -> None:
    of, kernel = two_ports(), counting()
    audit(kernel, of, choice_of(of))
    assert kernel.looks == [False]
    kernel.remove("eth0")
    kernel.looks.clear()
    assert [one.code for one in audit(kernel, of, choice_of(of)).problems] == ["port-missing"]
    assert kernel.looks == [False, True]


def test_the_report_believes_the_kernel_and_not_the_outcomes() -> None:
    """Everything was done, and a foreign hand undid some of it: then that is what is true."""
    of, kernel = two_ports(), host(two_ports())
    last = len(reconcile(host(of), of, choice_of(of)).outcomes) - 1

    def meddle(count: int, kernel: FakeKernel) -> None:
        if count == last:
            kernel["eth0"].settings[Setting.MTU] = 1400

    kernel.foreign_hand = meddle
    report = reconcile(kernel, of, choice_of(of))
    assert {one.status for one in report.outcomes} == {Status.DONE}
    assert not report.converged
    assert [(one.link.name, one.setting) for one in report.after.changes] == [("eth0", Setting.MTU)]  # type: ignore[union-attr]


def test_a_foreign_hand_between_the_look_and_the_act_is_met_with_errnos_and_the_next_turn() -> None:
    of, kernel = two_ports(), host(two_ports())

    def meddle(count: int, kernel: FakeKernel) -> None:
        if count == 0:
            kernel.add("sw-outside", Kind.BRIDGE)
            kernel.remove("eth1")

    kernel.foreign_hand = meddle
    report = reconcile(kernel, of, choice_of(of))
    numbers = {one.errno for one in report.outcomes if one.status is Status.FAILED}
    assert numbers == {errno.EEXIST, errno.ENODEV, errno.ENOENT}
    assert {one.code for one in report.after.problems} == {"foreign", "port-missing"}
    assert kernel["eth0"].master == 0
    kernel.foreign_hand = None
    kernel.remove("sw-outside")
    kernel.add("eth1")
    assert reconcile(kernel, of, choice_of(of)).converged


def test_an_interruption_before_the_first_operation_changes_nothing() -> None:
    of, kernel = two_ports(), host(two_ports())
    before = kernel.observe()
    report = reconcile(kernel, of, choice_of(of), lambda: True)
    assert kernel.observe() == before
    assert {one.status for one in report.outcomes} == {Status.SKIPPED}
    assert report.after.changes == report.before.changes
