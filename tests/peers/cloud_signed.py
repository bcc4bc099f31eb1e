"""A client of the cloud's second interface that others wrote: tplink-cloud-api of PyPI, 5.2.1.

Its folder is the first argument. Reads its instructions from standard input, as cloud.py does, with "access_key" and
"secret_key" as well, which take the place of its own keys. Does and prints the same.
"""

import asyncio
import json
import sys

sys.path.insert(0, sys.argv[1])

import cloud_story
from tplinkcloud import TPLinkDeviceManager, client, device_client

task = json.load(sys.stdin)
for module in (client, device_client):
    module.KASA_ACCESS_KEY = task["access_key"]
    module.KASA_SECRET_KEY = task["secret_key"]


async def main():
    account = TPLinkDeviceManager(
        task["username"],
        task["password"],
        prefetch=False,
        term_id=task["terminal"],
        tplink_cloud_api_host=task["url"],
        include_tapo=False,
    )
    await cloud_story.play(account, task["alias"])


asyncio.run(main())
