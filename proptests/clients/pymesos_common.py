"""What the smaller frameworks on the unmodified pymesos library share: lines of JSON, a master when the one before is lost,
and an error that ends the work."""

import json
import sys
import threading

from pymesos import MesosSchedulerDriver, Scheduler


class Client(Scheduler):
    def __init__(self, args):
        self.args = args
        self.output = open(args.output, "w") if args.output else sys.stdout
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.masters = args.masters.split(",")
        self.target = self.masters[0]
        self.problem = None

    def say(self, event, **fields):
        print(json.dumps(dict(event=event, **fields)), file=self.output, flush=True)

    # What the library calls, on its own thread. A failed call must not escape: the library would end.

    def attempt(self, call, *arguments):
        try:
            call(*arguments)
        except Exception as problem:  # The stream's end follows, or what was to be said comes again.
            self.say("CALL_FAILED", problem=str(problem)[:300])

    def registered(self, driver, framework_id, master_info):
        self.say("SUBSCRIBED", framework_id=framework_id["value"], master=driver.master)

    def reregistered(self, driver, master_info):
        self.say("SUBSCRIBED", framework_id=driver.framework_id, master=driver.master, again=True)

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
                self.attempt(self.answer, driver, offer)
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

    def run(self, info, summary):
        """Subscribes, works, tears down, says what came of it; the exit code."""
        driver = MesosSchedulerDriver(self, dict(user="root", failover_timeout=3600.0, **info), self.masters[0],
                                      use_addict=True, implicit_acknowledgements=False)
        driver.start()
        self.work(driver)
        driver.stop()
        driver.join()
        well = self.problem is None
        self.say("SUMMARY", **summary(), problem=self.problem, well=well)
        return 0 if well else 1
