"""Serve every flow with its schedule from one process: ``python -m flows.deployments``.

Schedules are minutes or more, staggered: Prefect's SQLite wants one writer, and a small box one flow at a time.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.runner import prepare
from infra.ports import endpoints, need
from infra.settings import Settings, load_settings
from serving.errors import UserError

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

AT_ONCE = 2
"""Flow runs at the same time."""


class Plan(NamedTuple):
    """A flow on a schedule."""

    flow: str
    """Its name in `flows.orchestrated`."""
    name: str
    parameters: dict[str, Any]
    every: timedelta
    first: timedelta
    """From the start of serving to the first run."""


def plans(settings: Settings) -> list[Plan]:
    """What runs when: prices and scores for the miner, then training, gate and rollout for each slot."""
    minute, hour = timedelta(minutes=1), timedelta(hours=1)
    made = [
        Plan("ingest", "ingest", {}, hour, 20 * minute),
        Plan("outcomes", "outcomes", {}, 15 * minute, 9 * minute),
    ]
    for number, slot in enumerate(settings.all_slots):
        late = number * 2 * minute
        made += [
            Plan("retrain", f"retrain-{slot}", {"slot": slot, "actor": "schedule"}, 24 * hour, hour + late),
            Plan(
                "gate", f"gate-{slot}",
                {"slot": slot, "actor": "schedule", "promote": True, "waiting_only": True}, hour, 30 * minute + late,
            ),
            Plan("rollout", f"rollout-{slot}", {"slot": slot}, 5 * minute, 5 * minute + late),
        ]  # fmt: skip
    return made


def deployments(settings: Settings) -> list[RunnerDeployment]:
    """The plans as Prefect deployments; Prefect's environment is set already."""
    from prefect.schedules import Interval
    from prefect.types.entrypoint import EntrypointType

    from flows import orchestrated

    now = datetime.now(UTC)
    return [
        getattr(orchestrated, plan.flow).to_deployment(
            plan.name,
            schedule=Interval(plan.every, anchor_date=now + plan.first),
            parameters=plan.parameters,
            tags=["headframe", *([plan.parameters["slot"]] if "slot" in plan.parameters else [])],
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for plan in plans(settings)
    ]


def main() -> None:
    """Serve until stopped."""
    settings = load_settings()
    prepare(settings, need(endpoints(settings).prefect, "Prefect") + "/api")
    from prefect import serve

    serve(*deployments(settings), limit=AT_ONCE, print_starting_message=False)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"flows: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
