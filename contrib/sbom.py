#!/usr/bin/env python3
"""Prints the SBOM of hs100d, a CycloneDX 1.5 document.

    contrib/sbom.py [--target TRIPLE] [--features LIST] [--no-default-features] [--debian FILE...] > hs100d.cdx.json

`--debian` adds the Debian packages of a container image: the files of its /var/lib/dpkg/status.d.

Made from Cargo.lock and `cargo metadata --locked`, which contacts only the registry of crates, and only for crates that are
not cached. The same tree gives the same document, byte for byte: it contains no time, and its serial number is derived from
its content.
"""

import argparse
import hashlib
import json
import pathlib
import subprocess
import tomllib
import urllib.parse
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description="The SBOM of hs100d, CycloneDX 1.5.")
    parser.add_argument("--target", default="x86_64-unknown-linux-gnu")
    parser.add_argument("--features")
    parser.add_argument("--no-default-features", action="store_true")
    parser.add_argument("--debian", nargs="+", default=[], metavar="FILE", type=pathlib.Path)
    options = parser.parse_args()
    metadata = cargo_metadata(options)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    # Our own crates are parts of the program. No registry has them, so nothing can look them up.
    ours = set(metadata["workspace_members"])
    shipped = reach(nodes, packages, root, {None}, through_macros=False)
    built_with = reach(nodes, packages, root, {None, "build"}, through_macros=True)
    checksums = locked()
    rows = [(root, built_with & ours)] + [(one, {one}) for one in built_with - ours]
    debian = sorted((debian_component(file) for file in options.debian), key=lambda one: one["bom-ref"])
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": component(packages[root], "application", "required", checksums),
            "properties": [
                {"name": "hs100d:target", "value": options.target},
                {"name": "hs100d:features", "value": " ".join(sorted(nodes[root]["features"]))},
            ],
        },
        "components": [
            component(packages[one], "library", "required" if one in shipped else "excluded", checksums)
            for one in sorted(built_with - ours, key=lambda one: ref(packages[one]))
        ] + debian,
        "dependencies": [
            {
                "ref": ref(packages[one]),
                "dependsOn": sorted({ref(packages[to]) for to in outside(nodes, parts, ours)})
                + [package["bom-ref"] for package in debian if one == root],
            }
            for one, parts in sorted(rows, key=lambda row: ref(packages[row[0]]))
        ],
    }
    content = json.dumps(document, sort_keys=True).encode()
    serial = uuid.UUID(bytes=hashlib.sha256(content).digest()[:16], version=5)
    print(json.dumps({"serialNumber": f"urn:uuid:{serial}", **document}, indent=2))


def cargo_metadata(options):
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", options.target]
    if options.features:
        command += ["--features", options.features]
    if options.no_default_features:
        command.append("--no-default-features")
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def needs(node, kinds):
    """What a crate needs in these ways; None is the ordinary one, as cargo has it. Tests are none of them."""
    return [dep["pkg"] for dep in node["deps"] if any(kind["kind"] in kinds for kind in dep["dep_kinds"])]


def outside(nodes, parts, ours):
    """What these crates need of others than our own."""
    return {to for part in parts for to in needs(nodes[part], {None, "build"})} - ours


def reach(nodes, packages, root, kinds, through_macros):
    """All that is needed by what is needed. What a macro is made of runs in the compiler and is not shipped."""
    found, ahead = set(), [root]
    while ahead:
        one = ahead.pop()
        is_macro = any("proc-macro" in target["kind"] for target in packages[one]["targets"])
        if one in found or (is_macro and not through_macros):
            continue
        found.add(one)
        ahead += needs(nodes[one], kinds)
    return found


def locked():
    """The checksum of each crate. All of them come from one registry, or their names would not tell them apart."""
    with open(ROOT / "Cargo.lock", "rb") as lock:
        rows = [row for row in tomllib.load(lock)["package"] if "source" in row]
    if len({row["source"] for row in rows}) > 1:
        raise SystemExit("Cargo.lock names more than one source")
    return {(row["name"], row["version"]): row["checksum"] for row in rows}


def ref(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, kind, scope, checksums):
    made = {
        "type": kind,
        "bom-ref": ref(package),
        "name": package["name"],
        "version": package["version"],
        "scope": scope,
        # Some older crates write a slash where SPDX has OR.
        "licenses": [{"expression": package["license"].replace("/", " OR ")}],
        "purl": ref(package),
    }
    if package["description"]:
        made["description"] = " ".join(package["description"].split())
    checksum = checksums.get((package["name"], package["version"]))
    if checksum:
        made["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package["repository"]:
        made["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return made


def debian_component(file):
    """A Debian package, from its paragraph in the form of /var/lib/dpkg/status."""
    lines = file.read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(": ", 1) for line in lines if ": " in line and not line.startswith(" "))
    try:
        name, version, processor = (fields[key] for key in ("Package", "Version", "Architecture"))
    except KeyError as missing:
        raise SystemExit(f"{file}: not a paragraph of dpkg's status: it has no {missing}")
    purl = f"pkg:deb/debian/{name}@{urllib.parse.quote(version, safe='')}?arch={processor}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "scope": "required",
        "purl": purl,
        "description": fields.get("Description", ""),
    }


if __name__ == "__main__":
    main()
