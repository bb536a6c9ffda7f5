#!/usr/bin/env python3
"""A framework on the unmodified pymesos library that keeps services running in several roles: what ends is started
again, wherever there is room, until a file says that it is enough.

Prints (or writes to --output) one JSON object for each event of interest, then a summary. Exit code 0 only if all went
as it should.
"""

import argparse
import os
import sys
import time

from pymesos_common import Client

TERMINAL = {
    "TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_ERROR", "TASK_LOST",
    "TASK_DROPPED", "TASK_GONE", "TASK_GONE_BY_OPERATOR",
}


def options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masters", default="127.0.0.1:5050", help="HOST:PORT,...: the first; others when it is lost")
    parser.add_argument("--roles", default="web,batch")
    parser.add_argument("--wanted", type=int, default=3, help="services in each role")
    parser.add_argument("--cpus", type=float, default=0.5)
    parser.add_argument("--mem", type=float, default=32.0)
    parser.add_argument("--gate", required=True, help="it ends once this file is there")
    parser.add_argument("--timeout", type=float, default=240.0, help="seconds until it gives up")
    parser.add_argument("--output", help="file for the lines, instead of stdout")
    return parser.parse_args()


class Framework(Client):
    def __init__(self, args):
        super().__init__(args)
        self.roles = args.roles.split(",")
        self.services = {}  # Task id to (role, agent, state, when it was launched).
        self.number = 0
        self.most = {role: 0 for role in self.roles}
        self.reasons = {}

    def held(self, role):
        return sum(1 for of, _, state, _ in self.services.values() if of == role and state not in TERMINAL)

    def running(self, role):
        return sum(1 for of, _, state, _ in self.services.values() if of == role and state == "TASK_RUNNING")

    def answer(self, driver, offer):
        role, agent = offer["allocation_info"]["role"], offer["agent_id"]["value"]
        have = {}
        for resource in offer["resources"]:
            have[resource["name"]] = have.get(resource["name"], 0.0) + resource.get("scalar", {}).get("value", 0.0)
        room = min(int(have.get("cpus", 0.0) / self.args.cpus + 1e-6), int(have.get("mem", 0.0) / self.args.mem))
        count = min(room, self.args.wanted - self.held(role))
        if count <= 0:
            driver.declineOffer([offer["id"]], dict(refuse_seconds=0.3))
            return
        tasks = []
        for _ in range(count):
            self.number += 1
            task_id = f"{role}-{self.number}"
            self.services[task_id] = (role, agent, None, time.monotonic())
            tasks.append(dict(
                name=task_id, task_id=dict(value=task_id), agent_id=offer["agent_id"],
                command=dict(value="exec sleep 1000"),
                resources=[dict(name="cpus", type="SCALAR", scalar=dict(value=self.args.cpus)),
                           dict(name="mem", type="SCALAR", scalar=dict(value=self.args.mem))]))
        self.say("ACCEPT", role=role, agent=agent, tasks=[task["name"] for task in tasks])
        driver.acceptOffers([offer["id"]], [dict(type="LAUNCH", launch=dict(task_infos=tasks))],
                            dict(refuse_seconds=0.3))

    def statusUpdate(self, driver, status):
        with self.lock:
            task, state, reason = status["task_id"]["value"], status["state"], status.get("reason")
            known = self.services.get(task)
            if known:
                role, agent, _, since = known
                self.services[task] = (role, agent, state, since)
                self.most[role] = max(self.most[role], self.running(role))
                if state in TERMINAL:
                    self.reasons[reason] = self.reasons.get(reason, 0) + 1
            self.say("UPDATE", task=task, state=state, reason=reason, message=status.get("message"),
                     agent=known and known[1], running={role: self.running(role) for role in self.roles})
            self.attempt(driver.acknowledgeStatusUpdate, status)
            self.changed.notify_all()

    def work(self, driver):
        deadline, repeat = time.monotonic() + self.args.timeout, time.monotonic() + 3
        with self.lock:
            while not os.path.exists(self.args.gate):
                if self.problem:
                    return
                now = time.monotonic()
                if now > deadline:
                    self.problem = "waited in vain for the gate"
                    return
                if now > repeat:
                    # An ACCEPT, or an update's acknowledgement, may have been lost with a master.
                    silent = [dict(task_id=dict(value=task)) for task, (_, _, state, since) in self.services.items()
                              if state is None and now - since > 5]
                    if silent:
                        self.attempt(driver.reconcileTasks, silent)
                    self.attempt(driver.reviveOffers)
                    repeat = now + 3
                self.changed.wait(0.1)


def main():
    args = options()
    framework = Framework(args)
    capabilities = [dict(type=kind) for kind in ("MULTI_ROLE", "RESERVATION_REFINEMENT", "PARTITION_AWARE")]
    info = dict(name="pymesos-services", roles=framework.roles, capabilities=capabilities)
    sys.exit(framework.run(info, lambda: dict(
        most=framework.most, reasons=framework.reasons, launched=framework.number)))


if __name__ == "__main__":
    main()
