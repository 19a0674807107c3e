"""How much junk an address may send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Refusal
from serving.public.junk import JunkBudgets
from serving.public.origins import Address


class Books:
    """Budgets on a clock that a test sets."""

    def __init__(self, *, per_s: float = 2.0, burst: int = 4, remembered: int = 65_536) -> None:
        self.now = 1000.0
        self.junk = JunkBudgets(per_s=per_s, burst=burst, remembered=remembered, clock=lambda: self.now)

    def wait(self, address: Address) -> int | None:
        """Seconds that the address is told to wait, None when it need not."""
        try:
            self.junk.check(address)
        except Refusal as refused:
            return refused.retry_after
        return None

    def claim(self, address: Address, hotkey: str) -> bool:
        try:
            self.junk.reserve(address, hotkey)
        except Refusal:
            return False
        return True


A, B = Address(b"\x0a\0\0\1"), Address(b"\x0a\0\0\2")


def test_a_burst_of_junk_then_the_sustained_rate() -> None:
    books = Books()
    for _ in range(4):
        assert books.wait(A) is None
        books.junk.charge(A)
    assert books.junk.spent(A)
    with pytest.raises(Refusal) as refused:
        books.junk.check(A)
    assert (refused.value.status, refused.value.code, refused.value.retry_after) == (429, "address_over_budget", 1)
    assert books.wait(B) is None
    books.now += 0.5
    assert books.wait(A) is None
    books.junk.charge(A)
    assert books.wait(A) == 1
    books.now += 3600
    for _ in range(4):
        books.junk.charge(A)
    assert books.wait(A) == 1  # a long rest gives no more than the burst


def test_junk_beyond_the_budget_does_not_lengthen_the_wait() -> None:
    books = Books(per_s=0.1)
    for _ in range(1000):
        books.junk.charge(A)
    assert books.wait(A) == 20  # the one that was charged too much, and room for the next


def test_a_claim_of_a_welcome_hotkey_has_books_of_its_own_and_a_true_one_costs_nothing() -> None:
    books = Books()
    for _ in range(100):
        books.junk.charge(A)
    for _ in range(100):
        assert books.claim(A, "alice")
        books.junk.restore(A, "alice")
    assert [books.claim(A, "alice") for _ in range(5)] == [True] * 4 + [False]
    assert books.claim(A, "bob")
    assert books.claim(B, "alice")


def test_who_spent_nothing_is_not_remembered() -> None:
    books = Books()
    assert books.claim(A, "alice")
    assert len(books.junk) == 1
    books.junk.restore(A, "alice")
    assert len(books.junk) == 0


def test_memory_is_bounded_under_a_flood_from_many_addresses_and_freed_after_it() -> None:
    books = Books(remembered=100)
    for number in range(10_000):
        books.junk.charge(Address(number.to_bytes(4, "big")))
        assert len(books.junk) <= 100
    for _ in range(3):
        books.now += 10
        books.junk.charge(A)
    assert len(books.junk) == 2  # its number in either dict


def test_turning_the_books_forgets_no_debt() -> None:
    books = Books(per_s=1.0, burst=4)
    books.now += 3.9
    for _ in range(4):
        books.junk.charge(A)
    books.now += 0.2  # the young book is older than a budget takes to be whole
    books.junk.charge(B)
    assert books.wait(A) == 1


@given(st.lists(st.tuples(st.sampled_from(["charge", "claim", "true", "rest"]), st.integers(0, 3)), max_size=60))
def test_no_address_gets_more_than_burst_and_rate(steps: list[tuple[str, int]]) -> None:
    books = Books(per_s=1.0, burst=3, remembered=10_000)
    started, spent = books.now, dict.fromkeys(range(4), 0)
    for step, who in steps:
        address = Address(bytes([who] * 4))
        if step == "rest":
            books.now += 0.5
        elif step == "charge" and books.wait(address) is None:
            books.junk.charge(address)
            spent[who] += 1
        elif books.claim(address, "alice") and step == "true":
            books.junk.restore(address, "alice")
    assert all(count <= 3 + (books.now - started) for count in spent.values())
