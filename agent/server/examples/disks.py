#!/usr/bin/env python3
"""A resource provider to try agents with: the folders of one folder are its disks.

    disks.py --agent=127.0.0.1:5051 --dir=/srv/disks [--size=64]

Each folder of --dir is a RAW disk of --size MB that CREATE_DISK makes a MOUNT disk, with the folder as its root, and
DESTROY_DISK a RAW one again, empty. What it is and has is kept in --dir/state.json, written before anything is said.
Needs nothing but Python's own library.
"""

import argparse
import base64
import http.client
import json
import os
import shutil
import sys
import time
import uuid

PATH = "/api/v1/resource_provider"
KIND = "org.meseta.examples.disks"
AT_ONCE = ("RESERVE", "UNRESERVE", "CREATE", "DESTROY")


def new_uuid():
    return {"value": base64.b64encode(uuid.uuid4().bytes).decode()}


class Provider:
    def __init__(self, agent, folder, size):
        self.agent, self.folder, self.size = agent, os.path.abspath(folder), size
        self.stream = None
        self.file = os.path.join(self.folder, "state.json")
        try:
            with open(self.file) as file:
                self.kept = json.load(file)
        except FileNotFoundError:
            self.kept = {"id": None, "version": new_uuid(), "disks": None, "operations": {}}

    def keep(self):
        with open(self.file + ".new", "w") as file:
            json.dump(self.kept, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.file + ".new", self.file)

    def raw(self, name):
        return {"name": "disk", "type": "SCALAR", "scalar": {"value": self.size}, "provider_id": {"value": self.kept["id"]},
                "disk": {"source": {"type": "RAW", "id": name, "profile": "folder"}}}

    def call(self, kind, body):
        call = {"type": kind, "resource_provider_id": {"value": self.kept["id"]}, kind.lower(): body}
        connection = http.client.HTTPConnection(self.agent, timeout=60)
        headers = {"Content-Type": "application/json", "Mesos-Stream-Id": self.stream}
        connection.request("POST", PATH, json.dumps(call), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        if answer.status != 202:
            raise ConnectionError(f"{kind}: {answer.status} {text}")

    def subscribe(self):
        """One subscription, until its stream ends."""
        info = {"type": KIND, "name": os.path.basename(self.folder)}
        if self.kept["id"]:
            info["id"] = {"value": self.kept["id"]}
        connection = http.client.HTTPConnection(self.agent)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        call = {"type": "SUBSCRIBE", "subscribe": {"resource_provider_info": info}}
        connection.request("POST", PATH, json.dumps(call), headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise ConnectionError(f"SUBSCRIBE: {answer.status} {answer.read().decode()}")
        self.stream = answer.headers["Mesos-Stream-Id"]
        while True:
            length = answer.readline()
            if not length:
                return
            self.hear(json.loads(answer.read(int(length))))

    def hear(self, event):
        kind = event["type"]
        print(kind, flush=True)
        body = event.get(kind.lower(), {})
        if kind == "SUBSCRIBED":
            self.subscribed(body["provider_id"]["value"])
        elif kind == "APPLY_OPERATION":
            self.apply(body)
        elif kind == "PUBLISH_RESOURCES":
            self.call("UPDATE_PUBLISH_RESOURCES_STATUS", {"uuid": body["uuid"], "status": "OK"})
        elif kind == "ACKNOWLEDGE_OPERATION_STATUS":
            self.kept["operations"].pop(body["operation_uuid"]["value"], None)
            self.keep()
        elif kind == "TEARDOWN":
            os.remove(self.file)
            sys.exit(0)

    def subscribed(self, provider_id):
        self.kept["id"] = provider_id
        if self.kept["disks"] is None:
            names = sorted(entry.name for entry in os.scandir(self.folder) if entry.is_dir())
            self.kept["disks"] = [self.raw(name) for name in names]
        self.keep()
        self.say()
        for operation in list(self.kept["operations"].values()):
            self.report(operation)

    def say(self):
        """What it has, and which operations it knows."""
        self.call("UPDATE_STATE", {"resource_version_uuid": self.kept["version"], "resources": self.kept["disks"],
                                   "operations": list(self.kept["operations"].values())})

    def report(self, operation):
        update = {"status": operation["latest_status"], "operation_uuid": operation["uuid"]}
        if "framework_id" in operation:
            update["framework_id"] = operation["framework_id"]
        self.call("UPDATE_OPERATION_STATUS", update)

    def apply(self, order):
        """Makes an operation so, once: what it was asked before it answers as it did then."""
        name = order["operation_uuid"]["value"]
        anew = False
        if name not in self.kept["operations"]:
            status = {"uuid": new_uuid(), "resource_provider_id": {"value": self.kept["id"]}}
            if order["resource_version_uuid"] != self.kept["version"]:
                status.update(state="OPERATION_DROPPED", message="It was decided for what this provider does not have")
            else:
                try:
                    converted = self.convert(order["info"])
                    status.update(state="OPERATION_FINISHED", converted_resources=converted)
                except (KeyError, ValueError, OSError) as problem:
                    status.update(state="OPERATION_FAILED", message=f"{type(problem).__name__}: {problem}")
                    # The masters took it for done, and may have made more of it.
                    anew = order["info"]["type"] in AT_ONCE
            operation = {"info": order["info"], "uuid": order["operation_uuid"], "latest_status": status, "statuses": [status]}
            if "framework_id" in order:
                operation["framework_id"] = order["framework_id"]
            self.kept["operations"][name] = operation
            if anew:
                self.kept["version"] = new_uuid()
            self.keep()
        self.report(self.kept["operations"][name])
        if anew:
            self.say()

    def convert(self, info):
        """What an operation makes of disks; nothing is kept if it raises."""
        kind = info["type"]
        body = info[kind.lower()]
        if kind == "CREATE_DISK":
            root = os.path.join(self.folder, body["source"]["disk"]["source"]["id"])
            if body["target_type"] != "MOUNT":
                raise ValueError(f"a {body['target_type']} disk cannot be made here")
            made = self.without_allocation(body["source"])
            made["disk"]["source"].update(type="MOUNT", mount={"root": root})
            self.exchange([body["source"]], [made])
            return [made]
        if kind == "DESTROY_DISK":
            source = self.without_allocation(body["source"])
            root = os.path.join(self.folder, source["disk"]["source"]["id"])
            made = self.without_allocation(source)
            made["disk"]["source"].pop("mount", None)
            made["disk"]["source"]["type"] = "RAW"
            self.exchange([source], [made])
            self.empty(root)
            return [made]
        if kind in ("RESERVE", "UNRESERVE"):
            reserved = [self.without_allocation(one) for one in body["resources"]]
            others = []
            for one in reserved:
                other = dict(one, reservations=one["reservations"][:-1])
                if not other["reservations"]:
                    del other["reservations"]
                others.append(other)
            self.exchange(*((others, reserved) if kind == "RESERVE" else (reserved, others)))
            return reserved if kind == "RESERVE" else others
        if kind in ("CREATE", "DESTROY"):
            volumes = [self.without_allocation(one) for one in body["volumes"]]
            plain = []
            for volume in volumes:
                disk = {key: value for key, value in volume["disk"].items() if key == "source"}
                one = dict(volume, disk=disk)
                one.pop("shared", None)
                plain.append(one)
            if kind == "DESTROY":
                self.exchange(volumes, plain)
                for one in plain:
                    self.empty(os.path.join(self.folder, one["disk"]["source"]["id"]))
                return plain
            self.exchange(plain, volumes)
            return volumes
        raise ValueError(f"{kind} is not known here")

    @staticmethod
    def without_allocation(resource):
        copy = json.loads(json.dumps(resource))
        copy.pop("allocation_info", None)
        for old in ("role", "reservation"):
            copy.pop(old, None)
        return copy

    def exchange(self, consumed, produced):
        disks = list(self.kept["disks"])
        for one in consumed:
            disks.remove(self.without_allocation(one))
        self.kept["disks"] = disks + produced

    @staticmethod
    def empty(root):
        for entry in os.scandir(root):
            shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.remove(entry.path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", required=True, help="HOST:PORT of the agent")
    parser.add_argument("--dir", required=True, help="the folder whose folders are disks")
    parser.add_argument("--size", type=float, default=64.0, help="of each disk, in MB")
    given = parser.parse_args()
    provider = Provider(given.agent, given.dir, given.size)
    while True:
        try:
            provider.subscribe()
        except (OSError, http.client.HTTPException, ValueError) as problem:
            print(f"again: {problem}", flush=True)
        time.sleep(0.2)


if __name__ == "__main__":
    main()
