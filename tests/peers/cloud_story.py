"""What both clients of the cloud do: list, then switch the plug of this name on and off, and read it before and after each.

Prints the results as one line of JSON.
"""

import json


async def play(account, alias):
    devices = [device.get_alias() for device in await account.get_devices()]
    plug = await account.find_device(alias)
    states = [await plug.is_on()]
    await plug.power_on()
    states.append(await plug.is_on())
    await plug.power_off()
    states.append(await plug.is_on())
    print(json.dumps({"devices": devices, "states": states}))
