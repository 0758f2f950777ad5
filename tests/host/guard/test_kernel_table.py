"""What the guard says on the failover path was encoded beforehand."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from rules import nft

from reconciler.appliance.declared import Guard
from reconciler.errors import HostError
from reconciler.guard.rules import Guarded, Place, comment_of, ruleset, table_of
from reconciler.host.guard import messages
from reconciler.host.guard.netfilter import Netfilter
from reconciler.host.guard.table import KernelTable
from reconciler.host.netlink import encoder, rtnetlink

TOKEN = bytes.fromhex("020102030405")
FLUSH, ADD = messages.NFT_MSG_DELSETELEM, messages.NFT_MSG_NEWSETELEM


def guarded(index: int = 1, **more: Any) -> Guarded:
    adapters = tuple(Place(role, f"tap-{role}", index + at) for at, role in enumerate(("outside", "inside")))
    return Guarded("edge", Guard(**more), adapters, adapters)


@pytest.fixture
def table() -> Iterator[tuple[KernelTable, list[bytes]]]:
    sent: list[bytes] = []
    with KernelTable("x") as made:
        made._netfilter.close()
        made._netfilter = SimpleNamespace(send=sent.append, close=lambda: None)  # type: ignore[assignment]
        yield made, sent


def said(batch: bytes) -> list[tuple[int, str]]:
    """What is done with which set."""
    told = []
    for kind, _, _, begin, end in rtnetlink.messages(batch):
        if kind >> 8 == messages.NFNL_SUBSYS_NFTABLES:
            attributes = dict(messages.attributes(batch[begin + messages.NFGENMSG.size : end]))
            told.append((kind & 0xFF, messages.string(attributes[messages.NFTA_SET_ELEM_LIST_SET])))
    return told


def test_nothing_is_encoded_once_it_is_prepared_but_a_token(
    table: tuple[KernelTable, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, sent = table
    one = guarded()
    leases = [direction.lease for direction in one.directions]
    opened.prepare([one])
    encoded: list[Any] = []
    encode = encoder._encoded
    monkeypatch.setattr(encoder, "_encoded", lambda *of: encoded.append(of) or encode(*of))
    # A VM that came back has other adapters, and is spoken of as before.
    opened.prepare([guarded(index=7)])
    opened.withdraw(one, drain=False)
    opened.withdraw(one, drain=True)
    opened.stand_aside(one)
    opened.renew(one)
    assert encoded == []
    opened.grant(one, TOKEN)
    assert len(encoded) == 1
    flushed = [(FLUSH, lease) for lease in leases]
    nothing = [*flushed, (FLUSH, "edge/granted"), (FLUSH, "edge/aside"), (FLUSH, "edge/drain")]
    given = [(ADD, lease) for lease in leases]
    given += [said for way in one.directions for said in ((FLUSH, way.renewed), (ADD, way.renewed))]
    drain = [(ADD, "edge/drain")] if one.guard.drain_ms else []
    assert [said(batch) for batch in sent] == [
        *[nothing] * 2,
        *[[*nothing, *drain]] * 2,
        [*nothing, (ADD, "edge/aside")],
        [*flushed, *given],
        [*nothing, (ADD, "edge/granted"), *given],
    ]


def test_another_lease_is_encoded_again(table: tuple[KernelTable, list[bytes]]) -> None:
    opened, sent = table
    for lease_ms in (200, 400):
        opened.prepare([guarded(lease_ms=lease_ms)])
        opened.renew(guarded())
    first, second = sent
    assert (200).to_bytes(8, "big") in first
    assert second == first.replace((200).to_bytes(8, "big"), (400).to_bytes(8, "big"))


@pytest.mark.netns
@pytest.mark.usefixtures("here")
def test_our_table_is_taken_away_by_its_number_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = f'add table netdev {table_of("x")} {{ comment "{comment_of("x")}"; }}'
    nft(
        "-f",
        "-",
        text=f"{ours}\nadd counter netdev {table_of('x')} c {{ packets 3 bytes 180 }}\nadd table netdev other\n",
    )
    with KernelTable("x") as table:
        removed = table.remove()
        assert removed.counted == {"c": (3, 180)}
        assert nft("list", "tables") == "table netdev other\n"
        assert table.remove().handle is None
        # Somebody was faster, and has made another one of that name: it has not the number that was seen.
        nft("-f", "-", text=ours)
        send = Netfilter.send

        def faster(self: Netfilter, batch: bytes) -> None:
            nft("-f", "-", text=f"delete table netdev {table_of('x')}\n{ours}\n")
            send(self, batch)

        monkeypatch.setattr(Netfilter, "send", faster)
        table.remove()
        assert table_of("x") in nft("list", "tables")


@pytest.mark.netns
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("whose", ["", '{ comment "somebody\'s"; }'])
def test_a_table_of_its_name_that_is_not_ours_is_refused_and_left(whose: str) -> None:
    one = guarded()
    nft("-f", "-", text=f"add table netdev {table_of('x')} {whose}\nadd counter netdev {table_of('x')} theirs\n")
    before = nft("list", "ruleset")
    with KernelTable("x") as table:
        for act in (lambda: table.find([one]), lambda: table.install(ruleset("x", [one], b"secret", {})), table.remove):
            with pytest.raises(HostError, match="was not made by us"):
                act()
    assert nft("list", "ruleset") == before
