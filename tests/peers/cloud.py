"""A client of the cloud that others wrote: tplink-cloud-api of PyPI, 4.2.1.

Reads its instructions from standard input, so that the password is in no process list:
{"url", "username", "password", "terminal", "alias"}. Logs in, and does what cloud_story.py says.
"""

import asyncio
import json
import sys

import cloud_story
from tplinkcloud import TPLinkDeviceManager


async def main():
    task = json.load(sys.stdin)
    account = TPLinkDeviceManager(
        task["username"],
        task["password"],
        prefetch=False,
        term_id=task["terminal"],
        tplink_cloud_api_host=task["url"],
    )
    await cloud_story.play(account, task["alias"])


asyncio.run(main())
