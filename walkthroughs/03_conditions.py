"""Branch and merge, retry, on_error: the way through a graph depends on data, and on what fails."""

from graphflow import Agent, NonRetryableException, Task

# A branch and a merge: one of two nodes runs, and what follows takes whichever there is.

shipping = Agent()


@shipping.node
def kilos(task):
    return task.params["kilos"]


@shipping.decide(after="kilos", to=["letter", "freight"])
def size(kilos):
    return "letter" if kilos < 2 else "freight"


@shipping.node(dependencies=["size"])
def letter(kilos):
    return f"letter of {kilos} kg: 3 EUR"


@shipping.node(dependencies=["size"])
def freight(kilos):
    return f"freight of {kilos} kg: {10 + 2 * kilos} EUR"


@shipping.node(condition="kilos > 30")  # a condition skips a node without a failure
def permit(kilos):
    return f"permit for {kilos} kg"


@shipping.node
def offer(letter, freight, permit):  # what was skipped is None
    return ", ".join(part for part in (letter, freight, permit) if part)


# Retry: a run that raises is repeated after a pause, up to `max_retries` attempts in total.

fetching = Agent()
replies = iter([ConnectionError("reset by peer"), ConnectionError("reset by peer"), "hello"])


@fetching.node(max_retries=3)
def page():
    reply = next(replies)
    if isinstance(reply, ConnectionError):
        raise reply
    return reply


@fetching.node
def length(page):
    return len(page)


# on_error: the named node runs when this one has failed for good, and finds the failure in the state key `errors`.
# A decision then leads back: `charge` starts again and the run ends complete. A node that a decision names waits to be
# chosen, so `start=True` tells `charge` to begin.

charging = Agent()


@charging.node(start=True, on_error="choose_other_card")
async def charge(cache):
    card = await cache.get("card")
    if card == "expired":
        raise NonRetryableException(f"card {card} was refused")
    return f"paid with card {card}"


@charging.node(inputs=["errors"])
async def choose_other_card(errors, cache):
    await cache.set("card", "spare")
    return errors[-1]["error"]


@charging.decide(after="choose_other_card", to="charge")
def charge_again():
    return "charge"


# Without a way back the handler only cleans up. Something failed and was not made good: the run ends partial.

storing = Agent()


@storing.node(on_error="discard")
def store():
    raise NonRetryableException("the disk is full")


@storing.node(inputs=["errors"])
def discard(errors):
    return f"discarded, because {errors[-1]['node']} failed"


@storing.node
def log():
    return "one line logged"


def main():
    for weight in (1, 40):
        outcome = shipping.run_task_sync(Task(type="shipping", params={"kilos": weight}))
        skipped = [name for name, node in outcome.node_results.items() if node.status == "skipped"]
        print(f"{outcome['offer']} (skipped: {', '.join(skipped)})")

    outcome = fetching.run_task_sync(Task(type="fetching"))
    attempts = outcome.node_results["page"].attempts
    print(f"{outcome.status}: {outcome['length']} characters, {attempts} attempts")

    outcome = charging.run_task_sync(Task(type="charging"), state={"card": "expired"})
    visits = outcome.node_results["charge"].visits
    print(f"{outcome.status}: {outcome['charge']}, {visits} visits")
    print(f"  handled: {outcome['choose_other_card']}")

    outcome = storing.run_task_sync(Task(type="storing"))
    print(f"{outcome.status}: {outcome['log']}, {outcome['discard']}")
    print(f"  {outcome.error}")


if __name__ == "__main__":
    main()
