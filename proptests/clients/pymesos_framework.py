#!/usr/bin/env python3
"""A framework on the unmodified pymesos library: launches short tasks and long ones, sees every state of each,
reconciles, kills the long ones, tears itself down.

Prints (or writes to --output) one JSON object for each event of interest, then a summary. Exit code 0 only if all
went as it should.
"""

import argparse
import json
import logging
import sys
import threading
import time

from pymesos import MesosSchedulerDriver, Scheduler

import tunnel

TERMINAL = {
    "TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_ERROR", "TASK_LOST",
    "TASK_DROPPED", "TASK_GONE", "TASK_GONE_BY_OPERATOR",
}
CPUS, MEM = 0.1, 32.0


def options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masters", default="127.0.0.1:5050", help="HOST:PORT,...: the first; others when it is lost")
    parser.add_argument("--tasks", type=int, default=200, help="short tasks that must finish")
    parser.add_argument("--long", type=int, default=5, help="long tasks that are killed in the end")
    parser.add_argument("--command", default="true", help="of a short task; {id} stands for its id")
    parser.add_argument("--per_offer", type=int, default=25, help="how many tasks to put on one offer")
    parser.add_argument("--checkpoint", action="store_true")
    parser.add_argument("--failover_timeout", type=float, default=3600.0)
    parser.add_argument("--framework_id", help="subscribe as this framework")
    parser.add_argument("--timeout", type=float, default=240.0, help="seconds until it gives up")
    parser.add_argument("--ca", help="speak TLS to masters whose certificates this file's authority signed")
    parser.add_argument("--principal", help="who it is, to masters that ask")
    parser.add_argument("--secret", help="the principal's secret")
    parser.add_argument("--output", help="file for the lines, instead of stdout")
    return parser.parse_args()


class Task:
    def __init__(self, task_id, command):
        self.id = task_id
        self.command = command
        self.states = []  # As they came, without what was delivered again.
        self.launched_at = None
        self.killed_at = 0.0
        self.agent = None

    @property
    def state(self):
        return self.states[-1] if self.states else None

    @property
    def over(self):
        return self.state in TERMINAL


class Framework(Scheduler):
    def __init__(self, args, output):
        self.args = args
        self.output = output
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.masters = args.masters.split(",")
        if args.ca:
            self.masters = [tunnel.through(master, args.ca) for master in self.masters]
        self.target = self.masters[0]
        self.short = [Task(f"short-{n}", args.command.replace("{id}", f"short-{n}")) for n in range(args.tasks)]
        self.long = [Task(f"long-{n}", "sleep 1000") for n in range(args.long)]
        self.tasks = {task.id: task for task in self.short + self.long}
        self.waiting = list(self.long + self.short)
        self.uuids = set()
        self.reconciled = {}
        self.count = dict(updates=0, duplicates=0, relaunched=0, ends_after_the_end=0, subscribed=0)
        self.error_message = None

    def say(self, event, **fields):
        print(json.dumps(dict(event=event, **fields)), file=self.output, flush=True)

    # What the library calls, on its own thread. A failed call must not escape: the library would end.

    def registered(self, driver, framework_id, master_info):
        with self.lock:
            self.count["subscribed"] += 1
            self.say("SUBSCRIBED", framework_id=framework_id["value"], master=driver.master,
                     version=master_info.get("version"))
            self.changed.notify_all()

    def reregistered(self, driver, master_info):
        with self.lock:
            self.count["subscribed"] += 1
            self.say("SUBSCRIBED", framework_id=driver.framework_id, master=driver.master, again=True)
            open_tasks = [dict(task_id=dict(value=task.id)) for task in self.tasks.values()
                          if task.launched_at and not task.over]
            if open_tasks:
                self.attempt("RECONCILE", driver.reconcileTasks, open_tasks)
            self.changed.notify_all()

    def disconnected(self, driver):
        with self.lock:
            self.say("DISCONNECTED", master=driver.master)
            # While a change is under way the library closes what it had: that is no loss.
            if driver.master == self.target and len(self.masters) > 1:
                place = self.masters.index(self.target)
                self.target = self.masters[(place + 1) % len(self.masters)]
                driver.change_master(self.target)

    def resourceOffers(self, driver, offers):
        with self.lock:
            for offer in offers:
                self.answer(driver, offer)

    def answer(self, driver, offer):
        have = {}
        for resource in offer["resources"]:
            if "scalar" in resource:
                have[resource["name"]] = have.get(resource["name"], 0.0) + resource["scalar"]["value"]
        room = min(int(have.get("cpus", 0) / CPUS + 1e-6), int(have.get("mem", 0) / MEM), self.args.per_offer)
        batch, self.waiting = self.waiting[:room], self.waiting[room:]
        if not batch:
            refuse = 0.5 if self.waiting else 2.0
            self.attempt("DECLINE", driver.declineOffer, offer["id"], dict(refuse_seconds=refuse))
            return
        for task in batch:
            task.launched_at = time.monotonic()
            task.agent = offer["agent_id"]
        self.say("ACCEPT", tasks=len(batch), agent=offer["agent_id"]["value"], scheme=offer["url"]["scheme"])
        self.attempt("ACCEPT", driver.launchTasks, offer["id"], [self.info(task) for task in batch],
                     dict(refuse_seconds=0.1))

    def info(self, task):
        return dict(
            name=task.id,
            task_id=dict(value=task.id),
            agent_id=task.agent,
            command=dict(value=task.command),
            resources=[
                dict(name="cpus", type="SCALAR", scalar=dict(value=CPUS)),
                dict(name="mem", type="SCALAR", scalar=dict(value=MEM)),
            ],
        )

    def statusUpdate(self, driver, status):
        with self.lock:
            self.take(driver, status)
            self.attempt("ACKNOWLEDGE", driver.acknowledgeStatusUpdate, status)
            self.changed.notify_all()

    def take(self, driver, status):
        task_id, state, reason = status["task_id"]["value"], status["state"], status.get("reason")
        uuid = status.get("uuid")
        self.say("UPDATE", task=task_id, state=state, reason=reason, uuid=uuid, message=status.get("message"))
        if reason == "REASON_RECONCILIATION":
            self.reconciled.setdefault(task_id, []).append(state)
        task = self.tasks.get(task_id)
        if task is None:
            return
        if reason in ("REASON_RECONCILIATION", "REASON_INVALID_OFFERS") and state == "TASK_LOST":
            # It was never started: its ACCEPT was lost with a master, or came after its offer's end.
            if not task.states and task.launched_at:
                self.count["relaunched"] += 1
                task.launched_at = None
                self.waiting.append(task)
                self.attempt("REVIVE", driver.reviveOffers)
            return
        if uuid is None:
            return
        if uuid in self.uuids:
            self.count["duplicates"] += 1
            return
        self.uuids.add(uuid)
        self.count["updates"] += 1
        if task.over:
            self.count["ends_after_the_end"] += 1
        task.states.append(state)

    def error(self, driver, message):
        with self.lock:
            self.say("ERROR", message=message)
            self.error_message = message
            self.changed.notify_all()

    def offerRescinded(self, driver, offer_id):
        self.say("RESCIND", offer=offer_id["value"])

    def slaveLost(self, driver, agent_id):
        self.say("FAILURE", agent=agent_id["value"])

    def executorLost(self, driver, executor_id, agent_id, status):
        self.say("FAILURE", agent=agent_id["value"], executor=executor_id["value"], status=status)

    def processHeartBeat(self, driver):
        pass

    # What the main thread does.

    def attempt(self, name, call, *arguments):
        try:
            call(*arguments)
        except Exception as problem:  # The stream's end follows, or the call is made again.
            self.say("CALL_FAILED", call=name, problem=str(problem)[:300])

    def until(self, what, deadline, done, again=None):
        """Waits for `done`; calls `again` every 3 s meanwhile, for calls that a dying master may have lost."""
        repeat = time.monotonic() + 3
        with self.lock:
            while not done():
                now = time.monotonic()
                if self.error_message:
                    raise SystemExit(f"the master said: {self.error_message}")
                if now > deadline:
                    raise SystemExit(f"waited in vain for {what}")
                if again and now > repeat:
                    again()
                    repeat = now + 3
                self.changed.wait(0.2)

    def reconcile_silent(self, driver):
        """Tasks without any update for a while after their ACCEPT: it may have been lost."""
        now = time.monotonic()
        silent = [dict(task_id=dict(value=task.id)) for task in self.tasks.values()
                  if task.launched_at and not task.states and now - task.launched_at > 5]
        if silent:
            self.attempt("RECONCILE", driver.reconcileTasks, silent)

    def work(self, driver):
        deadline = time.monotonic() + self.args.timeout
        self.until("all short tasks to end and all long ones to run", deadline,
                   lambda: all(task.over for task in self.short)
                   and all(task.state == "TASK_RUNNING" or task.over for task in self.long),
                   lambda: self.reconcile_silent(driver))

        # Implicit: all that is known. Explicit: what is named, known or not.
        for name, tasks, expected in (
            ("implicit", [], {task.id: "TASK_RUNNING" for task in self.long}),
            ("explicit", [dict(task_id=dict(value=task.id)) for task in self.long]
             + [dict(task_id=dict(value="nosuch"))],
             {**{task.id: "TASK_RUNNING" for task in self.long}, "nosuch": "TASK_LOST"}),
        ):
            with self.lock:
                self.reconciled = {}
            ask = lambda: self.attempt("RECONCILE", driver.reconcileTasks, tasks)
            ask()
            self.until(f"{name} reconciliation", deadline,
                       lambda: all(state in self.reconciled.get(task, []) for task, state in expected.items()), ask)
            self.say("RECONCILED", how=name, tasks=len(expected))

        def kill():
            for task in self.long:
                if not task.over:
                    self.attempt("KILL", driver.killTask, dict(value=task.id))
        kill()
        self.until("all long tasks to be killed", deadline, lambda: all(task.over for task in self.long), kill)

    def summary(self, torn_down):
        every = list(self.tasks.values())
        ended = lambda state: sum(1 for task in every if task.state == state)
        full = ["TASK_STARTING", "TASK_RUNNING"]
        return dict(
            self.count,
            event="SUMMARY",
            finished=ended("TASK_FINISHED"),
            failed=ended("TASK_FAILED"),
            killed=ended("TASK_KILLED"),
            lost=ended("TASK_LOST"),
            # Tasks of which an update never came, or came out of order.
            incomplete=[task.id for task in every if task.states[:2] != full or len(task.states) != 3],
            torn_down=torn_down,
        )


def main():
    args = options()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    output = open(args.output, "w") if args.output else sys.stdout
    framework = Framework(args, output)
    info = dict(user="root", name="pymesos", failover_timeout=args.failover_timeout, checkpoint=args.checkpoint)
    if args.framework_id:
        info["id"] = dict(value=args.framework_id)
    if args.principal:
        info["principal"] = args.principal
    driver = MesosSchedulerDriver(framework, info, framework.masters[0], use_addict=True,
                                  implicit_acknowledgements=False, principal=args.principal, secret=args.secret)
    driver.start()
    problem = None
    try:
        framework.work(driver)
    except SystemExit as gave_up:
        problem = str(gave_up)
    except KeyboardInterrupt:  # How the library says that its thread has ended.
        problem = "the library gave up"
    driver.stop()
    driver.join()
    # The library forgets the id once TEARDOWN was accepted.
    summary = framework.summary(torn_down=driver.framework_id is None)
    well = (
        problem is None
        and summary["finished"] == args.tasks
        and summary["killed"] == args.long
        and not summary["incomplete"]
        and summary["ends_after_the_end"] == 0
        and summary["torn_down"]
    )
    print(json.dumps(dict(summary, problem=problem, well=well)), file=output, flush=True)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
