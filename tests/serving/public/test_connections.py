"""Who may connect when there are too many."""

from __future__ import annotations

import resource

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.public.connections import LINGERING, LINGERING_EACH, Connections, open_files
from serving.public.origins import Address

A, B, C = (Address(bytes([10, 0, 0, last])) for last in (1, 2, 3))


class Caller:
    """A connection, from outside."""

    gone = False

    def __init__(self, connections: Connections, address: Address | None) -> None:
        self.connections, self.address = connections, address
        self.dropped = self.proven = False
        self.verdict = connections.admit(address, self)

    def prove(self) -> None:
        self.proven = True
        assert self.address is not None
        self.connections.forget(self.address, self)

    def drop(self) -> None:
        self.dropped = True

    def break_off(self) -> None:
        raise AssertionError("no reply is under way")

    def linger(self) -> bool:
        return self.connections.linger(self.address or Address(b""), self)

    def leave(self) -> None:
        self.connections.leave(self.address or Address(b""), self)


def test_one_address_holds_so_many_and_no_more() -> None:
    house = Connections(total=100, per_address=2)
    first, second, third = (Caller(house, A) for _ in range(3))
    assert [each.verdict for each in (first, second, third, Caller(house, B))] == ["", "", "address", ""]
    first.leave()
    assert Caller(house, A).verdict == ""


def test_connections_that_proved_a_signature_do_not_count_against_their_address() -> None:
    house = Connections(total=100, per_address=2)
    for _ in range(10):
        caller = Caller(house, A)
        assert caller.verdict == ""
        caller.prove()
    assert house.count == 10


def test_a_trusted_proxy_has_no_limit_of_its_own() -> None:
    house = Connections(total=10, per_address=2)
    assert [Caller(house, None).verdict for _ in range(11)] == [""] * 10 + ["total"]


def test_in_a_full_house_the_newest_of_the_heaviest_makes_room() -> None:
    house = Connections(total=6, per_address=100)
    heavy = [Caller(house, A) for _ in range(4)]
    light = [Caller(house, B) for _ in range(2)]
    newcomer = Caller(house, C)
    assert newcomer.verdict == ""
    assert [each.dropped for each in heavy] == [False, False, False, True]
    heavy[3].leave()
    assert Caller(house, A).verdict == "total"  # it would be the heaviest itself
    assert not any(each.dropped for each in (*light, newcomer))


def test_newcomers_in_one_breath_close_one_each() -> None:
    house = Connections(total=5, per_address=100)
    heavy = [Caller(house, A) for _ in range(5)]
    assert [Caller(house, address).verdict for address in (B, C)] == ["", ""]
    assert [each.dropped for each in heavy] == [False, False, False, True, True]


def test_proven_connections_are_never_closed_for_another() -> None:
    house = Connections(total=3, per_address=100)
    proven = [Caller(house, A) for _ in range(3)]
    for each in proven:
        each.prove()
    assert Caller(house, B).verdict == "total"
    assert not any(each.dropped for each in proven)


def test_only_so_many_linger_and_none_where_half_the_house_is_taken() -> None:
    house = Connections(total=2 * LINGERING + 2, per_address=1000)
    callers = [Caller(house, Address(number.to_bytes(4, "big"))) for number in range(LINGERING + 1)]
    assert [each.linger() for each in callers] == [True] * LINGERING + [False]
    callers[0].leave()
    assert callers[-1].linger()
    for each in callers[1:]:
        each.leave()
    callers = [Caller(house, A) for _ in range(LINGERING + 2)]
    assert not callers[0].linger()


def test_one_address_takes_no_more_than_its_part_of_the_places_to_linger() -> None:
    house = Connections(total=1000, per_address=1000)
    greedy = [Caller(house, A) for _ in range(LINGERING_EACH + 1)]
    assert [each.linger() for each in greedy] == [True] * LINGERING_EACH + [False]
    assert Caller(house, B).linger()
    greedy[0].leave()
    assert greedy[-1].linger()


def test_in_a_full_house_who_lingers_goes_first_and_the_longest_of_them_even_if_it_is_proven() -> None:
    house = Connections(total=4, per_address=100)
    proven, other = Caller(house, A), Caller(house, B)
    proven.prove()
    assert proven.linger()
    assert other.linger()
    rest = [Caller(house, A) for _ in range(2)]
    assert Caller(house, C).verdict == ""
    assert (proven.dropped, other.dropped) == (True, False)
    proven.leave()
    assert Caller(house, C).verdict == ""
    assert other.dropped
    assert not any(each.dropped for each in rest)


class House(RuleBasedStateMachine):
    """Whoever comes and goes, the count is right, the limits hold, and only who lingers or the heaviest is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.house = Connections(total=6, per_address=4)
        self.there: list[Caller] = []
        self.lingering: list[Caller] = []

    def tally(self, address: Address) -> int:
        return sum(each.address == address and not each.proven for each in self.there)

    @rule(address=st.sampled_from([A, B, C, None]))
    def come(self, address: Address | None) -> None:
        tallies = {each: self.tally(each) for each in (A, B, C)}
        full = len(self.there) == 6
        caller = Caller(self.house, address)
        dropped = [each for each in self.there if each.dropped]
        if address is not None and tallies[address] == 4:
            assert caller.verdict == "address"
        elif full and not self.lingering and max(tallies.values()) <= (tallies[address] if address else 0) + 1:
            assert caller.verdict == "total"
        else:
            assert caller.verdict == ""
            self.there.append(caller)
            assert len(dropped) == full
        for each in dropped:
            if self.lingering:
                assert each is self.lingering.pop(0)
            else:
                assert each.address is not None
                assert not each.proven
                assert tallies[each.address] == max(tallies.values())
            self.there.remove(each)
            each.leave()

    @precondition(lambda self: self.there)
    @rule(pick=st.integers(0, 9))
    def leave(self, pick: int) -> None:
        caller = self.there.pop(pick % len(self.there))
        caller.leave()
        if caller in self.lingering:
            self.lingering.remove(caller)

    @precondition(lambda self: len(self.there) > len(self.lingering))
    @rule(pick=st.integers(0, 9))
    def linger(self, pick: int) -> None:
        able = [each for each in self.there if each not in self.lingering]
        caller = able[pick % len(able)]
        may = caller.linger()
        assert may == (len(self.there) <= 3)
        if may:
            self.lingering.append(caller)

    @precondition(lambda self: any(each.address for each in self.there))
    @rule(pick=st.integers(0, 9))
    def prove(self, pick: int) -> None:
        able = [each for each in self.there if each.address]
        able[pick % len(able)].prove()

    @invariant()
    def the_count_is_right(self) -> None:
        assert self.house.count == len(self.there) <= 6
        assert sum(len(held) for held in self.house._held.values()) == sum(map(self.tally, (A, B, C)))


House.TestCase.settings = settings(max_examples=100, deadline=None)
TestHouse = House.TestCase


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
        found = open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
        assert found == before[1] or before[1] == resource.RLIM_INFINITY
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
