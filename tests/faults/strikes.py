"""The faults that `test_chaos_soak` draws from, by their numbers in the catalogue.

A strike is over when its function returns, except that a slow network stays slow: what comes next meets what is left of
the strikes before. F7 and F8 are one, for each run draws how its server keeps its log. F32, F33 and F34 are kinds of run.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

from tests.faults.chaos import LEASE_SECONDS, Chaos
from tests.faults.disturbing import again_and_again
from tests.faults.proxy import calls_of

#: Seconds that the server stands still: longer than a lease, and than a reply may take.
STANDSTILL_SECONDS = 1.2
#: Scripts whose calls are cut.
SCRIPTS = ("create", "acquire", "commit", "renew", "release")
#: Where a process dies by itself: the places of the commit points.
PLACES = (
    "create.after_reply",
    "lease.acquire",
    "lease.acquired",
    "lease.takeover",
    "lease.renew",
    "lease.release",
    "attempt.launched",
    "body.running",
    "attempt.returned",
    "outcome.taken",
    "decision.made",
    "map.opened",
    "map.entered",
    "commit.before_send",
    "commit.after_reply",
    "commit.acknowledged",
    "run.ended",
    "expire.before",
)


# Processes


def kill_one(chaos: Chaos) -> None:
    place = chaos.place()
    chaos.victims[place].kill()
    chaos.victims[place] = chaos.start().wait_begun()


def kill_at_commit_point(chaos: Chaos) -> None:
    """Kill all; who goes on is killed by itself."""
    _kill_together(chaos)
    failpoint = f"{chaos.numbers.choice(PLACES)}@{chaos.numbers.randint(1, 3)}=kill"
    chaos.victims = [chaos.start(failpoint).wait_begun(), chaos.start().wait_begun()]


def kill_all(chaos: Chaos) -> None:
    """One comes back at once, the other when the lease may have ended."""
    _kill_together(chaos)
    chaos.victims = [chaos.start().wait_begun()]
    chaos.wait(2 * LEASE_SECONDS)
    chaos.victims.append(chaos.start().wait_begun())


def race(chaos: Chaos) -> None:
    """Kill all; two start at the same instant."""
    _kill_together(chaos)
    barrier = chaos.job.log.with_suffix(f".barrier-{len(chaos.story)}")
    chaos.victims = [chaos.start("", "--barrier", str(barrier)) for _ in range(2)]
    for victim in chaos.victims:
        victim.wait_begun()
    barrier.touch()


def _kill_together(chaos: Chaos) -> None:
    # Before any is reaped: who is left for a moment would take the run over, and die with it.
    for victim in chaos.victims:
        victim.send(signal.SIGKILL)
    for victim in chaos.victims:
        victim.kill()


def stop(chaos: Chaos) -> None:
    """The one that drives the run, mostly for longer than its lease."""
    victim = chaos.victims[chaos.driver()]
    victim.send(signal.SIGSTOP)
    chaos.wait(4 * LEASE_SECONDS)
    victim.send(signal.SIGCONT)


def drain(chaos: Chaos) -> None:
    """The one that drives the run, while the other waits for it."""
    place = chaos.driver()
    victim = chaos.victims[place]
    victim.send(signal.SIGTERM)
    code, _ = victim.ended()
    # Python takes its handlers away at its very end.
    if code not in (0, -signal.SIGTERM):
        chaos.check_death(victim)
    chaos.victims[place] = chaos.start().wait_begun()


def cancel(chaos: Chaos) -> None:
    chaos.cancellers.append(chaos.start("", "--cancel"))


# The server


def crash_server(chaos: Chaos) -> None:
    chaos.server.kill()
    chaos.wait(0.4)
    chaos.server.start()


def lose_tail(chaos: Chaos) -> None:
    """Go on with the log of a moment ago, or without its last bytes."""
    log = chaos.server.log_file.read_bytes()
    chaos.wait(0.5)
    chaos.about_to_lose()
    if chaos.happens():
        log = chaos.server.log_file.read_bytes()
        log = log[: max(0, len(log) - chaos.numbers.randint(1, 3000))]
    chaos.server.restart_with(log)


def lose_everything(chaos: Chaos) -> None:
    chaos.about_to_lose()
    if chaos.happens():
        with chaos.looking() as client:
            client.flushall()
    else:
        chaos.server.restart_empty()


def forget_scripts(chaos: Chaos) -> None:
    with chaos.looking() as client, again_and_again(client.script_flush, 0.01):
        chaos.wait(0.6)


def drop_clients(chaos: Chaos) -> None:
    with (
        chaos.looking() as client,
        again_and_again(lambda: client.client_kill_filter(_type="normal", skipme=True), 0.05),
    ):
        chaos.wait(0.6)


def stand_still(chaos: Chaos) -> None:
    with chaos.looking() as client:
        if chaos.happens():
            client.execute_command("DEBUG", "SLEEP", STANDSTILL_SECONDS)
        else:
            client.execute_command("CLIENT", "PAUSE", int(STANDSTILL_SECONDS * 1000), "ALL")
            client.ping()


def fill_memory(chaos: Chaos) -> None:
    with chaos.looking() as client:
        client.config_set("maxmemory", 1)
        chaos.wait(1.5)
        client.config_set("maxmemory", 0)


# The network


def lose_replies(chaos: Chaos) -> None:
    _cut(chaos, after=True, resets=False)


def lose_calls(chaos: Chaos) -> None:
    _cut(chaos, after=False, resets=chaos.happens())


def _cut(chaos: Chaos, *, after: bool, resets: bool) -> None:
    for script in chaos.numbers.sample(SCRIPTS, 2):
        turns = range(1, chaos.numbers.randint(2, 4))
        chaos.proxy.cut(calls_of(script), after=after, resets=resets, turns=turns)
    chaos.wait(0.8)
    chaos.proxy.cut_no_more()


def reset(chaos: Chaos) -> None:
    with again_and_again(lambda: chaos.beside.run(chaos.proxy.reset()), 0.05):
        chaos.wait(0.6)


def refuse(chaos: Chaos) -> None:
    chaos.beside.run(chaos.proxy.refuse(chaos.numbers.uniform(0, 1)))


def swallow(chaos: Chaos) -> None:
    chaos.proxy.holes |= chaos.numbers.choice(({"run"}, {"lease"}, {"run", "lease"}))
    chaos.wait(3 * LEASE_SECONDS)
    chaos.proxy.holes.clear()


def slow_down(chaos: Chaos) -> None:
    mean = chaos.numbers.choice((0.002, 0.01, 0.04))
    jitter = random.Random(chaos.numbers.random())
    chaos.proxy.latency = lambda: mean * jitter.uniform(0.5, 1.5)
    chaos.proxy.piece_bytes = chaos.numbers.choice((0, 0, 1, 7))


#: For every kind of run that does not exclude it.
STRIKES: dict[str, Callable[[Chaos], None]] = {
    "F1 commit point": kill_at_commit_point,
    "F2 kill": kill_one,
    "F3 kill all": kill_all,
    "F4 race": race,
    "F5 stop": stop,
    "F6 drain": drain,
    "F7 F8 F11 server crash": crash_server,
    "F9 lost tail": lose_tail,
    "F10 lost data": lose_everything,
    "F12 lost replies": lose_replies,
    "F13 lost calls": lose_calls,
    "F13 reset": reset,
    "F13 refuse": refuse,
    "F14 black hole": swallow,
    "F15 slow network": slow_down,
    "F16 script flush": forget_scripts,
    "F17 client kill": drop_clients,
    "F18 standstill": stand_still,
    "F19 full memory": fill_memory,
}
#: For the kinds that are cancelled, each time.
CANCEL = "F33 cancel"
ALL_STRIKES = STRIKES | {CANCEL: cancel}
