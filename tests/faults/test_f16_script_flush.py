"""F16: a server that forgets its scripts, between any two calls or between the loading of one and its first call."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphflow.store.scripts import script
from tests.contract.driving import raw
from tests.faults.disturbing import again_and_again
from tests.faults.graphs import FORMS, Form, answer_of, executions
from tests.faults.harness import Job, looking_at
from tests.faults.invariants import check_run
from tests.helpers import run
from tests.servers import RealServer


@pytest.mark.parametrize("form", FORMS)
def test_run_completes_although_scripts_are_forgotten_all_the_time(
    form: Form, redis_server: RealServer, tmp_path: Path
) -> None:
    job = Job(redis_server.url, tmp_path.name, form, tmp_path / "bodies.log", lease_seconds=0.5)
    with looking_at(redis_server.url) as client:
        with again_and_again(client.script_flush, 0.005):
            victim = job.start()
            outcome = victim.finish()

        assert outcome == {"status": "complete", "error": None, "answer": answer_of(form)}
        assert "NOSCRIPT" not in victim.errors
        check_run(client, job.run_id, form)
    if form == "map":
        assert set(executions(job.log).values()) == {1}


def test_script_that_is_forgotten_after_it_was_loaded_is_sent_whole(redis_url: str) -> None:
    async def main() -> None:
        client = await raw(redis_url)
        try:
            await client.script_load(script("renew").text)
            await client.script_flush()

            assert await script("renew").run(
                client, ["gf:run:{none}:lease", "gf:run:{none}:inbox"], ["t", 1]
            ) == ["lost"]
        finally:
            await client.aclose()

    run(main())
