"""A client of the cloud that others wrote: tplink-cloud-api of PyPI, 4.2.1.

Reads its instructions from standard input, so that the password is in no process list:
{"url", "username", "password", "terminal", "alias"}. Logs in, lists, switches the plug of that name on and off, reads
it after each, and prints the results as one line of JSON.
"""

import asyncio
import json
import sys

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
    devices = [device.get_alias() for device in await account.get_devices()]
    plug = await account.find_device(task["alias"])
    states = [await plug.is_on()]
    await plug.power_on()
    states.append(await plug.is_on())
    await plug.power_off()
    states.append(await plug.is_on())
    print(json.dumps({"devices": devices, "states": states}))


asyncio.run(main())
