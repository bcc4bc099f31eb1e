"""Reads YAML with PyYAML, as Home Assistant's Supervisor does, and prints it as JSON.

    read_yaml.py FILE
"""

import json
import sys

import yaml


class Reader(yaml.SafeLoader):
    """PyYAML takes the last of two equal keys without a word."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        if len(keys) != len(set(keys)):
            raise yaml.constructor.ConstructorError(None, None, f"a key stands twice among {keys}", node.start_mark)
        return super().construct_mapping(node, deep)


with open(sys.argv[1], "rb") as file:
    json.dump(yaml.load(file, Reader), sys.stdout)
