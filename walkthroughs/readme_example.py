from graphflow import Agent, Task

agent = Agent()


@agent.node
def chunks(task):
    data = task.params["data"]
    return [data[i : i + 3] for i in range(0, len(data), 3)]


@agent.node(map_over="chunks", max_concurrency=100, max_retries=3)
async def double(chunk):  # in a map, the first parameter is the item
    return [n * 2 for n in chunk]


@agent.node
def combine(double):  # the map's results, in input order
    return [n for part in double for n in part]


if __name__ == "__main__":
    task = Task(type="numbers", objective="double", params={"data": list(range(20))})
    outcome = agent.run_task_sync(task)
    print(outcome.status, outcome["combine"])
