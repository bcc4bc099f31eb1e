"""Reads discovery documents with Home Assistant's own code.

    homeassistant.py FOLDER < documents.json

FOLDER has Home Assistant's `const.py` and the `abbreviations.py`, `const.py`, `discovery.py` and `schemas.py` of its
MQTT integration. They cannot be imported without the rest of it, so only what expands a document is extracted: the
tables, the list of shared options and three functions. Standard input is an object of documents by topic; standard
output one of components by unique id, as Home Assistant hands them to its platforms.
"""

import ast
import json
import pathlib
import sys
import types

FUNCTIONS = [
    "_replace_abbreviations",
    "_replace_all_abbreviations",
    "_replace_component_abbreviations",
    "_replace_topic_base",
    "_merge_common_device_options",
]


def strings(path, found):
    """The string constants of a module, and other names for them."""
    for node in ast.parse(path.read_text()).body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        value = getattr(node, "value", None)
        text = found.get(value.id) if isinstance(value, ast.Name) else getattr(value, "value", None)
        if isinstance(text, str):
            found.update({target.id: text for target in targets if isinstance(target, ast.Name)})
    return found


def only(path, wanted):
    """The code of these functions and constants of a module, without its imports."""
    def is_wanted(node):
        if isinstance(node, ast.FunctionDef):
            return node.name in wanted
        targets = getattr(node, "targets", [])
        return any(isinstance(target, ast.Name) and target.id in wanted for target in targets)

    body = [node for node in ast.parse(path.read_text()).body if is_wanted(node)]
    for node in body:
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            node.decorator_list = []
            for argument in node.args.args:
                argument.annotation = None
    return compile(ast.Module(body, []), str(path), "exec")


def home_assistant(folder):
    names = strings(folder / "mqtt/const.py", strings(folder / "const.py", {}))
    ensure_list = lambda value: [] if value is None else value if isinstance(value, list) else [value]
    names["probatio"] = types.SimpleNamespace(EnsureList=lambda: ensure_list)
    exec((folder / "mqtt/abbreviations.py").read_text(), names)
    exec(only(folder / "mqtt/schemas.py", ["SHARED_OPTIONS"]), names)
    tables = ["ABBREVIATIONS_SET", "DEVICE_ABBREVIATIONS_SET", "ORIGIN_ABBREVIATIONS_SET", "TOPIC_BASE"]
    exec(only(folder / "mqtt/discovery.py", tables + FUNCTIONS), names)
    return types.SimpleNamespace(**names)


def components(ha, topic, document):
    """The components of a document, as `async_discovery_message_received` reads them."""
    ha._replace_all_abbreviations(document)
    platform = topic.split("/")[1]
    if platform != "device":
        document["platform"] = platform
        found = [document]
    else:
        found = list(document["components"].values())
        for component in found:
            component["device"] = document["device"]
            component["origin"] = document["origin"]
            ha._merge_common_device_options(component, document)
    for component in found:
        if ha.TOPIC_BASE in component:
            ha._replace_topic_base(component)
    return {component["unique_id"]: component for component in found}


def main():
    ha = home_assistant(pathlib.Path(sys.argv[1]))
    read = {}
    for topic, document in json.load(sys.stdin).items():
        read |= components(ha, topic, document)
    short = set(ha.ABBREVIATIONS) - set(ha.ABBREVIATIONS.values())
    for unique_id, component in read.items():
        left = short & set(component)
        assert not left, f"{unique_id}: {left} are not expanded"
    json.dump(read, sys.stdout)


main()
