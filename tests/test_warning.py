"""The one form of bad news."""

from reconciler.warning import Severity, Warning, worst_first


def test_the_worst_comes_first_and_each_once() -> None:
    note = Warning("a", Severity.NOTE, "nic0", "is odd")
    bad = Warning("b", Severity.ERROR, "", "the guard is not set", "reconcile guard on")
    fair = Warning("c", Severity.WARNING, "nic1", "may drop")
    assert worst_first([note, fair, bad, note]) == (bad, fair, note)


def test_its_text_names_the_thing_and_what_would_be_right() -> None:
    assert str(Warning("a", Severity.NOTE, "nic0", "is odd")) == "nic0: is odd"
    bad = Warning("b", Severity.ERROR, "", "the guard is not set", "reconcile guard on")
    assert str(bad) == "the guard is not set; reconcile guard on"
    assert bad.line == str(bad)
    assert bad.as_json() == {
        "code": "b",
        "severity": "error",
        "about": "",
        "text": "the guard is not set",
        "remedy": "reconcile guard on",
    }


def test_in_one_line_a_list_is_one_too() -> None:
    missing = Warning(
        "a", Severity.ERROR, "port x", "no interface matches", "this machine has:\n    eth0: mac 1\n    eth1"
    )
    assert missing.line == "port x: no interface matches; this machine has: eth0: mac 1; eth1"
