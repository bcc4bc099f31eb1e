// A client of the cloud that others wrote: tplink-cloud-api of npm, 0.8.1.
//
//     node cloud.js        with NODE_PATH at the installed packages
//
// Reads its instructions from standard input, so that the password is in no process list:
// {"url", "username", "password", "terminal", "alias"}. Logs in, lists, switches the plug of that name on and off,
// reads it after each, and prints the results as one line of JSON.
"use strict";

const fs = require("node:fs");
const axios = require("axios");
const { login } = require("tplink-cloud-api");

const HOST = "https://wap.tplinkcloud.com"; // The package knows no other; the test's cloud stands in for it.

async function main() {
  const task = JSON.parse(fs.readFileSync(0, "utf8"));
  axios.interceptors.request.use((request) => {
    request.url = request.url.replace(HOST, task.url);
    return request;
  });
  const account = await login(task.username, task.password, task.terminal);
  const devices = (await account.getDeviceList()).map((device) => device.alias);
  const plug = account.getHS100(task.alias);
  const states = [await plug.getRelayState()];
  await plug.powerOn();
  states.push(await plug.getRelayState());
  await plug.powerOff();
  states.push(await plug.getRelayState());
  console.log(JSON.stringify({ devices, states: states.map((state) => state === 1) }));
}

main().catch((error) => {
  console.error(`cloud.js: ${error.message}`); // Not the error whole: axios puts the password into it.
  process.exit(1);
});
