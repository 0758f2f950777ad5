"""What the machine says of its interfaces, from a /sys of the test's own."""

from pathlib import Path

import pytest

from reconciler.host import hardware


def test_radios_and_virtual_functions_are_no_ends_of_wires(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, uevent in {
        "wlp3s0": "DEVTYPE=wlan\nINTERFACE=wlp3s0\n",
        "wwan0": "INTERFACE=wwan0\nDEVTYPE=wwan\n",
        "eth0": "INTERFACE=eth0\nIFINDEX=2\n",
        "br0": "DEVTYPE=bridge\n",
        "eth0v1": "INTERFACE=eth0v1\n",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "uevent").write_text(uevent)
    (tmp_path / "eth0v1" / "device" / "physfn").mkdir(parents=True)
    (tmp_path / "gone0").mkdir()
    monkeypatch.setattr(hardware, "_NET", tmp_path)
    assert hardware.odd_interfaces() == {
        "eth0v1": "a virtual function (SR-IOV) of another NIC",
        "wlp3s0": "a wireless NIC",
        "wwan0": "a mobile radio",
    }
    monkeypatch.setattr(hardware, "_NET", tmp_path / "none")
    assert hardware.odd_interfaces() == {}
