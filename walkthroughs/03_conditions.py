"""Branch and merge, retry, and on_error: what happens when the way through a graph depends on data, or something fails."""

from graphflow import Agent, NonRetryableException, RunResult, Task

# A branch and a merge: exactly one of two nodes runs, and what follows takes whichever there is.

shipping = Agent()


@shipping.node
def parcel(task):
    return task.params["kilos"]


@shipping.decide(after="parcel", to=["letter", "freight"])
def size(parcel):
    return "letter" if parcel < 2 else "freight"


@shipping.node(dependencies=["size"])
def letter(parcel):
    return f"letter of {parcel} kg: 3 EUR"


@shipping.node(dependencies=["size"])
def freight(parcel):
    return f"freight of {parcel} kg: {10 + 2 * parcel} EUR"


@shipping.node
def offer(letter, freight):  # the one that was skipped is None
    return letter or freight


# A condition skips a node; what depends on it alone is skipped with it.


@shipping.node(condition="parcel > 30")
def permit(parcel):
    return "needs a permit"


# Retry: an attempt that raises is repeated, up to max_retries attempts in total.

fetching = Agent()
replies = {"page": iter([ConnectionError("connection reset"), ConnectionError("connection reset"), "hello"])}


@fetching.node(max_retries=3)
def page():
    reply = next(replies["page"])
    if isinstance(reply, Exception):
        raise reply
    return reply


@fetching.node
def length(page):
    return len(page)


# on_error: a node that runs when another has failed for good. The failures are in the state key `errors`.

charging = Agent()


@charging.node(start=True, on_error="choose_other_card")  # a decision names it, so it must be told to begin
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
def try_again():
    return "charge"


# Without a way back the handler only cleans up: the run has a failure that nothing made good.

storing = Agent()


@storing.node(on_error="discard")
def store():
    raise NonRetryableException("the disk is full")


@storing.node(inputs=["errors"])
def discard(errors):
    return f"discarded, because {errors[-1]['node']} failed"


@storing.node
def log_entry():
    return "stored one file"


def run(agent: Agent, type: str, **options) -> RunResult:
    return agent.run_task_sync(Task(type=type, params=options.pop("params", {})), **options)


def main() -> None:
    for kilos in (1, 40):
        outcome = run(shipping, "shipping", params={"kilos": kilos})
        nodes = ", ".join(f"{name} {node.status}" for name, node in outcome.node_results.items())
        print(f"{outcome['offer']} ({nodes})")

    outcome = run(fetching, "fetching")
    print(f"{outcome.status}: {outcome['length']} characters after {outcome.node_results['page'].attempts} attempts")

    outcome = run(charging, "charging", state={"card": "expired"})
    print(f"{outcome.status}: {outcome['charge']}, {outcome.node_results['charge'].visits} visits")
    print(f"handled: {outcome['choose_other_card']}")

    outcome = run(storing, "storing")
    print(f"{outcome.status}: {outcome.result}; {outcome['discard']}")
    print(f"failures: {outcome.failures[0]}")


if __name__ == "__main__":
    main()
