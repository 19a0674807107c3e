"""Our btauth verifier beside the SDK's own: never laxer on anything, and in agreement on what clients send."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec
from bittensor import http_auth
from bittensor_core import CRYPTO_ED25519, Keypair
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import Refusal
from serving.types import Hotkey
from serving.wire.btauth import read_claim
from serving.wire.keys import public_key
from tests.serving.callers import ALICE, BOB, MINER
from tests.serving.wire.judged import Rules, Store, head

NOW = 1_795_368_733_100_868_295
ED25519 = Keypair.create_from_uri("//Alice", crypto_type=CRYPTO_ED25519)
OURS = public_key(MINER.ss58_address)
NAMES = (
    http_auth.HEADER_VERSION, http_auth.HEADER_HOTKEY, http_auth.HEADER_RECEIVER, http_auth.HEADER_NONCE,
    http_auth.HEADER_CRYPTO, http_auth.HEADER_SIGNATURE,
)  # fmt: skip


@dataclass(frozen=True)
class Sent:
    """A request as it arrives, and at which time."""

    headers: dict[str, str]
    body: bytes
    target: str = "/Double?a=%20"
    method: str = "POST"
    now: int = NOW
    theirs: http_auth.InMemoryNonceStore = field(default_factory=http_auth.InMemoryNonceStore)
    ours: Store = field(default_factory=Store)

    def sdk(self) -> str:
        """``accept`` or the name of the SDK's error."""
        try:
            http_auth.verify(
                self.headers, self.body, method=self.method, path=self.target, self_hotkey_ss58=MINER.ss58_address,
                now_ns=self.now, nonce_store=self.theirs,
            )  # fmt: skip
        except http_auth.AuthError as error:
            return type(error).__name__
        return "accept"

    async def headframe(self) -> str:
        """``accept`` or the code of our refusal."""
        fields = {name.lower().encode(): value.encode("latin-1") for name, value in self.headers.items()}
        request = msgspec.structs.replace(head({}, self.target, self.method), fields=fields)
        try:
            claim = read_claim(request, Hotkey(MINER.ss58_address))
            sender = public_key(claim.hotkey)
            claim.check_fresh(self.now, Rules())
            claim.check_signature(request, self.body)
            await claim.spend(self.ours, sender, OURS, self.now)
        except Refusal as refused:
            return refused.code if refused.status in {400, 401} and refused.message.isascii() else "ill-formed"
        return "accept"


BODIES = st.sampled_from([b"", b"{}", b'{"x": [1.0]}'])
AGES = st.sampled_from([-2_000_000_001, -2_000_000_000, -1, 0, 1, 10_000_000_000, 10_000_000_001]) | st.integers(
    -(10**11), 10**11
)


@st.composite
def signed(draw: st.DrawFn) -> Sent:
    """A request that the SDK itself signed, now or a while ago, for us or for somebody else."""
    body, target = draw(BODIES), draw(st.sampled_from(["/Double", "/Double?a=%20", "/Double?"]))
    receiver = draw(st.sampled_from([*[MINER.ss58_address] * 6, BOB.ss58_address, None]))
    headers = http_auth.sign(
        draw(st.sampled_from([ALICE, BOB, ED25519])), method="POST", path=target, body=body, receiver_ss58=receiver,
        nonce_ns=NOW - draw(AGES),
    )  # fmt: skip
    return Sent(headers, body, target)


def spelt_otherwise(value: str) -> st.SearchStrategy[str]:
    """Other ways to write a header's value, some of which Python would read as the same."""
    ways = [
        value.upper(), value.lower(), value.removeprefix("0x"), "0X" + value[2:], "+" + value, " " + value, value + " ",
        "0" + value, value[:3] + "_" + value[3:], value + ".0", value + "\n", value[:-1], value + "0", "", "1", "0",
        "SR25519", "ed25519", "sr25519", "mldsa", "-1", "1e18", value.replace("1", "\u00b9"),
    ]  # fmt: skip
    return st.sampled_from(ways) | st.text(st.characters(max_codepoint=255), max_size=140)


@st.composite
def tampered(draw: st.DrawFn) -> Sent:
    """A signed request of which some parts were changed on the way, or taken from another one."""
    sent, other = draw(signed()), draw(signed())
    headers = dict(sent.headers)
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=2)):
        value = draw(st.none() | st.just(other.headers.get(name)) | spelt_otherwise(headers.get(name, "")))
        headers.pop(name, None)
        if value is not None:
            headers[draw(st.sampled_from([name, name.lower(), name.upper()]))] = value
    changes = draw(st.sets(st.sampled_from(["body", "target", "method"]), max_size=1))
    return replace(
        sent, headers=headers,
        body=draw(BODIES) if "body" in changes else sent.body,
        target=draw(st.sampled_from(["/double", "/Double?a=+", "//Double"])) if "target" in changes else sent.target,
        method=draw(st.sampled_from(["GET", "post", "PUT"])) if "method" in changes else sent.method,
    )  # fmt: skip


@given(signed())
async def test_what_the_sdk_signs_we_judge_as_the_sdk_does(sent: Sent) -> None:
    first = sent.sdk(), await sent.headframe()
    assert (first[0] == "accept") == (first[1] == "accept"), first
    again = sent.sdk(), await sent.headframe()
    assert again in {("ReplayedRequest", "replayed"), first} - {("accept", "accept")}


@settings(max_examples=400)
@given(tampered())
async def test_whatever_we_accept_the_sdk_accepts(sent: Sent) -> None:
    ours, theirs = await sent.headframe(), sent.sdk()
    assert ours != "ill-formed"
    assert ours != "accept" or theirs == "accept", theirs
