#!/usr/bin/env python3
"""A stateful framework on the unmodified pymesos library: in one ACCEPT it reserves, creates a volume and launches a task
that writes to it; when a file says so it launches another that reads it; then it destroys the volume and gives the
reservation back.

Prints (or writes to --output) one JSON object for each event of interest, then a summary. Exit code 0 only if all went
as it should.
"""

import argparse
import json
import os
import sys
import threading
import time

from pymesos import MesosSchedulerDriver, Scheduler

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


class Framework(Scheduler):
    """Its stage says what the next offer is for: write, written, read, destroy, gone."""

    def __init__(self, args, output):
        self.args, self.output = args, output
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.masters = args.masters.split(",")
        self.target = self.masters[0]
        self.stage = "write"
        self.states = {}
        self.operations = {}
        self.problem = None
        reservation = dict(type="DYNAMIC", role=args.role, principal="stateful")
        self.reserved = [scalar(name, value, reservations=[reservation])
                         for name, value in (("cpus", 0.2), ("mem", 32.0), ("disk", 16.0))]
        self.volume = dict(self.reserved[2], disk=dict(
            persistence=dict(id=VOLUME, principal="stateful"),
            volume=dict(mode="RW", container_path=VOLUME)))

    def say(self, event, **fields):
        print(json.dumps(dict(event=event, **fields)), file=self.output, flush=True)

    # What the library calls, on its own thread.

    def registered(self, driver, framework_id, master_info):
        self.say("SUBSCRIBED", framework_id=framework_id["value"], master=driver.master)

    def reregistered(self, driver, master_info):
        self.say("SUBSCRIBED", framework_id=driver.framework_id, master=driver.master, again=True)

    def disconnected(self, driver):
        with self.lock:
            self.say("DISCONNECTED", master=driver.master)
            if driver.master == self.target and len(self.masters) > 1:
                place = self.masters.index(self.target)
                self.target = self.masters[(place + 1) % len(self.masters)]
                driver.change_master(self.target)

    def resourceOffers(self, driver, offers):
        with self.lock:
            for offer in offers:
                try:
                    self.answer(driver, offer)
                except Exception as problem:  # The stream's end follows, or the offer comes again.
                    self.say("CALL_FAILED", problem=str(problem)[:300])
            self.changed.notify_all()

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
            try:
                driver.acknowledgeStatusUpdate(status)
            except Exception as problem:  # It comes again.
                self.say("CALL_FAILED", problem=str(problem)[:300])
            self.changed.notify_all()

    def operationStatusUpdate(self, driver, status):
        with self.lock:
            name, state = status.get("operation_id", {}).get("value"), status["state"]
            self.say("OPERATION", operation=name, state=state, message=status.get("message"))
            self.operations[name] = state
            if state != "OPERATION_FINISHED":
                self.problem = f"operation {name} is {state}: {status.get('message')}"
            # The library passes on what it is given: the call wants the uuid's bytes.
            driver.acknowledgeOperationStatusUpdate(dict(
                agent_id=status["agent_id"], operation_id=status["operation_id"], uuid=status["uuid"]["value"]))
            self.changed.notify_all()

    def error(self, driver, message):
        with self.lock:
            self.problem = f"the master said: {message}"
            self.changed.notify_all()

    def offerRescinded(self, driver, offer_id):
        self.say("RESCIND", offer=offer_id["value"])

    def slaveLost(self, driver, agent_id):
        self.say("FAILURE", agent=agent_id["value"])

    def executorLost(self, driver, executor_id, agent_id, status):
        self.say("FAILURE", agent=agent_id["value"], executor=executor_id["value"], status=status)

    def processHeartBeat(self, driver):
        pass

    def work(self):
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
    output = open(args.output, "w") if args.output else sys.stdout
    framework = Framework(args, output)
    capabilities = [dict(type=kind) for kind in ("MULTI_ROLE", "RESERVATION_REFINEMENT")]
    info = dict(user="root", name="pymesos-stateful", principal="stateful", roles=[args.role],
                capabilities=capabilities, failover_timeout=3600.0)
    driver = MesosSchedulerDriver(framework, info, framework.masters[0], use_addict=True,
                                  implicit_acknowledgements=False)
    driver.start()
    framework.work()
    driver.stop()
    driver.join()
    well = framework.problem is None
    framework.say("SUMMARY", stage=framework.stage, states=framework.states, operations=framework.operations,
                  problem=framework.problem, well=well)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
