"""An online side of the gate with several peers, and senders with keys of their own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from msgspec import Struct

from estation import settings as settings_module
from estation.outside.gate import device, keys, peering, peers, rounds, rows, sending
from estation.outside.gate.peering import Deed, NewPeer
from estation.outside.gate.peers import Peer
from estation.outside.gate.receiving import Arrival, ReceiveReport
from tests.outside.gate_side import BACK, STREAM, T0, bill

COUNTY, COUNTY_STREAM = "lj-county", "lj-county-online"
DEED = Deed(by="丁一", reason="临江县接入")


@dataclass
class Gate:
    """The online side with its first peer, and senders with keys of their own."""

    root: Path
    now: datetime = T0
    seen: list[tuple[str, str]] = field(default_factory=list)
    pairs: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    def secret(self, name: str) -> bytes:
        return (self.secrets / name).read_bytes()

    @property
    def settings(self) -> settings_module.Gate:
        return settings_module.Gate(
            folder=self.root / "online",
            stream_in=STREAM,
            stream_out=BACK,
            regions=["3601"],
            signing_key_file="gate/online_key.pem",
            peer_public_key_file="gate/jc-center_public.pem",
        )

    def make_keys(self) -> None:
        for side in ("online", "jc-center"):
            keys.make_pair(
                private=self.secrets / f"gate/{side}_key.pem",
                public=self.secrets / f"gate/{side}_public.pem",
            )
        self.pairs["jc-center"] = (
            self.secret("gate/jc-center_key.pem"),
            self.secret("gate/jc-center_public.pem"),
        )
        self.pairs[COUNTY] = keys.make_key()

    async def keep_first(self, now: datetime) -> None:
        await peering.keep_first_peer(
            self.settings, title="市中心", sources=["jc-center"], secret=self.secret, now=now
        )

    async def add_county(self, **changes: Any) -> Peer:
        given = {
            "name": COUNTY,
            "title": "临江县",
            "sources": [COUNTY],
            "regions": ["360121"],
            "public_pem": self.pairs[COUNTY][1],
            "folder": self.root / "online" / "peers" / COUNTY,
        }
        return await peering.add_source(
            NewPeer(**{**given, **changes}),
            here="online",
            signing_key_file="gate/online_key.pem",
            secret=self.secret,
            deed=DEED,
            now=self.now,
        )

    def rounds(self) -> rounds.Rounds:
        async def receive(peer: Peer, now: datetime) -> ReceiveReport:
            return await self.receive(peer)

        async def pack(peer: Peer, now: datetime) -> list[int]:
            return await self.pack(peer)

        return rounds.Rounds(prepare=self.keep_first, pack=pack, receive=receive)

    async def receive(self, peer: Peer) -> ReceiveReport:
        handlers = dict.fromkeys(rows.TOPICS.keys() - {"received_up_to"}, self.remember)
        return await rounds.receive_from(peer, handlers=handlers, now=self.now)

    async def pack(self, peer: Peer) -> list[int]:
        return await rounds.pack_for(peer, secret=self.secret, max_rows=100, now=self.now)

    async def remember(self, found: Sequence[Struct], arrival: Arrival) -> None:
        self.seen += [(arrival.stream, row.source_id) for row in found]  # type: ignore[attr-defined]

    async def arrive(self, peer: Peer, topic: str, *sent: Struct, private: bytes = b"") -> None:
        """Seal rows as that peer would, and put the file where the device does."""
        await sending.put_rows(peer.stream_in, topic, sent, now=self.now)
        await self.seal(peer, private)

    async def seal(self, peer: Peer, private: bytes = b"") -> None:
        outgoing = self.root / "senders" / peer.name
        await sending.pack_waiting(
            peer.stream_in,
            folder=outgoing,
            key=keys.load_seal_key(private or self.pairs[peer.name][0]),
            now=self.now,
        )
        device.move_once(outgoing, peer.incoming)

    def later(self, **time: float) -> None:
        self.now += timedelta(**time)


async def center() -> Peer:
    return await peers.peer_named("jc-center")


def county_bill(number: int, **changes: Any) -> Struct:
    return bill(number, **{"source": COUNTY, "region": "360121", **changes})
