"""Signs as a client does that others wrote: tplink-cloud-api of PyPI, 5.2.1, whose signing.py is the first argument.

Reads one request from standard input: {"path", "body", "authorization", "access_key", "secret_key"}. Prints the two headers
that the client computes for it with the nonce in `authorization`, as a line of JSON.
"""

import importlib.util
import json
import re
import sys
import uuid

spec = importlib.util.spec_from_file_location("signing", sys.argv[1])
signing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(signing)

request = json.load(sys.stdin)
nonce = uuid.UUID(re.search(r"Nonce=([0-9a-f-]+)", request["authorization"]).group(1))
signing.uuid.uuid4 = lambda: nonce
md5, authorization = signing.compute_signature(
    request["body"], request["path"], request["access_key"], request["secret_key"]
)
print(json.dumps({"md5": md5, "authorization": authorization}))
