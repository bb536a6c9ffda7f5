#!/usr/bin/env python3
"""A stateful framework on the unmodified pymesos library: in one ACCEPT it reserves, creates a volume and launches a task
that writes to it; when a file says so it launches another that reads it; then it destroys the volume and gives the
reservation back.

Prints (or writes to --output) one JSON object for each event of interest, then a summary. Exit code 0 only if all went
as it should.
"""

import argparse
import os
import sys
import time

from pymesos_common import Client

VOLUME, TEXT = "ledger", "kept through it all"


def options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masters", default="127.0.0.1:5050", help="HOST:PORT,...: the first; others when it is lost")
    parser.add_argument("--role", default="db")
    parser.add_argument("--gate", help="the volume is read once this file is there")
    parser.add_argument("--feedback", action="store_true", help="operations have ids, and their ends are waited for")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds until it gives up")
    parser.add_argument("--output", help="file for the lines, instead of stdout")
    return parser.parse_args()


def scalar(name, value, **more):
    return dict(name=name, type="SCALAR", scalar=dict(value=value), **more)


class Framework(Client):
    """Its stage says what the next offer is for: write, written, read, destroy, gone."""

    def __init__(self, args):
        super().__init__(args)
        self.stage = "write"
        self.states = {}
        self.operations = {}
        reservation = dict(type="DYNAMIC", role=args.role, principal="stateful")
        self.reserved = [scalar(name, value, reservations=[reservation])
                         for name, value in (("cpus", 0.2), ("mem", 32.0), ("disk", 16.0))]
        self.volume = dict(self.reserved[2], disk=dict(
            persistence=dict(id=VOLUME, principal="stateful"),
            volume=dict(mode="RW", container_path=VOLUME)))

    def answer(self, driver, offer):
        resources = offer["resources"]
        volumes = [one["disk"]["persistence"]["id"] for one in resources
                   if one.get("disk", {}).get("persistence", {}).get("id")]
        reserved = [one["name"] for one in resources if one.get("reservations")]
        self.say("OFFER", agent=offer["agent_id"]["value"], volumes=volumes, reserved=reserved, stage=self.stage)
        operations = []
        if self.stage == "write" and not reserved:
            operations = [
                self.operation("RESERVE", reserve=dict(resources=self.reserved)),
                self.operation("CREATE", create=dict(volumes=[self.volume])),
                self.launch(offer, "writer", f"echo '{TEXT}' > {VOLUME}/text"),
            ]
            self.stage = "writing"
        elif self.stage == "read" and VOLUME in volumes:
            operations = [self.launch(offer, "reader", f"grep -x '{TEXT}' {VOLUME}/text")]
            self.stage = "reading"
        elif self.stage == "destroy" and VOLUME in volumes:
            operations = [
                self.operation("DESTROY", destroy=dict(volumes=[self.volume])),
                self.operation("UNRESERVE", unreserve=dict(resources=self.reserved)),
            ]
            self.stage = "destroying"
        elif self.stage == "destroying" and not reserved and not volumes:
            self.say("GONE", agent=offer["agent_id"]["value"])
            self.stage = "gone"
        if operations:
            driver.acceptOffers([offer["id"]], operations, dict(refuse_seconds=0))
        else:
            driver.declineOffer([offer["id"]], dict(refuse_seconds=0.5))

    def operation(self, kind, **body):
        identity = dict(id=dict(value=kind.lower())) if self.args.feedback else {}
        return dict(type=kind, **identity, **body)

    def launch(self, offer, task_id, command):
        task = dict(name=task_id, task_id=dict(value=task_id), agent_id=offer["agent_id"],
                    command=dict(value=command), resources=self.reserved[:2] + [self.volume])
        return dict(type="LAUNCH", launch=dict(task_infos=[task]))

    def statusUpdate(self, driver, status):
        with self.lock:
            task, state = status["task_id"]["value"], status["state"]
            self.say("UPDATE", task=task, state=state, message=status.get("message"), reason=status.get("reason"))
            self.states[task] = state
            after = {"writer": ("writing", "written"), "reader": ("reading", "destroy")}[task]
            if state == "TASK_FINISHED" and self.stage == after[0]:
                self.say({"writer": "WRITTEN", "reader": "READ"}[task])
                self.stage = after[1]
            elif state in ("TASK_FAILED", "TASK_ERROR", "TASK_LOST", "TASK_DROPPED", "TASK_GONE", "TASK_KILLED"):
                self.problem = f"{task} is {state}: {status.get('message')}"
            self.attempt(driver.acknowledgeStatusUpdate, status)
            self.changed.notify_all()

    def operationStatusUpdate(self, driver, status):
        with self.lock:
            name, state = status.get("operation_id", {}).get("value"), status["state"]
            self.say("OPERATION", operation=name, state=state, message=status.get("message"))
            self.operations[name] = state
            if state != "OPERATION_FINISHED":
                self.problem = f"operation {name} is {state}: {status.get('message')}"
            # The library passes on what it is given: the call wants the uuid's bytes.
            self.attempt(driver.acknowledgeOperationStatusUpdate, dict(
                agent_id=status["agent_id"], operation_id=status["operation_id"], uuid=status["uuid"]["value"]))
            self.changed.notify_all()

    def work(self, driver):
        deadline = time.monotonic() + self.args.timeout
        wanted = {"reserve", "create", "destroy", "unreserve"} if self.args.feedback else set()
        with self.lock:
            while not (self.stage == "gone" and wanted <= set(self.operations)):
                if self.problem:
                    return
                if time.monotonic() > deadline:
                    self.problem = f"waited in vain: {self.stage}, {self.operations}"
                    return
                if self.stage == "written" and (not self.args.gate or os.path.exists(self.args.gate)):
                    self.stage = "read"
                self.changed.wait(0.1)


def main():
    args = options()
    framework = Framework(args)
    capabilities = [dict(type=kind) for kind in ("MULTI_ROLE", "RESERVATION_REFINEMENT")]
    info = dict(name="pymesos-stateful", principal="stateful", roles=[args.role], capabilities=capabilities)
    sys.exit(framework.run(info, lambda: dict(
        stage=framework.stage, states=framework.states, operations=framework.operations)))


if __name__ == "__main__":
    main()
