from __future__ import annotations

import time

from graphflow.state.footprint import KEY_SET, WHOLE_STATE, Footprint, node_key
from graphflow.state.tickets import Ticket, TicketLine


def footprint(reads: str = "", writes: str = "", lost: str | None = None) -> Footprint:
    """Keys as words; what was read was lost unless said otherwise."""
    return Footprint(
        frozenset(reads.split()),
        frozenset(writes.split()),
        frozenset((reads if lost is None else lost).split()),
    )


def lost(line: TicketLine, kind: str, reads: str = "", writes: str = "") -> Ticket:
    return line.conflict(None, object(), kind, footprint(reads, writes))


def test_line_is_empty_until_somebody_loses() -> None:
    line = TicketLine()
    assert line.is_empty
    assert not line.needs_ticket("count")
    assert not line.holds({"a"}, True, than=None)

    ticket = lost(line, "count", "a", "a")
    line.leave(ticket)

    assert not line.is_empty
    assert line.needs_ticket("count")
    assert not line.needs_ticket("other")


def test_later_runs_of_a_kind_know_the_keys_that_it_lost() -> None:
    line = TicketLine()
    first = line.conflict(None, 1, "count", footprint("counter own", "counter own", lost="counter"))

    second = line.take(2, "count")

    assert first.reads == {"counter", "own"}
    assert second.reads == {"counter"}
    assert "counter" in second.writes
    assert "own" not in second.writes
    assert line.may_start(first)
    assert not line.may_start(second)


def test_readers_of_one_key_start_together() -> None:
    line = TicketLine()
    tickets = [lost(line, "reader", "config") for _ in range(3)]

    assert all(line.may_start(ticket) for ticket in tickets)


def test_reader_waits_for_an_older_writer_and_a_writer_for_an_older_reader() -> None:
    line = TicketLine()
    writer, reader, later_writer = (
        lost(line, "w", "x", "config"),
        lost(line, "r", "config"),
        lost(line, "w2", "y", "config"),
    )

    assert [line.may_start(ticket) for ticket in (writer, reader, later_writer)] == [True, False, False]
    line.leave(writer)
    assert [line.may_start(ticket) for ticket in (reader, later_writer)] == [True, False]
    line.leave(reader)
    assert line.may_start(later_writer)


def test_blind_writers_of_one_key_do_not_wait_for_each_other() -> None:
    line = TicketLine()
    tickets = [lost(line, "item", "config", "log") for _ in range(3)]

    assert all(line.may_start(ticket) for ticket in tickets)


def test_declared_outputs_count_from_the_start() -> None:
    line = TicketLine()
    lost(line, "reader", "config")

    announced = line.take(1, "writer", outputs=["config"])
    later = line.take(2, "reader")

    assert not line.may_start(announced)
    assert not line.may_start(later)


def test_repeated_run_keeps_its_place() -> None:
    line = TicketLine()
    first, second = lost(line, "count", "a", "a"), lost(line, "count", "a", "a")
    line.started(first)

    again = line.conflict(first, "owner", "count", footprint("a b", "a"))

    assert again is first
    assert again.conflicts == 2
    assert not line.holds({"a"}, False, than=None), "it does not run"
    assert line.may_start(first)
    assert not line.may_start(second)


def test_commit_waits_only_for_running_tickets_that_are_older() -> None:
    line = TicketLine()
    older, younger = lost(line, "a", "x"), lost(line, "b", "y")
    assert not line.holds({"x"}, False, than=None)

    line.started(older)
    line.started(younger)

    assert line.holds({"x"}, False, than=None)
    assert line.holds({"x"}, False, than=younger)
    assert not line.holds({"x", "y"}, False, than=older)
    assert not line.holds({"z"}, False, than=None)
    assert not line.holds((), False, than=None)
    line.stopped(older)
    assert not line.holds({"x"}, False, than=younger)


def test_what_a_running_ticket_only_writes_is_not_held() -> None:
    line = TicketLine()
    line.started(lost(line, "a", "x", "log"))

    assert not line.holds({"log"}, False, than=None)


def test_set_of_keys_is_held_only_against_commits_that_change_it() -> None:
    line = TicketLine()
    line.started(line.conflict(None, 1, "lister", footprint(KEY_SET)))

    assert not line.holds({"a"}, False, than=None)
    assert line.holds({"a"}, True, than=None)


def test_reader_of_the_whole_state_is_held_against_any_change_and_waits_for_any_writer() -> None:
    line = TicketLine()
    writer = lost(line, "w", "x", "a")
    reader = line.conflict(None, 1, "dump", footprint(WHOLE_STATE))
    other_reader = line.conflict(None, 2, "dump", footprint(WHOLE_STATE))

    assert not line.may_start(reader)
    line.leave(writer)
    assert line.may_start(reader)
    assert line.may_start(other_reader)
    line.started(reader)
    assert line.holds({"anything"}, False, than=None)


def test_result_of_a_node_is_held_like_a_key() -> None:
    line = TicketLine()
    line.started(line.conflict(None, 1, "combine", footprint(node_key("double"))))

    assert line.holds({node_key("double")}, False, than=None)
    assert not line.holds({"double"}, False, than=None)


def test_from_the_third_conflict_on_a_ticket_covers_the_whole_state() -> None:
    line = TicketLine()
    older, ticket = lost(line, "other", "x"), lost(line, "chase", "a")
    line.conflict(ticket, 1, "chase", footprint("b"))
    assert line.may_start(ticket)

    line.conflict(ticket, 1, "chase", footprint("c"))
    younger = lost(line, "another", "unrelated")

    assert ticket.whole
    assert not line.may_start(ticket)
    assert not line.may_start(younger)
    line.leave(older)
    assert line.may_start(ticket)
    line.started(ticket)
    assert line.holds({"anything"}, False, than=younger)
    assert line.holds({"anything"}, False, than=None)
    line.leave(ticket)
    assert line.may_start(younger)
    assert not line.holds({"anything"}, False, than=None)


def test_parked_run_takes_a_place_and_its_reads_are_held() -> None:
    line = TicketLine()
    reader = lost(line, "r", "config")
    line.started(reader)

    parked = line.park(None, "owner", "writer", footprint("mine", "config", lost=""))
    later_reader = line.take(3, "r")

    assert not line.needs_ticket("writer")
    assert line.holds({"config"}, False, than=parked)
    assert line.holds({"mine"}, False, than=later_reader)
    assert not line.may_start(later_reader)
    line.leave(reader)
    assert not line.holds({"config"}, False, than=parked)
    assert line.park(parked, "owner", "writer", footprint("mine", "config", lost="")) is parked


def test_kind_learns_what_it_writes_from_runs_that_come_to_their_end() -> None:
    line = TicketLine()
    stopped_early = lost(line, "count", "counter")
    assert line.may_start(line.take(1, "count"))

    line.leave(stopped_early, written={"counter", "unrelated"})
    first, second = line.take(2, "count"), line.take(3, "count")

    assert "unrelated" not in first.writes
    assert not line.may_start(second)


def test_leaving_twice_is_no_error() -> None:
    line = TicketLine()
    ticket = lost(line, "a", "x", "x")
    line.started(ticket)

    line.leave(ticket)
    line.leave(ticket)

    assert not line.holds({"x"}, False, than=None)
    assert line.may_start(line.take(1, "a"))


def test_older_ticket_that_learns_a_key_late_goes_before_younger_ones() -> None:
    line = TicketLine()
    oldest, younger = lost(line, "a", "x", "x"), lost(line, "b", "y", "y")
    assert line.may_start(younger)

    line.conflict(oldest, 1, "a", footprint("y", "y"))

    assert line.may_start(oldest)
    assert not line.may_start(younger)


def test_line_of_many_tickets_is_worked_through_in_linear_time() -> None:
    def seconds(count: int) -> float:
        line = TicketLine()
        lost(line, "count", "counter", "counter")
        waiting = [line.take(number, "count") for number in range(count)]
        started = time.process_time()
        for ticket in [next(iter(line._line)), *waiting]:
            assert line.may_start(ticket)
            line.started(ticket)
            line.leave(ticket)
        return time.process_time() - started

    small = min(seconds(1_000) for _ in range(3))
    large = min(seconds(10_000) for _ in range(3))

    assert large < small * 40
