"""Asks a master or an agent everything that its OpenAPI description says, and much that it does not.

usage: schemathesis_run.py URL EXAMPLES

Exits with 1 if an answer is 500, or a connection is hung up on without an answer. Prints how much was asked, and what came of it.
"""

import collections
import json
import sys

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings

URL, EXAMPLES = sys.argv[1], int(sys.argv[2])
# Their answers are streams, or last until something ends.
ENDLESS = {
    "SUBSCRIBE", "ATTACH_CONTAINER_INPUT", "ATTACH_CONTAINER_OUTPUT", "LAUNCH_NESTED_CONTAINER_SESSION",
    "WAIT_CONTAINER", "WAIT_NESTED_CONTAINER",
}
# What a handler of JSON does not care about, and what takes long to make.
MODES = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]

document = requests.get(f"{URL}/help/openapi.json", timeout=10).json()
calls = 0
for path in document["paths"].values():
    body = path.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    if "oneOf" in body:
        body["oneOf"] = [call for call in body["oneOf"] if call["title"] not in ENDLESS]
        calls = max(calls, len(body["oneOf"]))

schema = schemathesis.openapi.from_dict(document)
schema.config.update(base_url=URL)
statuses, failures = collections.Counter(), []


def ask(case):
    try:
        answer = case.call(base_url=URL, timeout=5, allow_redirects=False)
    except requests.exceptions.ReadTimeout:
        statuses["endless"] += 1
        return
    except (requests.exceptions.InvalidHeader, requests.exceptions.InvalidURL, UnicodeError):
        # It cannot even be sent.
        statuses["unsent"] += 1
        return
    except requests.exceptions.ConnectionError as error:
        statuses["hung up"] += 1
        failures.append((case.as_curl_command()[:2000], f"no answer: {error}"))
        return
    statuses[answer.status_code] += 1
    if answer.status_code == 500:
        failures.append((case.as_curl_command()[:2000], answer.text[:300]))


for found in schema.get_all_operations():
    operation = found.ok()
    is_call = operation.path.startswith("/api/v1")
    for mode in MODES:
        examples = EXAMPLES * (max(calls // 2, 1) if is_call else 1)
        strategy = operation.as_strategy(generation_mode=mode)
        check = settings(
            max_examples=examples, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )(seed(17)(given(case=strategy)(lambda case: ask(case))))
        try:
            check()
        except Exception as error:  # Some operations have nothing that could be wrong.
            if type(error).__name__ not in ("Unsatisfiable", "SkipTest"):
                raise

print(json.dumps({"asked": sum(statuses.values()), "statuses": {str(name): count for name, count in sorted(statuses.items(), key=str)}}))
for request, answer in failures[:10]:
    print(f"{request}\n    {answer}", file=sys.stderr)
sys.exit(1 if failures or not statuses else 0)
