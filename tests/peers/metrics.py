"""Parses what `/metrics` says with Prometheus' own Python client, and prints it as JSON.

    metrics.py prometheus|openmetrics < TEXT
"""

import json
import sys

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

parse = {"prometheus": parser, "openmetrics": openmetrics}[sys.argv[1]].text_string_to_metric_families
samples = []
kinds = {}
for family in parse(sys.stdin.buffer.read().decode("utf-8")):
    kinds[family.name] = family.type
    for name, labels, value, *_ in family.samples:
        # The bound of a bucket is a number, and may be written as 1 or 1.0.
        labels = {key: str(float(text)) if key == "le" else text for key, text in labels.items()}
        samples.append([name, labels, value])
json.dump({"kinds": kinds, "samples": samples}, sys.stdout)
