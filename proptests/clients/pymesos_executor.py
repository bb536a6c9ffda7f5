#!/usr/bin/env python3
"""An executor on the unmodified pymesos library. A task says in its data what becomes of it: "finish" ends at once,
everything else runs until it is killed. A message is sent back, behind "echo:"; "die" ends the process with exit code 3.
"""

import os

from pymesos import Executor, MesosExecutorDriver, decode_data, encode_data


class Echo(Executor):
    def say(self, driver, task_id, state):
        driver.sendStatusUpdate(dict(task_id=task_id, state=state))

    def registered(self, driver, executor_info, framework_info, agent_info):
        print("registered", executor_info["executor_id"]["value"], agent_info["id"]["value"], flush=True)

    def reregistered(self, driver, agent_info):
        print("reregistered", agent_info["id"]["value"], flush=True)

    def launchTask(self, driver, task):
        self.say(driver, task["task_id"], "TASK_RUNNING")
        if decode_data(task.get("data", "")) == b"finish":
            self.say(driver, task["task_id"], "TASK_FINISHED")

    def launchTaskGroup(self, driver, tasks):
        for task in tasks:
            self.launchTask(driver, task)

    def killTask(self, driver, task_id):
        self.say(driver, task_id, "TASK_KILLED")

    def frameworkMessage(self, driver, message):
        if decode_data(message) == b"die":
            os._exit(3)
        driver.sendFrameworkMessage(encode_data(b"echo:" + decode_data(message)))

    def shutdown(self, driver):
        print("shutdown", flush=True)


if __name__ == "__main__":
    driver = MesosExecutorDriver(Echo())
    driver.run()
