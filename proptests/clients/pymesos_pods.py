#!/usr/bin/env python3
"""A framework on the unmodified pymesos library that launches groups of tasks through the default executor: one whose tasks
finish, one of which a task fails, one of which a task is killed.

Prints (or writes to --output) one JSON object for each event of interest, then a summary. Exit code 0 only if all went as it
should.
"""

import argparse
import sys
import time

from pymesos_common import Client

TERMINAL = {"TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_ERROR", "TASK_LOST", "TASK_DROPPED", "TASK_GONE"}
GROUPS = {
    "ends": {"ends-a": "true", "ends-b": "sleep 0.3"},
    "fails": {"fails-a": "sleep 0.3; exit 3", "fails-b": "sleep 1000"},
    "killed": {"killed-a": "sleep 1000", "killed-b": "sleep 1000"},
}
EXPECTED = {
    "ends-a": "TASK_FINISHED", "ends-b": "TASK_FINISHED",
    "fails-a": "TASK_FAILED", "fails-b": "TASK_KILLED",
    "killed-a": "TASK_KILLED", "killed-b": "TASK_KILLED",
}


def options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masters", default="127.0.0.1:5050", help="HOST:PORT,...: the first; others when it is lost")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds until it gives up")
    parser.add_argument("--output", help="file for the lines, instead of stdout")
    return parser.parse_args()


def scalar(name, value):
    return dict(name=name, type="SCALAR", scalar=dict(value=value))


class Pods(Client):
    def __init__(self, args):
        super().__init__(args)
        self.waiting = list(GROUPS)
        self.states = {task: [] for group in GROUPS.values() for task in group}
        self.executors = set()

    def answer(self, driver, offer):
        have = {one["name"]: one["scalar"]["value"] for one in offer["resources"] if "scalar" in one}
        if not self.waiting or have.get("cpus", 0) < 0.5 or have.get("mem", 0) < 100 or have.get("disk", 0) < 32:
            driver.declineOffer(offer["id"], dict(refuse_seconds=0.5))
            return
        name = self.waiting.pop(0)
        executor = dict(
            type="DEFAULT", executor_id=dict(value=name), framework_id=dict(value=driver.framework_id),
            resources=[scalar("cpus", 0.1), scalar("mem", 32.0), scalar("disk", 32.0)])
        tasks = [dict(name=task, task_id=dict(value=task), agent_id=offer["agent_id"],
                      command=dict(shell=True, value=command), resources=[scalar("cpus", 0.1), scalar("mem", 32.0)])
                 for task, command in GROUPS[name].items()]
        group = dict(type="LAUNCH_GROUP", launch_group=dict(executor=executor, task_group=dict(tasks=tasks)))
        driver.acceptOffers(offer["id"], [group], dict(refuse_seconds=0.1))
        self.say("ACCEPT", group=name)

    def statusUpdate(self, driver, status):
        with self.lock:
            task, state = status["task_id"]["value"], status["state"]
            self.say("UPDATE", task=task, state=state, message=status.get("message"))
            self.states[task].append(state)
            self.attempt(driver.acknowledgeStatusUpdate, status)
            if task == "killed-a" and state == "TASK_RUNNING":
                self.attempt(driver.killTask, status["task_id"])
            self.changed.notify_all()

    def executorLost(self, driver, executor_id, agent_id, status):
        with self.lock:
            self.executors.add(executor_id["value"])
            super().executorLost(driver, executor_id, agent_id, status)
            self.changed.notify_all()

    def done(self):
        return all(states and states[-1] in TERMINAL for states in self.states.values()) and \
            self.executors == set(GROUPS)

    def work(self, driver):
        end = time.monotonic() + self.args.timeout
        with self.lock:
            while not self.done() and self.problem is None:
                if not self.changed.wait(min(1.0, max(0.0, end - time.monotonic()))) and time.monotonic() > end:
                    self.problem = f"not over in time: {self.states}, ended {sorted(self.executors)}"
            for task, state in EXPECTED.items():
                if self.problem is None and self.states[task][:2] != ["TASK_STARTING", "TASK_RUNNING"]:
                    self.problem = f"{task} began with {self.states[task][:2]}"
                if self.problem is None and self.states[task][-1] != state:
                    self.problem = f"{task} ended as {self.states[task][-1]}"


def main():
    pods = Pods(options())
    return pods.run(dict(name="pods", role="*"), lambda: dict(states=pods.states))


if __name__ == "__main__":
    sys.exit(main())
